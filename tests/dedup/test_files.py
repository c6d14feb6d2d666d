"""The file mode: the bytes of a stream, whatever the jobs, partitions, frames and kills; and what else it decides."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ptool.dedup import files as files_module
from ptool.dedup.config import DedupConfig
from ptool.dedup.files import FilesPlan
from ptool.dedup.resolver import IndexTooLarge
from ptool.dedup.run import Deduplication, dedup_folder, dedup_stream
from ptool.errors import BadDocument, UsageError
from tests.dedup.reference import dedup_texts, shingle_set
from tests.dedup.shards import TEXTS, Stop, lines_of, work, write_shards


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"mode": "exact"},
        {"verify": "signature"},
        {"verify": "none"},
        {"max_bucket": 2, "threshold": 0.5},
        {"normalize": True, "shingle": "char", "ngram": 9},
        {"scheme": "datatrove", "bands": 14, "rows": 8, "verify": "signature"},
    ],
    ids=str,
)
def test_streaming_and_files_give_the_same_bytes_for_any_jobs_partitions_and_frames(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    found = []
    for number, (plan, jobs, lines_per_frame) in enumerate(
        [
            (None, 1, 1000),
            (None, 2, 7),
            (FilesPlan(folder=tmp_path / "w0"), 1, 1000),
            (FilesPlan(folder=tmp_path / "w1", partitions=5), 2, 13),
            (FilesPlan(partitions=1), 2, 1),
        ]
    ):
        inputs = write_shards(tmp_path / f"in{number}", TEXTS, 3, lines_per_frame)
        out, rejects = tmp_path / f"out{number}.jsonl.zst", tmp_path / f"rejects{number}.jsonl.zst"
        dedup_stream(work(rejects, jobs=jobs, **config), inputs, out, files=plan)
        found.append((out.read_bytes(), rejects.read_bytes()))
    assert len(set(found)) == 1
    assert 0 < len(lines_of(out)) < len(TEXTS)
    assert not (tmp_path / "w0").exists()  # the work folder goes when the work is done


def test_the_number_of_files_changes_nothing_about_what_is_kept(tmp_path: Path) -> None:
    kept = []
    for num_files in (1, 4, 9):
        inputs = write_shards(tmp_path / f"in{num_files}", TEXTS, num_files, 100)
        out = tmp_path / f"out{num_files}.jsonl"
        dedup_stream(work(), inputs, out, files=FilesPlan())
        kept.append(out.read_bytes())
    assert len(set(kept)) == 1
    assert [one["text"] for one in lines_of(out)] == [TEXTS[i] for i in dedup_texts(TEXTS, DedupConfig()).kept]


def test_a_folder_of_outputs_is_the_same_by_files(tmp_path: Path) -> None:
    inputs = write_shards(tmp_path / "in", TEXTS, 3, 50)
    dedup_folder(work(), inputs, tmp_path / "a")
    dedup_folder(work(), inputs, tmp_path / "b", files=FilesPlan())
    names = [path.name for path in (tmp_path / "a").iterdir() if ".run." not in path.name]
    assert len(names) == 8  # three outputs with their manifests, plan and manifest
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_three_equal_lines_and_three_documents_of_one_id_are_told_apart_by_nothing_but_text(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    texts = ["same text", "same text", "same text", "a b c d e f", "g h i j k l", "m n o p q r"]
    path.write_text("".join(json.dumps({"id": "x", "text": text}) + "\n" for text in texts))
    dedup_stream(work(), [path], tmp_path / "out.jsonl", files=FilesPlan())
    assert [one["text"] for one in lines_of(tmp_path / "out.jsonl")] == ["same text", *texts[3:]]


def test_bad_lines_are_set_aside_or_stop_the_work_before_it_is_long(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text":"a"}\n{broken\n{"text":"a"}\n\n{"text":"b"}\n')
    with pytest.raises(BadDocument, match=r"in\.jsonl:2"):
        dedup_stream(work(), [path], tmp_path / "out.jsonl", files=FilesPlan())
    for name, plan in (("s", None), ("f", FilesPlan())):
        dedup_stream(work(tmp_path / f"{name}.rej", on_error="reject"), [path], tmp_path / name, files=plan)
    assert (tmp_path / "s").read_bytes() == (tmp_path / "f").read_bytes()
    assert (tmp_path / "s.rej").read_bytes() == (tmp_path / "f.rej").read_bytes()


def test_tasks_go_through_any_executor(tmp_path: Path) -> None:
    inputs = write_shards(tmp_path / "in", TEXTS, 3, 50)
    dedup_stream(work(), inputs, tmp_path / "a.jsonl")
    with ThreadPoolExecutor(2) as executor:
        given = Deduplication(executor=executor)
        dedup_stream(given, inputs, tmp_path / "b.jsonl", files=FilesPlan())
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.parametrize("after", ["described-00001", "shared-00000", "decided"])
def test_work_that_stopped_goes_on_with_what_is_missing(
    tmp_path: Path, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_shards(tmp_path / "in", TEXTS, 3, 50)
    dedup_stream(work(), inputs, tmp_path / "expected.jsonl.zst")
    plan = FilesPlan(folder=tmp_path / "work", partitions=2)
    out = tmp_path / "out.jsonl.zst"

    def stop(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(files_module, "_remove", stop)
        with pytest.raises(Stop):
            dedup_stream(work(), inputs, out, files=plan)
    assert not out.exists()
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    (tmp_path / "work" / after).unlink()
    with monkeypatch.context() as patched:
        patched.setattr(files_module, "_remove", stop)
        with pytest.raises(Stop):
            dedup_stream(work(), inputs, out, files=plan)
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    assert {name for name in there if there[name] != again[name]} == {after}
    dedup_stream(work(), inputs, out, files=plan)
    assert out.read_bytes() == (tmp_path / "expected.jsonl.zst").read_bytes()
    assert not (tmp_path / "work").exists()


def test_the_longest_or_the_preferred_source_is_kept_in_its_place(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(300)]
    documents = [
        {"id": "short", "source": "web", "text": " ".join(words)},
        {"id": "long", "source": "books", "text": " ".join([*words, "and", "more"])},
        {"id": "other", "source": "web", "text": "something else altogether here"},
        {"id": "copy", "source": "news", "text": " ".join(words)},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))

    def kept(prefer: str) -> list[str]:
        out = tmp_path / f"{prefer}.jsonl"
        dedup_stream(work(prefer=prefer), [tmp_path / "in.jsonl"], out)  # needs files, so it takes them
        return [one["id"] for one in lines_of(out)]

    assert kept("longest") == ["long", "other"]
    assert kept("source=news,books") == ["other", "copy"]
    assert kept("source=absent") == ["short", "other"]


def test_clusters_are_connected_components_and_their_first_document_is_kept(tmp_path: Path) -> None:
    config = DedupConfig(cluster=True, threshold=0.6, num_perm=128, bands=64, rows=2)
    inputs = write_shards(tmp_path / "in", TEXTS, 3, 50)
    dedup_stream(Deduplication(config=config), inputs, tmp_path / "out.jsonl")
    sets = [shingle_set(text, config) for text in TEXTS]
    first = list(range(len(TEXTS)))

    def root(one: int) -> int:
        while first[one] != one:
            one = first[one]
        return one

    for one in range(len(TEXTS)):
        for other in range(one):
            union = sets[one] | sets[other]
            similar = union and len(sets[one] & sets[other]) / len(union) >= 0.6
            if similar or TEXTS[one] == TEXTS[other]:
                low, high = sorted((root(one), root(other)))
                first[high] = low
    expected = [TEXTS[one] for one in range(len(TEXTS)) if root(one) == one]
    assert [one["text"] for one in lines_of(tmp_path / "out.jsonl")] == expected


def test_a_list_of_clusters_names_every_document_that_goes_once(tmp_path: Path) -> None:
    inputs = write_shards(tmp_path / "in", TEXTS, 3, 50)
    out, clusters = tmp_path / "out.jsonl", tmp_path / "clusters.jsonl"
    report = dedup_stream(work(tmp_path / "rejects"), inputs, out, files=FilesPlan(clusters=clusters))
    found = lines_of(clusters)
    assert report.manifest.counts is not None
    assert sum(len(one["dropped"]) for one in found) == report.manifest.counts.dropped
    twins = [(one["id"], one["ptool"]["twin"]) for one in lines_of(tmp_path / "rejects")]
    assert sorted(twins) == sorted((member["id"], one["kept"]) for one in found for member in one["dropped"])


def test_what_needs_all_documents_is_refused_for_stdin(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give files"):
        dedup_stream(work(prefer="longest"), [], tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match="give files"):
        dedup_stream(work(), ["-"], tmp_path / "out.jsonl", files=FilesPlan())


def test_an_index_too_large_by_files_keeps_what_is_done_and_does_not_advise_files(tmp_path: Path) -> None:
    inputs = write_shards(tmp_path / "in", TEXTS, 2, 50)
    small = Deduplication(max_memory=1000)
    out, plan = tmp_path / "out.jsonl", FilesPlan(folder=tmp_path / "work")
    with pytest.raises(IndexTooLarge, match="outgrows") as raised:
        dedup_stream(small, inputs, out, files=plan)
    assert raised.value.hint is not None
    assert "--plan" not in raised.value.hint
    assert (tmp_path / "work" / "described-00001").exists()
    dedup_stream(work(), inputs, out, files=plan)
    assert not (tmp_path / "work").exists()
