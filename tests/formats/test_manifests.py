"""Manifests: one encoding, and two laws by construction."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import DamagedInput
from ptool.formats.manifests import (
    Counts,
    Documents,
    FileEntry,
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
