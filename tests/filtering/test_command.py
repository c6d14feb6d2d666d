"""`ptool filter` as a shell sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PTOOL = [sys.executable, "-c", "import sys; from ptool.cli.app import main; sys.exit(main())"]
GOOD = b'{"text":"the brown fox","id":"1"}\n'
SHORT = b'{"text":"one","id":"2"}\n'
RULE = ("--rule", "word-count:min=2,max=none")


def ptool(*arguments: object, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [*PTOOL, *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, cwd=cwd)


def test_two_filters_in_a_pipe_pass_the_stream_and_its_history_on() -> None:
    first = ptool("filter", *RULE, stdin=GOOD + SHORT)
    assert first.returncode == 0, first.stderr
    second = ptool("filter", "-q", "--rule", "stop-words:min=1", "--compress", "none", stdin=first.stdout)
    assert second.returncode == 0, second.stderr
    assert second.stdout == GOOD
    assert second.stderr == b""
    cut = ptool("filter", *RULE, stdin=first.stdout[:-20])
    assert cut.returncode == 1
    assert cut.stderr.startswith(b"ptool: stdin: ")


def test_files_summary_and_json(tmp_path: Path) -> None:
    source = tmp_path / "a 文 b.jsonl"
    source.write_bytes(GOOD + SHORT)
    told = ptool("filter", source.name, *RULE, "-o", "out.jsonl", "--rejects", "no.jsonl", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stdout == b""
    assert b"dropped by word-count  1 (50.00 %)" in told.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == GOOD
    assert json.loads((tmp_path / "no.jsonl").read_bytes())["ptool"]["accept"] == [2.0, None]
    again = ptool("filter", source.name, *RULE, "-o", "new.jsonl", "--json", cwd=tmp_path)
    assert json.loads(again.stdout) == {
        "read": 2,
        "kept": 1,
        "dropped": 1,
        "rejected": 0,
        "dropped_by": {"word-count": 1},
    }


def test_a_dry_run_shows_rates_and_writes_nothing(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(GOOD + SHORT)
    shown = ptool("filter", source, *RULE, "--dry-run", "-o", tmp_path / "out.jsonl")
    assert shown.returncode == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.decode().splitlines()]
    assert lines[0] == ["rule", "accepts", "fails", "drops"]
    assert lines[1] == ["word-count", "at", "least", "2", "50.00", "%", "50.00", "%"]
    as_json = json.loads(ptool("filter", source, *RULE, "--dry-run", "--json").stdout)
    assert as_json["rules"] == [{"rule": "word-count", "min": 2.0, "max": None, "num_failing": 1, "num_dropped": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_rules_are_listed_without_reading_anything() -> None:
    listed = ptool("filter", "--list-rules", "--json")
    assert listed.returncode == 0, listed.stderr
    rules = {rule["rule"]: rule for rule in json.loads(listed.stdout)}
    assert rules["word-count"]["min"] == 50
    assert "gopher-quality" in rules["word-count"]["presets"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--preset", "gopher"], 2, "unknown preset 'gopher'\n  hint: did you mean gopher-quality?"),
        (["--rule", "stopwords"], 2, "unknown rule 'stopwords'\n  hint: did you mean stop-words?"),
        (["--rule", "word-count:min=nan"], 2, "'nan' is not a number"),
        (["--shard", "1/2"], 2, "--shard shares out the files of a folder"),
        (["--text-key", "body"], 1, "stdin:1: no text: the field 'body' is missing"),
        (["--on-error", "reject", "--text-key", "body"], 3, "2 lines were rejected, 0 are allowed"),
    ],
)
def test_what_cannot_be_ends_with_its_exit_code_and_one_clear_line(
    arguments: list[str], code: int, message: str
) -> None:
    done = ptool("filter", *arguments, stdin=GOOD + SHORT)
    assert done.returncode == code, done.stderr
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr
