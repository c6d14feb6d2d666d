"""Starts the ranks on this machine with torch's elastic launcher, and ends only when they have ended.

What torch's launcher leaves open is mended here:

- A launcher that is killed (`kill -9`, SIGUSR1 by default) would leave its ranks running. Each rank asks the kernel to
  be killed with its parent (PR_SET_PDEATHSIG) and checks once that the parent still is the launcher.
- On a signal torch kills the ranks after a few seconds. Here the first SIGINT, SIGTERM or SIGUSR1 is passed on to every
  rank, once, when all ranks listen, and they save. A second SIGINT or SIGTERM more than a second later kills the ranks
  and ends this process by that signal. Handlers, not a blocked mask: the threads that numpy and torch start before this
  would not share the mask, and the kernel hands a signal to any thread that takes it. The ranks have sessions of their
  own, so Ctrl-C reaches only the launcher.
- A rank's error is one line of a person's language, not torch's table: ranks leave it as JSON in a folder of this
  process, with their pid; rank 0's progress comes through a pipe there.

Under `torchrun` or `srun` none of this runs: the process is a rank already (`external_rank`). Torch is imported inside
`launch` only.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import msgspec

from ptool import errors
from ptool.errors import PtoolError, StoppedAndSaved
from ptool.reporting import Reporter
from ptool.training import launch_folder
from ptool.training.launch_folder import announced
from ptool.training.signals import SECOND_AFTER_SECONDS, STOP_SIGNALS

FOLDER_VARIABLE = "PTOOL_LAUNCH_FOLDER"
PARENT_VARIABLE = "PTOOL_LAUNCHER_PID"
PEER_LOST = "a rank was lost"
SECONDS_TO_END = 5  # for ranks whose peer died: gloo tells them within milliseconds, a busy GPU may not
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PREFIX = "ptool-train-"  # of the launcher's temporary folder, followed by a checksum of the host's name, and its pid


def external_rank() -> dict[str, str] | None:
    """The rendezvous variables of a rank that torchrun or srun started; None for an ordinary process."""
    env = os.environ
    if env.get("RANK", "").isdecimal() and env.get("WORLD_SIZE", "").isdecimal():
        return {name: env.get(name, default) for name, default in _DEFAULTS.items()}
    tasks = env.get("SLURM_STEP_NUM_TASKS", "1")
    if "SLURM_PROCID" in env and tasks.isdigit() and int(tasks) > 1:
        port = 20_000 + (int(env.get("SLURM_JOB_ID", "0")) * 16 + int(env.get("SLURM_STEP_ID", "0")) % 16) % 20_000
        return _local_size(env) | {
            "RANK": env["SLURM_PROCID"],
            "WORLD_SIZE": tasks,
            "LOCAL_RANK": env.get("SLURM_LOCALID", "0"),
            "MASTER_ADDR": env.get("MASTER_ADDR") or _first_host(),
            "MASTER_PORT": env.get("MASTER_PORT") or str(port),
        }
    return None


class Launchpad(NamedTuple):
    """What a launch needs before it can start: a folder that ranks and launcher share, and the signals that arrived."""

    folder: Path
    arrived: queue.SimpleQueue[int]


@contextlib.contextmanager
def launchpad() -> Iterator[Launchpad]:
    """From here on a stop signal means save and stop: one that comes before the ranks do waits for them."""
    _remove_orphans()
    with tempfile.TemporaryDirectory(prefix=f"{_own_prefix()}{os.getpid()}-") as name:
        folder = Path(name)
        with _stop_signals_queued(folder) as arrived:
            yield Launchpad(folder, arrived)


def launch(run: Path, ranks: int, pad: Launchpad, reporter: Reporter) -> None:
    """Run `ranks` ranks on `run` until they are done; returns when they finished the run.

    Raises the error of the rank that failed first, StoppedAndSaved among them.
    """
    folder = pad.folder
    finished = threading.Event()
    threads = [
        threading.Thread(target=_pass_signals_on, args=(pad, ranks, finished, reporter), daemon=True),
        threading.Thread(
            target=launch_folder.relay, args=(launch_folder.open_pipe(folder), finished, reporter), daemon=True
        ),
        threading.Thread(target=_end_stragglers, args=(folder, finished), daemon=True),
    ]
    for thread in threads:
        thread.start()
    os.environ[FOLDER_VARIABLE] = str(folder)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    try:
        exit_codes = _run_elastic(run, ranks)
    finally:
        finished.set()
        for thread in threads:
            thread.join(timeout=2)
    if exit_codes is not None:
        raise _outcome(folder, exit_codes, run)


def follow_launcher() -> None:
    """In a rank, first of all: end when the process that started this one ends."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None and "TORCHELASTIC_RUN_ID" not in os.environ:
        return  # srun's step daemon sees to it
    expected = os.getppid() if parent is None else int(parent)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != expected:
        os._exit(1)


_DEFAULTS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def _run_elastic(run: Path, ranks: int) -> dict[int, int] | None:
    """Exit codes of the ranks that failed, or None."""
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_END))
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, launch_agent

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=f"ptool-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.05,
        signals_to_handle="SIGQUIT",  # the others are ours
    )
    # -P and the module's own path: nothing in the working directory can stand in for a module of ours.
    arguments = ["-P", "-m", "ptool.training.rank", str(run.resolve())]
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):  # its tables of failed ranks: we say it in one line
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        launch_agent(config, sys.executable, arguments)
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    return None


def _outcome(folder: Path, exit_codes: dict[int, int], run: Path) -> PtoolError:
    """The error that started it: what ranks said, else how they ended."""
    said = []
    for path in sorted(folder.glob("rank_*.error")):
        kind, message, where, hint, code, when = msgspec.json.decode(path.read_bytes())
        said.append((message == PEER_LOST, when, kind, message, where, hint, code))
    causes = sorted(entry for entry in said if not entry[0])
    killed = [(rank, -code) for rank, code in sorted(exit_codes.items()) if code < 0 and -code != signal.SIGTERM]
    # What a rank said in so many words is the cause; an error of torch's may be the echo of a rank that was killed, and
    # a rank that hung was killed by this launcher.
    if killed and not any(not entry[3].startswith("RuntimeError") for entry in causes):
        rank, number = killed[0]
        return PtoolError(f"rank {rank} was killed by {_signal_name(number)}", hint=f"ptool resume {run} goes on")
    if causes:
        _, _, kind, message, where, hint, _ = causes[0]
        found: type[PtoolError] = getattr(errors, kind, PtoolError)
        return found(message, where=where, hint=hint)
    rank, code = min(exit_codes.items(), default=(0, 1))
    echo = f": {min(said)[5]}" if said and min(said)[5] else ""  # lost peers alone: the network, or NCCL itself
    return PtoolError(f"rank {rank} ended with exit code {code}{echo}", hint=f"ptool resume {run} goes on")


@contextlib.contextmanager
def _stop_signals_queued(folder: Path) -> Iterator[queue.SimpleQueue[int]]:
    """Queue the first stop signal; a second SIGINT or SIGTERM ends everything. What the caller ignores stays so."""
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put may be called from a handler
    first = 0.0

    def take(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not first:
            first = time.monotonic()
            arrived.put(number)
        elif number != signal.SIGUSR1 and time.monotonic() - first > SECOND_AFTER_SECONDS:
            for pid in announced(folder):
                _send(pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    listened = [number for number, handler in handlers.items() if handler != signal.SIG_IGN]
    for number in listened:
        signal.signal(number, take)
    try:
        yield arrived
    finally:
        for number in listened:
            signal.signal(number, handlers[number])


def _pass_signals_on(pad: Launchpad, ranks: int, finished: threading.Event, reporter: Reporter) -> None:
    """Pass the first signal on once all ranks listen, and only then say so: a terminal may be paused."""
    waiting: int | None = None
    while not finished.is_set():
        pids = announced(pad.folder)
        if waiting is not None and len(pids) == ranks:
            for pid in pids:
                _send(pid, waiting)
            reporter.notice(f"{_signal_name(waiting)}: saving, then stopping; once more to stop at once")
            return
        with contextlib.suppress(queue.Empty):
            waiting = pad.arrived.get(timeout=0.05)


def _end_stragglers(folder: Path, finished: threading.Event) -> None:
    """Kill ranks that live `SECONDS_TO_END` after another one failed: torch would wait half a minute for each."""
    failed_at: float | None = None
    while not finished.wait(0.1):
        if failed_at is None:
            failed_at = time.monotonic() if any(map(_is_failure, folder.glob("rank_*.error"))) else None
        elif time.monotonic() - failed_at > SECONDS_TO_END:
            for pid in announced(folder):
                if _parent_of(pid) == os.getpid():
                    _send(pid, signal.SIGKILL)
            return


def _is_failure(error_file: Path) -> bool:
    """Whether a rank's last words are of an error; one that stopped and saved waits for the others to end likewise."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return bool(msgspec.json.decode(error_file.read_bytes())[0] != StoppedAndSaved.__name__)
    return False


def _parent_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return None


def _remove_orphans() -> None:
    """Remove what launchers that were killed left in the temporary folder, which other hosts may share."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_own_prefix()}*"):
        pid = folder.name.removeprefix(_own_prefix()).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _local_size(env: Mapping[str, str]) -> dict[str, str]:
    """How many ranks this host has, by Slurm's "8(x2),4"; nothing where that is not told."""
    counts: list[str] = []
    with contextlib.suppress(ValueError, IndexError):
        for part in env.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
            number, _, times = part.rstrip(")").partition("(x")
            counts += [str(int(number))] * int(times or 1)
        return {"LOCAL_WORLD_SIZE": counts[int(env.get("SLURM_NODEID", "0"))]}
    return {}


def _own_prefix() -> str:
    return f"{_PREFIX}{zlib.crc32(socket.gethostname().encode()):08x}-"


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _first_host() -> str:
    """The first node of the Slurm step, as a name or address that resolves."""
    env = os.environ
    if env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1")) == "1":
        return "127.0.0.1"
    listed = env.get("SLURM_STEP_NODELIST", env.get("SLURM_JOB_NODELIST", ""))
    hosts = [_first_of(listed)]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        found = subprocess.run(["scontrol", "show", "hostnames", listed], capture_output=True, text=True, check=True)
        hosts = [*found.stdout.split()[:1], *hosts]
    for host in hosts:
        with contextlib.suppress(OSError, UnicodeError):
            socket.getaddrinfo(host, None)
            return host
    return env.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")  # with salloc this may be a login node: the last resort


def _first_of(listed: str) -> str:
    """The first name of Slurm's "n[03-05,9]-ib,m1", for containers, which have no `scontrol`."""
    match = re.match(r"([^,\[]*)(?:\[([^],-]*)[^]]*\]([^,\[]*))?", listed)
    return "".join(part or "" for part in match.groups()) if match else ""
