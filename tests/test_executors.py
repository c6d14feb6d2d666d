"""Ordered work over processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ptool.errors import InputError, PtoolError
from ptool.executors import default_jobs, ordered_map


def square(number: int) -> int:
    return number * number


def refuse_three(number: int) -> int:
    if number == 3:
        raise InputError("three", where="file:3", hint="try four")
    return number


@pytest.mark.parametrize("jobs", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 25])
def test_results_come_in_order_for_any_number_of_workers(jobs: int, count: int) -> None:
    assert list(ordered_map(square, range(count), jobs=jobs)) == [number**2 for number in range(count)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_arrives_whole_and_in_its_place(jobs: int) -> None:
    results = ordered_map(refuse_three, range(9), jobs=jobs)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError) as caught:
        next(results)
    assert (caught.value.where, caught.value.hint) == ("file:3", "try four")


def test_no_more_than_a_few_items_are_taken_ahead() -> None:
    taken = 0

    def items() -> object:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    results = ordered_map(square, items(), jobs=2)  # type: ignore[arg-type]
    next(results)
    assert taken < 10
    results.close()


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from ptool.executors import ordered_map\n"
        "def work(number):\n"
        "    if number: os.write(1, b'%d\\n' % os.getpid())\n"
        "    time.sleep(60 if number else 0)\n"
        "    return number\n"
        "if __name__ == '__main__':\n"
        "    for _ in ordered_map(work, range(9), jobs=2): pass\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    descriptor = os.pidfd_open(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    import select

    ended, _, _ = select.select([descriptor], [], [], 20)
    assert ended, "the worker lives on"
    parent.stdout.close()


def die_on_three(data: bytes) -> int:
    if data[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(data)


def test_a_worker_that_dies_is_one_line_and_no_hang() -> None:
    large = (bytes([number]) * 3_000_000 for number in range(12))
    with pytest.raises(PtoolError, match="a worker process died"):
        list(ordered_map(die_on_three, large, jobs=2))


def test_slurms_grant_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert default_jobs() == 1
