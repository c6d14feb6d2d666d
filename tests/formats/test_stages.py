"""Everything around a stage's decisions: conservation, up to date or refused, and nothing after a failure."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from pathlib import Path

import pytest

from ptool.errors import BadDocument, DamagedInput, OutputError, TooManyRejected, UsageError
from ptool.formats import atomic, frames, stages
from ptool.formats.ledger import ErrorPolicy, splice
from ptool.formats.stages import StageReport, StreamOptions, TransformRun, read_manifest
from ptool.formats.streams import StreamReader, StreamWriter, labels

LINES = [f'{{"text":"{n}","id":"{n}"}}\n'.encode() for n in range(10)]


def run(
    inputs: list[Path],
    output: Path | list[Path] | None,
    *,
    rejects: Path | None = None,
    config: dict[str, object] | None = None,
    **options: object,
) -> StageReport:
    """A stage that keeps even numbers, drops odd ones, and takes "9" for no document."""
    policy = ErrorPolicy(on_error="reject", max_errors=5, rejects=rejects)
    settings = StreamOptions(**{"policy": policy, **options})  # type: ignore[arg-type]
    with TransformRun("filter", config or {"keep": "even"}, inputs, output, options=settings) as stage:
        if not stage.up_to_date:
            for lines in stage.lines():
                stage.at(lines)
                for number, line in enumerate(lines.data.splitlines(keepends=True), lines.first_number):
                    value = int(json.loads(line)["text"])
                    if value == 9:
                        stage.reject(line, path=lines.path, number=number, message="nine is no document")
                    elif value % 2:
                        stage.drop(line, {"rule": "odd", "value": value})
                    else:
                        stage.keep(line, 1)
        return stage.finish()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in 文.jsonl"
    path.write_bytes(b"".join(LINES))
    return path


def documents(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for lines in StreamReader([path]) for line in lines.data.splitlines()]


def test_every_document_is_kept_dropped_or_rejected(source: Path, tmp_path: Path) -> None:
    report = run([source], tmp_path / "out.jsonl.zst", rejects=tmp_path / "rejects.jsonl.zst")
    counts = report.manifest.counts
    assert counts is not None
    assert (counts.read, counts.kept, counts.dropped, counts.rejected) == (10, 5, 4, 1)
    assert [d["id"] for d in documents(tmp_path / "out.jsonl.zst")] == ["0", "2", "4", "6", "8"]
    rejects = documents(tmp_path / "rejects.jsonl.zst")
    assert rejects[0] == {"ptool": {"stage": "filter", "rule": "odd", "value": 1}, "text": "1", "id": "1"}
    assert rejects[-1]["ptool"] == {"stage": "filter", "reason": "nine is no document", "file": str(source), "line": 10}
    assert rejects[-1]["raw"] == LINES[9].decode().rstrip("\n")
    assert read_manifest(tmp_path / "out.jsonl.zst") == report.manifest


def test_a_second_run_is_up_to_date_and_touches_nothing(source: Path, tmp_path: Path) -> None:
    first = run([source], tmp_path / "out.zst")
    before = (tmp_path / "out.zst").stat()
    again = run([source], tmp_path / "out.zst")
    assert again.up_to_date
    assert again.manifest == first.manifest
    assert (tmp_path / "out.zst").stat() == before


@pytest.mark.parametrize("change", ["config", "input", "foreign output"])
def test_an_output_of_other_work_is_refused_without_force(source: Path, tmp_path: Path, change: str) -> None:
    output = tmp_path / "out.zst"
    run([source], output)
    config = {"keep": "odd"} if change == "config" else None
    if change == "input":
        source.write_bytes(b"".join(LINES[:4]))
    if change == "foreign output":
        output.write_bytes(b"somebody's\n")
    before = output.read_bytes()
    with pytest.raises(UsageError, match="--force"):
        run([source], output, config=config)
    assert output.read_bytes() == before
    assert not run([source], output, config=config, force=True).up_to_date


def test_no_output_stands_after_a_failure(source: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.zst"
    run([source], whole)
    source.write_bytes(whole.read_bytes()[:-20])
    for path in (whole, tmp_path / "whole.zst.run.json"):
        path.unlink()
    with pytest.raises(DamagedInput):
        run([source], tmp_path / "out.zst", rejects=tmp_path / "rejects.zst")
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name]


def test_what_went_to_a_pipe_before_a_failure_has_no_trailer(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = io.BytesIO()
    monkeypatch.setattr(stages, "stdout", lambda: pipe)
    source.write_bytes(b"".join(LINES) + b"{broken\n")
    with pytest.raises(ValueError, match="property name"):
        run([source], None)
    assert pipe.getvalue(), "the header goes out before anything is read"
    with pytest.raises(DamagedInput, match="upstream failed"):
        list(StreamReader(["-"], stdin=io.BytesIO(pipe.getvalue())))


def test_a_line_that_is_no_document_stops_the_run_by_default(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BadDocument, match=r"in 文.jsonl:10: nine is no document .*--on-error reject"):
        run([source], tmp_path / "out.zst", policy=ErrorPolicy())
    assert not (tmp_path / "out.zst").exists()


def test_too_many_rejected_lines_are_told_after_everything_is_written(source: Path, tmp_path: Path) -> None:
    with pytest.raises(TooManyRejected) as caught:
        run([source], tmp_path / "out.zst", policy=ErrorPolicy(on_error="reject", max_errors=0))
    assert caught.value.exit_code == 3
    assert len(documents(tmp_path / "out.zst")) == 5


def test_plain_output_has_its_manifest_beside_it_and_is_up_to_date_too(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    report = run([source], output)
    assert output.read_bytes() == b"".join(LINES[0:9:2])
    assert read_manifest(output) == report.manifest
    assert run([source], output).up_to_date


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.zst"])
@pytest.mark.parametrize("beside", [False, True])
def test_a_run_killed_at_any_rename_is_simply_run_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, beside: bool
) -> None:
    def run_until(renames: int, output: Path, rejects: Path) -> None:
        child = os.fork()
        if not child:
            seen = iter(range(renames))
            monkeypatch.setattr(atomic, "sync_folder", lambda _: next(seen, None) is None and os._exit(0))
            run([source], output, rejects=rejects, manifest_beside=beside)
            os._exit(0)
        os.waitpid(child, 0)

    for renames in range(5):
        folder = tmp_path / str(renames)
        folder.mkdir()
        run_until(renames, folder / name, folder / "rejects.jsonl.zst")
        run([source], folder / name, rejects=folder / "rejects.jsonl.zst", manifest_beside=beside)
        assert [int(str(one["id"])) for one in documents(folder / name)] == [0, 2, 4, 6, 8]


def test_one_output_for_each_input_holds_that_inputs_documents(tmp_path: Path) -> None:
    sources = []
    for number in range(3):
        path = tmp_path / f"in{number}.jsonl"
        path.write_bytes(b"".join(LINES[number * 3 : number * 3 + 3]))
        sources.append(path)
    outputs = [tmp_path / f"out{number}.zst" for number in range(3)]
    run(sources, outputs)
    assert [[d["id"] for d in documents(path)] for path in outputs] == [["0", "2"], ["4"], ["6", "8"]]


def test_the_manifest_names_what_came_in_and_from_whom(source: Path, tmp_path: Path) -> None:
    run([source], tmp_path / "a.zst")
    second = run([tmp_path / "a.zst"], tmp_path / "b.zst").manifest
    first = read_manifest(tmp_path / "a.zst")
    assert second.upstream == [first]
    assert first is not None
    assert second.documents_in == first.documents_out


@pytest.mark.parametrize("full", ["out.jsonl", "rejects.jsonl"])
def test_a_full_disk_names_the_file_and_leaves_no_output(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    def write(self: object, lines: bytes) -> None:
        if full in str(Path(f"/proc/self/fd/{self._sink.fileno()}").readlink()):  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StreamWriter, "write", write)
    with pytest.raises(OutputError, match=f"{full}: cannot write: no space left"):
        run([source], tmp_path / "out.jsonl", rejects=tmp_path / "rejects.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_outputs_that_are_inputs_are_refused(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    for output, rejects in ((source, None), (tmp_path / "a", tmp_path / "a"), (tmp_path / "b", source)):
        with pytest.raises(UsageError, match="is also"):
            run([source], output, rejects=rejects, force=True)
    assert source.read_bytes() == before


def test_a_disk_that_is_full_from_the_start_leaves_no_temporary_file_behind(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(frames, "header_frame", full)
    for output, rejects in ((tmp_path / "a.zst", None), (tmp_path / "a.jsonl", tmp_path / "b.zst")):
        with pytest.raises(OutputError, match="cannot write: no space left"):
            run([source], output, rejects=rejects)
        assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_names_that_are_no_utf_8_are_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.jsonl"))
    path.write_bytes(b"".join(LINES))
    monkeypatch.setattr("sys.argv", ["ptool", "filter", str(path)])
    out = tmp_path / "out.jsonl.zst"
    run([path], out, rejects=tmp_path / "rejects.jsonl")
    rejected = [line for line in documents(tmp_path / "rejects.jsonl") if "raw" in line]
    assert rejected[0]["ptool"]["file"] == f"{tmp_path}/caf\\udce9.jsonl"  # type: ignore[index]
    assert b"caf\\\\udce9.jsonl" in (tmp_path / "out.jsonl.zst.run.json").read_bytes()
    assert labels([str(path)]) == ["caf\\udce9.jsonl"]


def test_labels_of_a_hundred_thousand_files_take_no_time() -> None:
    names = [f"crawl/{part}/CC-MAIN-{number:06d}.jsonl.zst" for part in "ab" for number in range(50_000)]
    started = time.process_time()
    found = labels([*names, "crawl/a/one.jsonl", "crawl/a/one.jsonl"])
    assert time.process_time() - started < 20  # compared with each other: an hour
    assert found[:1] == ["a/CC-MAIN-000000.jsonl.zst"]
    assert found[-2:] == ["one.jsonl", "one.jsonl"]


def test_splicing_changes_nothing_else() -> None:
    assert splice(b'  { "text" : 1 }\n', b'"id":"a"') == b'  {"id":"a", "text" : 1 }\n'
    assert splice(b"{ }\n", b'"id":"a"') == b'{"id":"a" }\n'
