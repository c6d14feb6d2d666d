"""Which of several ends of ranks is the cause of the others."""

from __future__ import annotations

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
