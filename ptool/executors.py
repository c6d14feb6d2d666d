"""Work spread over local processes, in order: the seam where a cluster's executor fits later.

`ordered_map` is `map` with a bounded number of items in flight: results come in the order of the items, memory stays
that of a few batches, and nothing is computed far ahead of a slow reader. Workers are started only when a second item
arrives, so that small inputs pay nothing; they are forked, which takes milliseconds and shares what is imported, ignore
the signals meant for the parent, and die with it, `kill -9` included. Call it where no other thread holds a lock.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TypeVar

from ptool.errors import PtoolError

Item = TypeVar("Item")
Result = TypeVar("Result")

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def default_jobs() -> int:
    """Processors this process may use: the affinity mask, the cgroup's quota, and Slurm's grant, whichever is least."""
    counts = [len(os.sched_getaffinity(0))]
    granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if granted.isdigit():
        counts.append(int(granted))
    quota = _cgroup_quota()
    if quota is not None:
        counts.append(quota)
    return max(1, min(counts))


def free_memory() -> int | None:
    """Nine tenths of what this machine and its cgroup have free, in bytes; None where neither says."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    for group, (most, taken, cached) in [
        *((group, ("memory.max", "memory.current", "file ")) for group in _groups("")),
        *((group, ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache ")) for group in _groups("memory")),
    ]:
        with suppress(OSError, ValueError, StopIteration):
            limit = int((group / most).read_text(encoding="ascii"))
            used = int((group / taken).read_text(encoding="ascii"))
            counted = (group / "memory.stat").read_text(encoding="ascii").splitlines()
            cache = next(int(line.split()[1]) for line in counted if line.startswith(cached))
            found.append(limit - used + cache)  # the cache of files is given back when memory is short
    return max(1, min(found) * 9 // 10) if found else None


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    jobs: int,
    preload: tuple[str, ...] = (),
) -> Iterator[Result]:
    """Results of `function` over `items`, in order, by up to `jobs` processes.

    `function`, items and results must be picklable when `jobs` > 1; `preload` names modules to import before forking.
    With one job, or one item, everything runs here. An exception of `function` is raised in its place in the order.
    """
    iterator = iter(items)
    head = []
    for item in iterator:
        head.append(item)
        if jobs > 1 and len(head) < 2:
            continue
        break
    if jobs <= 1 or len(head) < 2:
        yield from map(function, chain(head, iterator))
        return
    yield from _in_processes(function, chain(head, iterator), jobs, preload)


def _in_processes(
    function: Callable[[Item], Result], items: Iterator[Item], jobs: int, preload: tuple[str, ...]
) -> Iterator[Result]:
    for module in preload:
        import_module(module)
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(max_workers=jobs, mp_context=context, initializer=_settle, initargs=(os.getpid(),))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))  # fails too, where a worker died meanwhile
            if len(waiting) > jobs + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise PtoolError("a worker process died", hint="was memory short? try --jobs 1") from error
    finally:
        # What is running is waited for (a batch each): workers stopped in the middle can leave the pool waiting.
        pool.shutdown(cancel_futures=True)


def _settle(parent: int) -> None:
    """First thing in a worker: leave signals to the parent, and never outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def _groups(controller: str) -> list[Path]:
    """The cgroup of this process and those it is in: of version 2 (""), or of a controller of version 1.

    A container sees its own as the root; a batch system's job is a few folders below it, and has its limit there.
    """
    root = _CGROUPS / controller
    try:
        lines = _MEMBERSHIP.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = root / path.lstrip("/")
            return [own, *(parent for parent in own.parents if parent == root or root in parent.parents)]
    return [root]


def _cgroup_quota() -> int | None:
    """Whole processors granted by the cgroups (v2 `cpu.max`), rounded up; None where there is no limit."""
    granted = []
    for group in _groups(""):
        with suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            granted.append(-(-int(quota) // int(period)))  # "max" is no number
    return min(granted, default=None)
