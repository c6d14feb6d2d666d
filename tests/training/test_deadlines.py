"""When there is still time for a step and a save, and when not: of a caller's limit, and of a Slurm job."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

import pytest

from ptool.training import deadlines
from ptool.training.deadlines import Deadline
from ptool.training.signals import StopRequest

NOW = 1_800_000_000.0


def test_the_callers_limit_leaves_time_for_two_saves_and_two_steps() -> None:
    deadline = Deadline({deadlines.VARIABLE: str(NOW)})
    assert deadline.reason(NOW - 0.5) is None
    deadline.took(step=2.0)
    deadline.took(save=10.0)
    deadline.took(step=1.0, save=5.0)
    assert deadline.reason(NOW - 25) is None
    assert deadline.reason(NOW - 23) == "the time of --max-minutes is over"


def test_without_a_limit_there_is_always_time() -> None:
    assert Deadline({}).reason(NOW) is None


def test_the_end_of_the_job_comes_from_its_environment_with_time_for_slurm_itself() -> None:
    deadline = Deadline({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(NOW))})
    assert deadline.reason(NOW - 40) is None
    assert deadline.reason(NOW - 29) == "the time of the Slurm job is over"
    assert Deadline({"SLURM_JOB_END_TIME": str(int(NOW))}).reason(NOW) is None, "no job, no end"


def squeue(folder: Path, *answers: str) -> dict[str, str]:
    """The environment of a job whose squeue gives these answers in turn."""
    lines = "\n".join(f"  {number}) echo '{answer}';;" for number, answer in enumerate(answers))
    (folder / "squeue").write_text(
        f"#!/bin/bash\ncd {folder}\nn=$(cat n 2>/dev/null || echo 0)\necho $((n+1)) > n\ncase $n in\n{lines}\nesac\n"
    )
    (folder / "squeue").chmod(0o755)
    return {"SLURM_JOB_ID": "7", "PATH": f"{folder}:{os.environ['PATH']}"}


def test_squeue_is_asked_where_the_environment_does_not_say_and_again_when_the_end_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, moved = (datetime.fromtimestamp(NOW + shift).isoformat() for shift in (0, 3600))
    env = squeue(tmp_path, first, moved)
    deadline = Deadline(env)
    monkeypatch.setattr(deadlines, "ASK_AGAIN_SECONDS", 0.0)
    assert deadline.reason(NOW - 29) is None, "the limit was moved by an hour"
    assert deadline.reason(NOW + 3600 - 29) == "the time of the Slurm job is over"


def test_a_reason_that_was_given_is_not_taken_back_when_the_clock_is_or_the_limit_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, moved = (datetime.fromtimestamp(NOW + shift).isoformat() for shift in (0, 3600))
    monkeypatch.setattr(deadlines, "ASK_AGAIN_SECONDS", 0.0)
    deadline = Deadline(squeue(tmp_path, end, end, moved))
    assert deadline.reason(NOW - 100) is None
    assert deadline.reason(NOW - 29) == "the time of the Slurm job is over"
    assert deadline.reason(NOW - 29) == "the time of the Slurm job is over", "it is named after the last save"
    deadline = Deadline({deadlines.VARIABLE: str(NOW)})
    assert deadline.reason(NOW) == "the time of --max-minutes is over"
    assert deadline.reason(NOW - 5) == "the time of --max-minutes is over"


@pytest.mark.parametrize("answer", ["N/A", "", "nonsense"])
def test_a_job_without_a_limit_has_no_end(tmp_path: Path, answer: str) -> None:
    assert deadlines.job_end(squeue(tmp_path, answer)) is None


def test_squeue_is_asked_for_one_array_task_and_for_a_time_that_can_be_read(tmp_path: Path) -> None:
    """As Slurm 22.05 answers: every task of an array under the array's own number, times as the user likes them."""
    end = datetime.fromtimestamp(NOW).isoformat()
    (tmp_path / "squeue").write_text(
        "#!/bin/bash\n"
        '[ "$SLURM_TIME_FORMAT" = standard ] || exec echo 18:13:32\n'
        f'[ "$3" != 4 ] || echo {end}\n'
        f"echo {end}\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_TIME_FORMAT": "relative"}
    assert deadlines.job_end({**env, "SLURM_JOB_ID": "9"}) == NOW
    array = {"SLURM_JOB_ID": "4", "SLURM_ARRAY_JOB_ID": "4", "SLURM_ARRAY_TASK_ID": "2"}
    assert deadlines.job_end({**env, **array}) == NOW


def test_a_limit_of_the_caller_reaches_the_processes_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(deadlines.VARIABLE, raising=False)
    deadlines.set_limit(2.0)
    assert float(os.environ[deadlines.VARIABLE]) == pytest.approx(time.time() + 120, abs=5)
    deadlines.set_limit(None)
    assert deadlines.VARIABLE not in os.environ


def test_a_stop_has_one_reason_a_signal_or_the_clock() -> None:
    stop = StopRequest()
    assert stop.reason is None
    stop.deadline = Deadline({deadlines.VARIABLE: "1.0"})
    assert stop.reason == "the time of --max-minutes is over"
    stop.signal = 15
    assert stop.reason == "SIGTERM"
