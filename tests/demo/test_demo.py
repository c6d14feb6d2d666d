"""`ptool demo`, short: the whole demonstration as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ptool.demo.run import done_twice

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_demo_ends_with_a_summary_and_a_picture(tmp_path: Path) -> None:
    folder = tmp_path / "a demo"
    command = [sys.executable, "-m", "ptool", "demo", "--out", str(folder), "--steps", "40", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    summary = json.loads(done.stdout)
    documents = summary["documents"]
    assert documents["read"] == sum(documents[name] for name in ("dropped_by_rules", "dropped_as_duplicates", "kept"))
    assert documents["dropped_as_duplicates"] > 0
    assert summary["killed"]["after_step"] >= 21
    assert summary["rollback"]["to_step"] < summary["rollback"]["at_step"]
    assert summary["eval"]["num_tokens"] > 1000
    assert Path(summary["picture"]).read_bytes().startswith(PNG)
    assert sorted(path.name for path in folder.iterdir()) == ["demo.json", "loss.png"]
    for shown in (
        "$ ptool train packed/",
        "$ kill -9 ",
        "$ ptool resume run/",
        "$ ptool eval run/",
        "$ ptool estimate-cost",
    ):
        assert shown in done.stderr
    assert "have the same loss to the bit" in done.stderr


def test_a_dry_run_shows_the_commands_and_touches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ptool", "demo", "--dry-run", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("ptool")] == [
        *("demo", "train-tokenizer", "tokenize", "train", "resume", "eval", "estimate-cost")
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    command = [sys.executable, "-m", "ptool", "demo", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "other files" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_rollback_to_before_the_kill_is_no_difference_of_the_resumed_run() -> None:
    def records(attempt: int, losses: dict[int, float]) -> list[dict[str, float]]:
        return [{"step": step, "loss": loss, "attempt": attempt} for step, loss in losses.items()]

    before = {15: 5.5, 16: 5.4, 17: 5.3, 18: 5.2, 26: 5.1}  # 26: killed late, and there the batch is spoilt
    undone = records(1, {17: 0.0}) + records(2, {17: 5.3, 18: 5.2}) + records(2, {17: 4.0})
    accepted = records(1, {15: 5.5, 16: 5.4}) + records(2, {17: 6.0, 18: 6.1, 26: 9.0})
    assert done_twice(before, accepted, undone, start=16, stop=26) == (2, 2)
    assert done_twice(before, accepted, records(1, {18: 5.2}), start=16, stop=26) == (2, 0)


def test_a_run_too_short_for_a_rollback_is_refused_before_it_takes_minutes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ptool", "demo", "--steps", "20", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "20 steps are too few" in done.stderr
    assert not (tmp_path / "out").exists()
