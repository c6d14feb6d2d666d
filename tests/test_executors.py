"""Ordered work over processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptool import executors
from ptool.errors import InputError, PtoolError
from ptool.executors import default_jobs, free_memory, ordered_map


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


def test_a_worker_that_dies_while_the_next_item_is_read_is_the_same_line() -> None:
    def slowly_read() -> Iterator[bytes]:
        yield bytes([3])
        yield bytes([1])
        while multiprocessing.active_children():  # the pool knows, and refuses what comes next
            pass
        yield bytes([2])

    with pytest.raises(PtoolError, match="a worker process died"):
        list(ordered_map(die_on_three, slowly_read(), jobs=2))


def limit(group: Path, files: dict[str, str]) -> None:
    group.mkdir(parents=True)
    for name, text in files.items():
        (group / name).write_text(text)


def test_the_limits_of_a_jobs_cgroup_count_and_not_only_those_of_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(executors, "_MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("0::/slurm/job_7/step_0\n")
    job = tmp_path / "groups/slurm/job_7"
    limit(job, {"memory.max": "3000", "memory.current": "2500", "memory.stat": "anon 2000\nfile 500\n"})
    limit(job / "step_0", {"memory.max": "max", "memory.current": "2500", "memory.stat": "file 500\n"})
    (job / "cpu.max").write_text("100000 100000\n")
    (job / "step_0/cpu.max").write_text("max 100000\n")
    assert free_memory() == 900, "nine tenths of 3000 less what is used and no cache"
    assert default_jobs() == 1


def test_the_limits_of_the_older_cgroups_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(executors, "_MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("9:cpu,cpuacct:/slurm\n8:memory:/slurm/job_7\n0::/\n")
    files = {"memory.limit_in_bytes": "3000", "memory.usage_in_bytes": "2500", "memory.stat": "total_cache 500\n"}
    limit(tmp_path / "groups/memory/slurm/job_7", files)
    assert free_memory() == 900
