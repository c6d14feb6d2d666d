"""Which of several ends of ranks is the cause of the others."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path

import pytest

from ptool.errors import DamagedInput, PtoolError, StoppedAndSaved
from ptool.training import launch

HUNG = PtoolError("rank 1 (host n2, process 7) has not been heard of for 300 s")


@pytest.mark.parametrize(
    ("said", "exit_codes", "expected"),
    [
        ({}, {1: -9}, "rank 1 was killed by SIGKILL"),
        ({0: PtoolError(launch.PEER_LOST)}, {0: 1, 1: -9}, "rank 1 was killed by SIGKILL"),
        ({0: PtoolError("RuntimeError: something of torch's")}, {0: 1, 1: -9}, "rank 1 was killed by SIGKILL"),
        ({0: HUNG}, {0: 1, 1: -9}, HUNG.message),
        ({0: StoppedAndSaved("saved")}, {0: 75, 1: -9}, "saved"),
        ({0: PtoolError(launch.PEER_LOST), 1: DamagedInput("a broken file")}, {0: 1, 1: 1}, "a broken file"),
        ({0: PtoolError(launch.PEER_LOST)}, {0: 1, 1: -15}, "rank 0 ended with exit code 1"),
    ],
)
def test_the_cause_is_told_and_not_its_echo(
    tmp_path: Path, said: dict[int, PtoolError], exit_codes: dict[int, int], expected: str
) -> None:
    for rank, error in said.items():
        launch.leave_error(tmp_path, rank, error)
    outcome = launch._outcome(tmp_path, exit_codes, Path("run"))
    assert outcome.message == expected
    if expected == "saved":
        assert isinstance(outcome, StoppedAndSaved)


@pytest.mark.parametrize(
    ("error", "expected"), [(PtoolError("broken"), -signal.SIGKILL), (StoppedAndSaved("saved"), None)]
)
def test_a_rank_that_does_not_end_after_another_failed_is_killed_and_one_that_still_saves_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: PtoolError, expected: int | None
) -> None:
    monkeypatch.setattr(launch, "SECONDS_TO_END", 0.05)
    straggler = subprocess.Popen(["sleep", "60"])
    (tmp_path / "rank_1.pid").write_text(str(straggler.pid))
    (tmp_path / "rank_2.pid").write_text("1")  # somebody else's process, whose number an ended rank had
    finished = threading.Event()
    thread = threading.Thread(target=launch._end_stragglers, args=(tmp_path, finished))
    thread.start()
    launch.leave_error(tmp_path, 0, error)
    try:
        if expected is None:
            thread.join(timeout=0.5)
            assert straggler.poll() is None
        else:
            assert straggler.wait(timeout=20) == expected
    finally:
        finished.set()
        thread.join()
        straggler.kill()
        straggler.wait()
