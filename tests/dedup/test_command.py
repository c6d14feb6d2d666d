"""`ptool dedup` as a person or a pipe runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ptool.cli.app import main
from ptool.formats.streams import StreamReader

DOCUMENTS = [{"id": "a", "text": "深圳市 one two"}, {"id": "b", "text": "other"}, {"id": "c", "text": "深圳市 one two"}]


def stream(documents: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in documents).encode()


def test_a_pipe_gets_a_stream_with_a_trailer_and_the_report_goes_to_stderr(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ptool", "dedup", "--rejects", str(tmp_path / "the rejects.jsonl")]
    done = subprocess.run(command, input=stream(DOCUMENTS), capture_output=True)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    (tmp_path / "out").write_bytes(done.stdout)
    reader = StreamReader([tmp_path / "out"])
    assert b"".join(lines.data for lines in reader) == stream(DOCUMENTS[:2])
    (manifest,) = reader.upstream
    assert (manifest.config["bands"], manifest.config["rows"]) == (14, 8)
    assert "14 x 8 of 112 permutations: (1/b)^(1/r) = 0.719" in said
    assert "refused by verification" in said
    (dropped,) = map(json.loads, (tmp_path / "the rejects.jsonl").read_text(encoding="utf-8").splitlines())
    assert dropped["ptool"] == {"stage": "dedup", "rule": "exact-duplicate", "twin": "a", "similarity": 1.0}


def run(*arguments: str) -> int:
    return main(["dedup", *arguments])


def test_the_json_report_has_counts_and_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_bytes(stream(DOCUMENTS))
    assert run(str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--json", "--jobs", "1") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["dropped_by"] == {"exact-duplicate": 1}
    assert found["bands_threshold"] == pytest.approx(0.719, abs=1e-3)
    assert {"candidates", "refused_by_verification", "not_compared"} <= set(found)


def test_a_dry_run_shows_the_plan_and_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("absent.jsonl", "-o", str(tmp_path / "out.jsonl"), "--dry-run", "--json", "--threshold", "0.7") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["bands"], found["rows"]) == (16, 5)
    assert found["found_with_probability"]["0.75"] > 0.985
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "1/4"], "a document's twin may be in another task's files"),
        (["--threshold", "1.5"], "1.5"),
        (["--bands", "20"], "--bands and --rows go together"),
        (["--mode", "fuzzy"], "fuzzy"),
        (["--bands", "datasketch", "--rows", "8"], "--bands datasketch chooses the rows"),
        (["--compat", "datatrove", "--scheme", "legacy"], "--compat datatrove says what --scheme would"),
        (["--plan", "stream", "--cluster"], "--plan stream, and what else is asked for needs files"),
        (["--prefer", "shortest"], "shortest"),
        (["--bloom", "0.01"], "--bloom goes with lines"),
        (["--mode", "ngram"], "--bloom 0.01"),
        (["--tmp-dir", "/absent"], "the folder for temporary files is missing"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_with_the_reason(
    tmp_path: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_bytes(stream(DOCUMENTS))
    code = run(str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), *arguments)
    said = capfd.readouterr().err
    assert code == 2, said
    assert message in said
    assert not (tmp_path / "out.jsonl").exists()


def test_files_are_used_where_they_are_needed_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(stream(DOCUMENTS))
    out, clusters = tmp_path / "out.jsonl", tmp_path / "clusters.jsonl"
    assert run(str(tmp_path / "in.jsonl"), "-o", str(out), "--clusters", str(clusters), "-q") == 0
    assert json.loads(clusters.read_text()) == {"kept": "a", "dropped": [{"id": "c", "similarity": 1.0}]}
    assert out.read_bytes() == stream(DOCUMENTS[:2])
    assert not (tmp_path / "out.jsonl.dedup-work").exists()


def test_stdin_is_refused_where_files_are_needed() -> None:
    command = [sys.executable, "-m", "ptool", "dedup", "--prefer", "longest"]
    done = subprocess.run(command, input=stream(DOCUMENTS), capture_output=True)
    assert done.returncode == 2
    assert b"give files" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "edited"),
    [(["--mode", "line"], 1), (["--mode", "line", "--bloom", "0.1%"], 1), (["--unit", "paragraph"], 0)],
)
def test_passes_over_lines_and_paragraphs_report_what_they_cut(
    tmp_path: Path, arguments: list[str], edited: int, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [{"text": "same line\nfirst"}, {"text": "same line\nsecond"}]
    (tmp_path / "in.jsonl").write_bytes(stream(documents))
    out, removed = tmp_path / "out.jsonl", tmp_path / "removed.jsonl"
    assert run(str(tmp_path / "in.jsonl"), "-o", str(out), "--removed", str(removed), "--json", *arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["edited"] == edited == len(removed.read_bytes().splitlines())
    assert found["counts"]["kept"] == 2


def test_a_dry_run_of_a_pass_names_the_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("absent.jsonl", "-o", str(tmp_path / "out"), "--dry-run", "--json", "--mode", "line") == 0
    assert json.loads(capsys.readouterr().out)["mode"] == "line"
