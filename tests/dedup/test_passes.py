"""Repeated lines, paragraphs and n-grams: beside plain Python, for any jobs, with a filter that knows its errors."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.dedup.bloom import BloomFilter, word_of
from ptool.dedup.config import DedupConfig
from ptool.dedup.passes import PassConfig, run_pass
from ptool.dedup.units import as_texts, cut, find_units
from ptool.dedup.work import Deduplication
from ptool.errors import UsageError
from ptool.formats.ledger import ErrorPolicy
from ptool.formats.stages import StreamOptions
from ptool.formats.streams import StreamReader
from ptool.text.batch import Batch
from tests.dedup.reference import mutated_texts

lined_texts = st.lists(
    st.lists(st.sampled_from(["a", " b ", "", "\t", "深圳", "c\r", "long line here"]), max_size=8).map("\n".join),
    min_size=1,
    max_size=12,
)


def plain_lines(text: str) -> list[str]:
    return [line.strip(" \t\r") for line in text.split("\n") if line.strip(" \t\r")]


def plain_paragraphs(text: str) -> list[str]:
    found, lines = [], []
    for line in [*text.split("\n"), ""]:
        if line.strip(" \t\r"):
            lines.append(line)
        elif lines:
            found.append("\n".join(lines).strip(" \t\r"))
            lines = []
    return found


@given(lined_texts)
def test_units_are_lines_or_runs_of_lines_that_are_not_blank(texts: list[str]) -> None:
    batch = Batch.from_texts(texts)
    for unit, plain in (("line", plain_lines), ("paragraph", plain_paragraphs)):
        units = find_units(batch.text, batch.offsets, unit)  # type: ignore[arg-type]
        joined, offsets = as_texts(batch.text, units)
        found = [joined[start:end].tobytes().decode() for start, end in pairwise(offsets)]
        assert found == [one for text in texts for one in plain(text)]
        assert np.diff(units.doc_offsets).tolist() == [len(plain(text)) for text in texts]


@given(lined_texts, st.integers(0, 2**16))
def test_cutting_leaves_the_other_units_and_names_every_byte_that_goes(texts: list[str], seed: int) -> None:
    batch = Batch.from_texts(texts)
    units = find_units(batch.text, batch.offsets, "line")
    gone = np.random.default_rng(seed).random(len(units.starts)) < 0.5
    for document, text in enumerate(texts):
        found = cut(batch.text, batch.offsets, units, gone, document)
        part = slice(*units.doc_offsets[document : document + 2].tolist())
        expected = [line for line, goes in zip(plain_lines(text), gone[part].tolist(), strict=True) if not goes]
        assert plain_lines(found.left.decode()) == expected
        assert found.is_empty == (not expected)
        raw = bytearray(text.encode())
        for start, end in reversed(found.spans):
            del raw[start:end]
        assert bytes(raw) == found.left
        assert all(first[1] < second[0] for first, second in zip(found.spans, found.spans[1:], strict=False))


DOCUMENTS = [
    {"id": "a", "text": "Menu\n\nFirst story.\nIts end.\n\nCopyright", "x": [1.50]},
    {"id": "b", "text": "Menu\n\nSecond story.\n\nCopyright"},
    {"id": "c", "text": "Menu\nCopyright"},
    {"id": "d", "text": "Third story.\nIts end."},
]


def deduplicated(tmp_path: Path, config: PassConfig, documents: list[dict[str, Any]], jobs: int = 1) -> dict[str, Any]:
    source, out = tmp_path / "in.jsonl", tmp_path / f"out{jobs}.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in documents))
    rejects, removed = tmp_path / f"rejects{jobs}.jsonl", tmp_path / f"removed{jobs}.jsonl"
    work = Deduplication(options=StreamOptions(policy=ErrorPolicy(rejects=rejects), force=True), jobs=jobs)
    report = run_pass(work, config, [str(source)], out, removed=removed)
    return {
        "kept": lines_of(out),
        "rejects": lines_of(rejects),
        "removed": lines_of(removed),
        "manifest": report.manifest,
        "bytes": out.read_bytes(),
    }


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for lines in StreamReader([path], allow_empty=True) for line in lines.data.splitlines()]


def test_repeated_lines_are_cut_out_and_what_has_no_other_line_is_dropped(tmp_path: Path) -> None:
    found = deduplicated(tmp_path, PassConfig(unit="line"), DOCUMENTS)
    assert [(one["id"], one["text"]) for one in found["kept"]] == [
        ("a", DOCUMENTS[0]["text"]),
        ("b", "Second story.\n\n"),
        ("d", "Third story.\n"),
    ]
    assert found["bytes"].startswith(b'{"id": "a", "text": "Menu\\n\\nFirst')  # an untouched line keeps its bytes
    (dropped,) = found["rejects"]
    assert (dropped["id"], dropped["ptool"]["rule"], dropped["text"]) == ("c", "repeated-lines", "Menu\nCopyright")
    assert [one["id"] for one in found["removed"]] == ["b", "c", "d"]
    assert found["removed"][0]["spans"] == [[0, 6], [21, 30]]
    counts, details = found["manifest"].counts, found["manifest"].details
    assert (counts.read, counts.kept, counts.dropped_by) == (4, 3, {"repeated-lines": 1})
    assert details == {"edited": 2, "removed_spans": 4, "removed_bytes": 15 + 14 + 8}


@pytest.mark.parametrize("name", ["xxh3", "sha256"])
def test_repeated_paragraphs_are_cut_out_by_either_hash(tmp_path: Path, name: Any) -> None:
    found = deduplicated(tmp_path, PassConfig(unit="paragraph", hash=name), DOCUMENTS)
    assert [one["text"] for one in found["kept"]] == [
        DOCUMENTS[0]["text"],
        "Second story.\n\n",
        "Menu\nCopyright",
        "Third story.\nIts end.",
    ]


def test_near_duplicate_paragraphs_are_cut_out(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(200)]
    documents = [
        {"id": "a", "text": "head\n\n" + " ".join(words)},
        {"id": "b", "text": "other\n\n" + " ".join([*words[:-1], "changed"]) + "\n\nlast"},
    ]
    found = deduplicated(tmp_path, PassConfig(unit="paragraph", near=DedupConfig()), documents)
    assert [one["text"] for one in found["kept"]] == [documents[0]["text"], "other\n\nlast"]


@pytest.mark.parametrize(
    "config",
    [{"unit": "line"}, {"unit": "line", "error_rate": 0.001}, {"unit": "ngram", "error_rate": 0.001, "ngram": 3}],
)
def test_the_result_is_the_same_for_any_number_of_jobs(
    tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from functools import partial

    monkeypatch.setattr("ptool.formats.stages.StreamReader", partial(StreamReader, batch_bytes=2000))
    texts = [
        text.replace(" ", "\n") if number % 2 else text
        for number, text in enumerate(mutated_texts(3, num_families=30, copies=5))
    ]
    documents = [{"text": text} for text in texts]
    found = [deduplicated(tmp_path, PassConfig(**config), documents, jobs)["bytes"] for jobs in (1, 3)]
    assert found[0] == found[1]


def test_documents_of_n_grams_seen_before_are_dropped(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(100)]
    texts = [" ".join(words), " ".join([*words, "end"]), " ".join(reversed(words)), "short one", "short one"]
    config = PassConfig(unit="ngram", ngram=13, error_rate=1e-6)
    found = deduplicated(tmp_path, config, [{"text": text} for text in texts])
    assert [one["text"] for one in found["kept"]] == [texts[0], texts[2], texts[3]]
    assert [one["ptool"]["rule"] for one in found["rejects"]] == ["seen-ngrams", "seen-ngrams"]
    assert found["rejects"][0]["ptool"]["value"] == pytest.approx(88 / 89)


@pytest.mark.parametrize(("count", "rate"), [(20_000, 0.01), (5000, 0.2), (1000, 0.0001)])
def test_a_full_filter_errs_as_often_as_it_reports_and_never_forgets(count: int, rate: float) -> None:
    generator = np.random.default_rng(0)
    bloom = BloomFilter(count, rate, seed=3)
    items = generator.integers(0, 2**64, count, dtype=np.uint64)
    first = bloom.see(items)
    assert bloom.see(items).all()
    others = generator.integers(0, 2**64, 200_000, dtype=np.uint64)
    measured = bloom.drop_seen(others, np.arange(len(others) + 1), -1.0).mean()  # asks without adding
    report = bloom.report()
    assert report["bloom_fill"] == pytest.approx(0.5, abs=0.05)
    assert report["bloom_error_rate"] == pytest.approx(rate, rel=0.35)
    assert measured == pytest.approx(report["bloom_error_rate"], rel=0.3, abs=1e-4)
    assert first.mean() < rate


@pytest.mark.parametrize("num_words", [1, 3, 150_000, 2**32 - 1, 2**32, 2**32 + 12_345, 3 * 2**33, 2**40 + 7])
def test_probes_look_at_all_words_of_filters_of_any_size(num_words: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**64, 4000, dtype=np.uint64)
    values[:2] = 0, 2**64 - 1
    places = np.array([word_of(value, np.uint64(num_words)) for value in values])
    exact = np.array([int(value) * num_words >> 64 for value in values])
    assert (np.abs(places - exact) <= 2).all()
    assert places.min() == 0
    assert places.max() == num_words - 1 if num_words < 100 else places.max() > 0.99 * num_words
    assert places.max() < num_words


def test_the_same_seed_gives_the_same_false_alarms_and_another_one_others() -> None:
    items = np.random.default_rng(0).integers(0, 2**64, 3000, dtype=np.uint64)
    seen = [BloomFilter(500, 0.3, seed).see(items).tolist() for seed in (1, 1, 2)]
    assert seen[0] == seen[1] != seen[2]


def test_a_filter_over_a_stream_needs_its_size(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--expected-items"):
        run_pass(Deduplication(), PassConfig(unit="line", error_rate=0.01), [], tmp_path / "out")


@pytest.mark.parametrize(
    "config",
    [{"unit": "ngram"}, {"near": DedupConfig(), "error_rate": 0.1}, {"max_seen": 2.0}, {"ngram": 0}],
)
def test_passes_that_make_no_sense_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PassConfig(**config)
