"""Streams in, streams out: same bytes, stream order, nothing lost, the same answer however the work is cut."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zstandard

from ptool.dedup import run as run_module
from ptool.dedup.config import DedupConfig
from ptool.dedup.run import Deduplication, dedup_folder, dedup_stream, dedup_to
from ptool.errors import BadDocument, TooManyRejected, UsageError
from ptool.formats.ledger import ErrorPolicy
from ptool.formats.manifests import Manifest
from ptool.formats.stages import StreamOptions, read_manifest
from ptool.formats.streams import StreamReader
from tests.dedup.reference import dedup_texts, mutated_texts


def write(path: Path, documents: list[Any]) -> Path:
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in documents]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def lines_of(path: Path) -> list[bytes]:
    return b"".join(lines.data for lines in StreamReader([path], allow_empty=True)).splitlines()


def work(rejects: Path | None = None, **options: Any) -> Deduplication:
    policy = ErrorPolicy(
        rejects=rejects, on_error=options.pop("on_error", "fail"), max_errors=options.pop("max_errors", 0)
    )
    return Deduplication(
        config=DedupConfig(**options.pop("config", {})), options=StreamOptions(policy=policy), **options
    )


def check_conservation(manifest: Manifest, num_lines: int) -> None:
    counts = manifest.counts
    assert counts is not None
    assert counts.read == num_lines == counts.kept + counts.dropped + counts.rejected


def test_kept_lines_are_the_same_bytes_in_stream_order(tmp_path: Path) -> None:
    texts = mutated_texts(3, num_families=30, copies=5)
    documents = [f'{{ "text":{json.dumps(text)},  "id" : "d{i}","x":[1.50, null]}}' for i, text in enumerate(texts)]
    first, second = write(tmp_path / "a.jsonl", documents[:70]), write(tmp_path / "b b.jsonl", documents[70:])
    report = dedup_stream(work(), [first, second], tmp_path / "out.jsonl.zst")
    expected = dedup_texts(texts, DedupConfig())
    assert lines_of(tmp_path / "out.jsonl.zst") == [documents[i].encode() for i in expected.kept]
    assert report.manifest.details == expected.counters
    check_conservation(report.manifest, len(texts))


def test_every_dropped_line_names_its_twin_and_their_similarity(tmp_path: Path) -> None:
    texts = mutated_texts(4, num_families=20, copies=6)
    write(tmp_path / "in.jsonl", [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)])
    rejects = tmp_path / "rejects.jsonl"
    dedup_stream(work(rejects), [tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    outcome = dedup_texts(texts, DedupConfig())
    kept_ids = [f"d{i}" for i in outcome.kept]
    expected = [
        {
            "stage": "dedup",
            "rule": verdict.rule,
            "twin": kept_ids[verdict.twin],
            "similarity": verdict.similarity,
        }
        for verdict in outcome.verdicts
        if verdict.rule != "kept"
    ]
    found = [json.loads(line) for line in lines_of(rejects)]
    assert [one["ptool"] for one in found] == expected
    assert {one["rule"] for one in expected} == {"exact-duplicate", "near-duplicate"}
    dropped = [i for i, verdict in enumerate(outcome.verdicts) if verdict.rule != "kept"]
    assert [one["id"] for one in found] == [f"d{i}" for i in dropped]


@pytest.mark.parametrize("mode", ["exact", "minhash"])
def test_ids_decide_nothing(tmp_path: Path, mode: str) -> None:
    same = {"id": "same", "text": "one and the same text, three times over"}
    others = [{"id": "same", "text": f"{word} " * 9} for word in ("first", "second", "third")]
    write(tmp_path / "in.jsonl", [same, others[0], same, others[1], others[2], same])
    rejects = tmp_path / "rejects.jsonl"
    report = dedup_stream(work(rejects, config={"mode": mode}), [tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    assert [json.loads(line) for line in lines_of(tmp_path / "out.jsonl")] == [same, *others]
    assert report.manifest.counts is not None
    assert report.manifest.counts.dropped_by == {"exact-duplicate": 2}
    assert [json.loads(line)["ptool"]["twin"] for line in lines_of(rejects)] == ["same", "same"]


def test_documents_without_an_id_get_one_and_twins_are_named_by_it(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", [{"text": "kept"}, {"text": "other"}, {"text": "kept"}])
    rejects = tmp_path / "rejects.jsonl"
    dedup_stream(work(rejects), [tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    assert [json.loads(line)["id"] for line in lines_of(tmp_path / "out.jsonl")] == ["in.jsonl#1", "in.jsonl#2"]
    (dropped,) = map(json.loads, lines_of(rejects))
    assert (dropped["id"], dropped["ptool"]["twin"]) == ("in.jsonl#3", "in.jsonl#1")


@pytest.mark.parametrize("mode", ["exact", "minhash"])
def test_the_output_is_the_same_for_every_number_of_jobs_and_every_layout_of_frames(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = mutated_texts(7, num_families=60, copies=6)
    lines = [json.dumps({"id": str(number), "text": text}).encode() + b"\n" for number, text in enumerate(texts)]
    outputs, batches = [], set()
    for number, (jobs, lines_per_frame) in enumerate([(1, len(lines)), (2, 50), (1, 1), (3, 90)]):
        frames = [b"".join(lines[at : at + lines_per_frame]) for at in range(0, len(lines), lines_per_frame)]
        source = tmp_path / f"in{number}.zst"
        source.write_bytes(b"".join(zstandard.compress(frame) for frame in frames))
        reader = partial(StreamReader, batch_bytes=len(frames[0]))  # about a batch a frame
        monkeypatch.setattr("ptool.formats.stages.StreamReader", reader)
        batches.add(len(list(reader([source]))))
        out, rejects = tmp_path / f"out{number}.jsonl.zst", tmp_path / f"rejects{number}.jsonl.zst"
        dedup_stream(work(rejects, config={"mode": mode}, jobs=jobs), [source], out)
        outputs.append((out.read_bytes(), rejects.read_bytes()))
    assert len(set(outputs)) == 1
    assert len(batches) == len(outputs), "each time other ones"
    assert len(lines_of(out)) < len(lines)


def test_a_bad_line_stops_the_run_or_is_set_aside_in_stream_order(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", [{"text": "a b c"}, "{broken", {"text": "a b c"}, '{"no":"text"}', {"text": "d"}])
    out, rejects = tmp_path / "out.jsonl", tmp_path / "rejects.jsonl"
    with pytest.raises(BadDocument, match=r"in\.jsonl:2"):
        dedup_stream(work(rejects), [tmp_path / "in.jsonl"], out)
    assert not out.exists()
    assert not rejects.exists()
    with pytest.raises(TooManyRejected):
        dedup_stream(work(rejects, on_error="reject"), [tmp_path / "in.jsonl"], out)
    manifest = read_manifest(out)
    assert manifest is not None
    check_conservation(manifest, 5)
    reasons = [json.loads(line)["ptool"] for line in lines_of(rejects)]
    assert [one.get("rule", one.get("line")) for one in reasons] == [2, "exact-duplicate", 4]


def test_an_empty_stream_gives_an_empty_stream(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").touch()
    options = StreamOptions(allow_empty=True)
    report = dedup_stream(Deduplication(options=options), [tmp_path / "in.jsonl"], tmp_path / "out.jsonl.zst")
    check_conservation(report.manifest, 0)
    assert lines_of(tmp_path / "out.jsonl.zst") == []


def test_a_folder_has_an_output_for_each_input_and_one_index_for_all(tmp_path: Path) -> None:
    for name, words in (("a", "one two three"), ("b", "one two three"), ("c", "four")):
        write(tmp_path / f"{name}.jsonl", [{"id": name, "text": words}, {"id": name, "text": f"only in {name}"}])
    inputs = [str(tmp_path / f"{name}.jsonl") for name in "abc"]
    report = dedup_to(work(), inputs, f"{tmp_path}/out/")
    found = {
        name: [json.loads(line)["text"] for line in lines_of(tmp_path / f"out/{name}.jsonl.zst")] for name in "abc"
    }
    assert found == {"a": ["one two three", "only in a"], "b": ["only in b"], "c": ["four", "only in c"]}
    check_conservation(report.manifest, 6)
    assert report.manifest.num_documents == 5
    assert [entry.path for entry in report.manifest.files] == [f"{name}.jsonl.zst" for name in "abc"]
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if ".run." not in path.name}

    again = dedup_folder(work(), inputs, tmp_path / "out")
    assert again.up_to_date
    assert again.manifest == report.manifest
    assert (tmp_path / "out/manifest.json").read_bytes() == before["manifest.json"]
    (tmp_path / "out/b.jsonl.zst").unlink()  # as if killed between two renames
    (tmp_path / "out/manifest.json").unlink()
    dedup_folder(work(), inputs, tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if ".run." not in p.name} == before


def test_an_output_made_otherwise_is_refused_and_the_same_one_is_up_to_date(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", [{"text": "a"}]), tmp_path / "out.jsonl.zst"
    dedup_stream(work(), [source], out)
    assert dedup_stream(work(jobs=2), [source], out).up_to_date
    with pytest.raises(UsageError, match="made otherwise"):
        dedup_stream(work(config={"threshold": 0.7}), [source], out)


def test_rejects_are_a_file_also_for_a_folder(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": "a"}])
    (tmp_path / "rejects").mkdir()
    with pytest.raises(UsageError, match="--rejects is a folder"):
        dedup_stream(work(tmp_path / "rejects"), [source], tmp_path / "out.jsonl")


def test_ids_of_kept_documents_are_found_by_number() -> None:
    ids = run_module.KeptIds()
    ids.add(["a", "", "深圳"])
    ids.add(["\udce9.jsonl#1"])  # a file name that is no UTF-8
    assert [ids[number] for number in range(4)] == ["a", "", "深圳", "\\udce9.jsonl#1"]
