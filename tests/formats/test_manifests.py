"""Manifests: one encoding, and two laws by construction."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import DamagedInput
from ptool.formats.manifests import (
    MOST_ALIKE,
    Counts,
    Documents,
    FileEntry,
    Manifest,
    decode_manifest,
    encode_manifest,
    manifest_digest,
    new_manifest,
)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_counts_exist_only_where_nothing_is_lost(read: int, kept: int, dropped: int, rejected: int) -> None:
    def count() -> Counts:
        return Counts(read=read, kept=kept, dropped=dropped, rejected=rejected, dropped_by={"a": dropped})

    if read == kept + dropped + rejected:
        assert count().read == read
    else:
        with pytest.raises(ValueError, match="is not kept"):
            count()


def test_a_tampered_manifest_cannot_be_read() -> None:
    counts = Counts(read=3, kept=2, dropped=1, dropped_by={"a": 1})
    data = encode_manifest(new_manifest("filter", {}, counts=counts))
    assert decode_manifest(data, where="x").counts == counts
    for old, new in ((b'"read":3', b'"read":4'), (b'"a":1', b'"a":2'), (b'"stage"', b'"stages"')):
        with pytest.raises(DamagedInput, match="^x: not a ptool manifest"):
            decode_manifest(data.replace(old, new), where="x")


@pytest.mark.parametrize("path", ["/etc/passwd", "../a", "a/../../b", "", "a\0b"])
def test_a_file_outside_its_folder_cannot_be_listed(path: str) -> None:
    with pytest.raises(ValueError, match="leaves its folder"):
        FileEntry(path=path, size=1, digest="sha256:0")


def test_equal_work_has_equal_bytes_whatever_the_order_of_its_config() -> None:
    documents = Documents(digest="xxh3-128:0", num_documents=1, num_bytes=2)
    one = new_manifest("dedup", {"a": 1, "b": {"x": 1, "y": 2}}, documents_out=documents)
    two = new_manifest("dedup", {"b": {"y": 2, "x": 1}, "a": 1}, documents_out=documents)
    assert encode_manifest(one) == encode_manifest(two)
    assert manifest_digest(one) == manifest_digest(two)


def test_the_chain_of_upstream_manifests_survives() -> None:
    first = new_manifest("filter", {"rule": "a"})
    second = new_manifest("dedup", {}, upstream=[first])
    assert decode_manifest(encode_manifest(second), where="x").upstream[0].config == {"rule": "a"}
    assert msgspec.json.decode(encode_manifest(first)).keys() == {"schema", "stage", "version", "config"}


def stream(stage: str, number: int, upstream: list[Manifest], *, kept: int = 3, counts_of: int = 3) -> Manifest:
    """A stream of `kept` documents of a run that kept `counts_of`."""
    counts = Counts(read=counts_of + 2, kept=counts_of, dropped=2, dropped_by={"a": 2})
    out = Documents(digest=f"xxh3-128:{number}", num_documents=kept, num_bytes=10 * kept)
    came = Documents(digest=f"xxh3-128:{number if counts_of == kept else 0}", num_documents=counts_of + 2, num_bytes=9)
    return new_manifest(stage, {"x": 1}, counts=counts, documents_in=came, documents_out=out, upstream=upstream)


def test_a_chain_names_a_few_streams_one_by_one_and_a_crawl_as_one() -> None:
    few = [stream("filter", number, []) for number in range(MOST_ALIKE)]
    assert new_manifest("dedup", {}, upstream=few).upstream == few
    crawl = [stream("filter", number, []) for number in range(5000)]
    other = stream("tidy", 1, [])
    merged, kept = new_manifest("dedup", {}, upstream=[*crawl, other]).upstream
    assert kept == other
    assert merged.counts == Counts(read=25_000, kept=15_000, dropped=10_000, dropped_by={"a": 10_000})
    assert (merged.stage, merged.config, merged.details["merged"]) == ("filter", {"x": 1}, 5000)
    assert (merged.num_documents, merged.num_bytes) == (15_000, 150_000)
    assert merged != new_manifest("dedup", {}, upstream=[*crawl[::-1], other]).upstream[0], "others, or otherwise"


def test_the_many_outputs_of_one_run_count_once_and_keep_its_history() -> None:
    crawl = [stream("filter", number, []) for number in range(500)]
    outputs = [stream("dedup", number, crawl, kept=1, counts_of=500) for number in range(500)]
    assert len(encode_manifest(outputs[0])) < 2000, "each carries the history of all inputs"
    (merged,) = new_manifest("tokenize", {}, upstream=outputs).upstream
    assert merged.counts == Counts(read=502, kept=500, dropped=2, dropped_by={"a": 2})
    assert merged.num_documents == 500
    assert [(one.stage, one.details["merged"]) for one in merged.upstream] == [("filter", 500)]
    twice = new_manifest("tokenize", {}, upstream=[merged, *outputs]).upstream[0]
    assert twice.details["merged"] == 1000


def test_artefacts_are_never_merged() -> None:
    files = [FileEntry(path="rows.bin", size=1, digest="sha256:0")]
    packed = [new_manifest("pack", {}, files=files, num_tokens=number) for number in range(100)]
    assert new_manifest("train", {}, upstream=packed).upstream == packed
