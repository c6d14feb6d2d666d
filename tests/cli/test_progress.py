"""Speed and time left, right from the first line after a resume."""

from __future__ import annotations

import pytest

from ptool.cli import output
from ptool.reporting import GOING_ON


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the progress lines see; changed by the test."""
    now = [1000.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    return now


def progress() -> output._Progress:
    return output._Progress(enabled=False, color=False)


def test_what_an_earlier_process_did_is_no_part_of_the_speed(clock: list[float]) -> None:
    shown = progress()
    clock[0] += 20  # starting
    shown.update(900, 1000, "steps", GOING_ON)
    assert shown.line() == "900 of 1,000 steps, going on"
    clock[0] += 8
    shown.update(902, 1000, "steps", "loss 2.0")
    assert shown.line() == "902 of 1,000 steps, 0.25/s, 6m32s left, loss 2.0"


def test_otherwise_speed_counts_from_the_start(clock: list[float]) -> None:
    shown = progress()
    clock[0] += 10
    shown.update(200, 1000, "documents", "")
    assert shown.line() == "200 of 1,000 documents, 20/s, 40s left"
