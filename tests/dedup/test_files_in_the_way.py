"""Deduplication by files where the inputs change or are many, and where its work folder is in the way."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from ptool.dedup import columns
from ptool.dedup import files as files_module
from ptool.dedup.files import FilesPlan
from ptool.dedup.run import Deduplication, dedup_folder, dedup_stream
from ptool.errors import DamagedInput, OutputError, TooManyRejected, UsageError
from ptool.formats.ledger import ErrorPolicy
from ptool.formats.stages import StreamOptions
from tests.dedup.shards import TEXTS, Stop, lines_of, work, write_shards


def test_an_input_that_changed_between_two_attempts_is_described_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_shards(tmp_path / "in", TEXTS, 3, 50)
    plan, out = FilesPlan(folder=tmp_path / "work"), tmp_path / "out.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(files_module, "_remove", lambda *_: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            dedup_stream(work(), inputs, out, files=plan)
    Path(inputs[0]).write_bytes(zstandard.compress(b'{"text":"something else"}\n'))
    dedup_stream(work(), inputs, out, files=plan)
    dedup_stream(work(), inputs, tmp_path / "expected.jsonl")
    assert out.read_bytes() == (tmp_path / "expected.jsonl").read_bytes()


def test_an_input_that_changes_while_it_is_deduplicated_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_shards(tmp_path / "in", TEXTS, 3, 50)
    remove = files_module._remove

    def change_first(*arguments: Any) -> None:
        Path(inputs[1]).write_bytes(zstandard.compress(b'{"text":"something else"}\n'))
        remove(*arguments)

    monkeypatch.setattr(files_module, "_remove", change_first)
    with pytest.raises(DamagedInput, match=r"part-1.*changed while"):
        dedup_stream(work(), inputs, tmp_path / "out.jsonl", files=FilesPlan())
    assert not (tmp_path / "out.jsonl").exists()


def test_an_input_that_is_empty_when_it_is_read_again_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_shards(tmp_path / "in", TEXTS, 3, 50)
    remove = files_module._remove

    def empty_some(*arguments: Any) -> None:
        for position in (0, 2):
            Path(inputs[position]).write_bytes(b"")
        remove(*arguments)

    monkeypatch.setattr(files_module, "_remove", empty_some)
    options = StreamOptions(allow_empty=True)
    with pytest.raises(DamagedInput, match=r"part-0.*changed while"):
        dedup_stream(Deduplication(options=options), inputs, tmp_path / "out.jsonl", files=FilesPlan())
    assert not (tmp_path / "out.jsonl").exists()


def test_a_pipe_is_refused_where_the_inputs_are_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe can be read once"):
        dedup_stream(work(), [str(tmp_path / "pipe")], tmp_path / "out.jsonl", files=FilesPlan())


def test_inputs_may_be_more_than_the_files_a_process_may_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_MOST_MAPPED", 3)
    inputs = write_shards(tmp_path / "in", TEXTS, 60, 50)
    expected = tmp_path / "expected.jsonl"
    dedup_stream(work(), inputs, expected)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 30, before[1]))
    try:
        plan = FilesPlan(partitions=40, clusters=tmp_path / "clusters.jsonl")
        dedup_stream(work(tmp_path / "rejects.jsonl"), inputs, tmp_path / "out.jsonl", files=plan)
        dedup_stream(work(prefer="longest"), inputs, tmp_path / "longest.jsonl", files=FilesPlan())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (tmp_path / "out.jsonl").read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("compress", [True, False])
def test_outputs_may_be_more_than_the_files_a_process_may_open(tmp_path: Path, compress: bool) -> None:
    inputs = write_shards(tmp_path / "in", TEXTS, 60, 50)
    options = StreamOptions(compress=compress)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 20, before[1]))
    try:
        report = dedup_folder(Deduplication(options=options), inputs, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    names = [entry.path for entry in report.manifest.files]
    assert len(names) == 60
    dedup_stream(work(), inputs, tmp_path / "expected.jsonl")
    suffix = "jsonl.zst" if compress else "jsonl"
    found = [line for number in range(60) for line in lines_of(tmp_path / "out" / f"part-{number}.{suffix}")]
    assert found == lines_of(tmp_path / "expected.jsonl")


@pytest.mark.parametrize("option", ["save_index", "clusters"])
def test_what_is_written_last_is_refused_first(tmp_path: Path, option: str) -> None:
    inputs = write_shards(tmp_path / "in", ["a", "b"], 1, 50)
    before = Path(inputs[0]).read_bytes()
    for path, message in ((Path(inputs[0]), "is also input"), (tmp_path / "no" / "folder", "no such folder")):
        chosen = msgspec.structs.replace(work(), save_index=path) if option == "save_index" else work()
        plan = FilesPlan(clusters=path) if option == "clusters" else None
        with pytest.raises(UsageError, match=message):
            dedup_stream(chosen, inputs, tmp_path / "out.jsonl", files=plan)
    assert Path(inputs[0]).read_bytes() == before
    assert not (tmp_path / "out.jsonl").exists()


def test_a_work_folder_of_other_work_is_refused(tmp_path: Path) -> None:
    inputs = write_shards(tmp_path / "in", ["a", "b"], 1, 50)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine").touch()
    with pytest.raises(UsageError, match="other files"):
        dedup_stream(work(), inputs, tmp_path / "out.jsonl", files=FilesPlan(folder=tmp_path / "work"))
    (tmp_path / "work" / "mine").unlink()
    (tmp_path / "work" / "work.json").write_bytes(b'{"work":"another"}')
    with pytest.raises(UsageError, match="other work"):
        dedup_stream(work(), inputs, tmp_path / "out.jsonl", files=FilesPlan(folder=tmp_path / "work"))


def test_a_work_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    inputs = write_shards(tmp_path / "in", ["a", "b"], 1, 50)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        dedup_stream(work(), inputs, tmp_path / "out.jsonl", files=FilesPlan(folder=tmp_path / "file" / "w"))


def test_finished_work_with_too_many_rejected_lines_leaves_no_work_folder(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text":"a"}\nbad\n')
    given = Deduplication(options=StreamOptions(policy=ErrorPolicy(on_error="reject", max_errors=0)))
    with pytest.raises(TooManyRejected):
        dedup_stream(given, [tmp_path / "in.jsonl"], tmp_path / "out.jsonl", files=FilesPlan(folder=tmp_path / "work"))
    assert not (tmp_path / "work").exists()
