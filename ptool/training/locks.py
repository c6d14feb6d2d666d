"""A run folder has one owner at a time: its launcher and every one of its ranks.

Each holds a lock of its own below RUN/.locks (`launcher`, `rank_00000`, …), so that ranks which outlive their launcher
by a moment still count. The locks are the kernel's (`flock`, through `fcntl`): they end with the process, however it
ends, and nothing stale can stay behind. The file's text says who holds it, for the message. Torch-free.

A file system that knows no locks (Lustre mounted without `flock`, NFS without its lock daemon) is no reason not to
train: the lock then guards nothing, and says so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from pathlib import Path

import msgspec

from ptool.errors import OutputError, PtoolError
from ptool.formats.atomic import describing_os_errors

FOLDER = ".locks"
LAUNCHER = "launcher"
GRACE_SECONDS = 5.0  # ranks whose launcher was killed end within milliseconds; a loaded machine may take longer
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class RunIsBusy(OutputError):
    """Another process trains in this folder."""


class Lock:
    """One lock, held from its making until `release` or the end of the process."""

    def __init__(self, run: Path, name: str) -> None:
        """Raises RunIsBusy, naming host and pid, when somebody else holds it."""
        self.guards = True
        folder = run / FOLDER
        with describing_os_errors(folder):
            folder.mkdir(exist_ok=True)
            self._descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._descriptor, 4096, 0)
            os.close(self._descriptor)
            raise _busy(run, owner) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(self._descriptor)
                raise
            self.guards = False
        owner = msgspec.json.encode({"host": socket.gethostname(), "pid": os.getpid()}) + b"\n"
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, owner, 0)

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._descriptor)


def rank_name(rank: int) -> str:
    """The name of a rank's lock."""
    return f"rank_{rank:05d}"


def acquire(run: Path, name: str, *, grace: float = GRACE_SECONDS) -> Lock:
    """The lock `name`, waiting up to `grace` seconds for an owner that is on its way out."""
    deadline = time.monotonic() + grace
    while True:
        try:
            return Lock(run, name)
        except RunIsBusy:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


def expect_no_ranks(run: Path, *, own: range = range(0), grace: float = GRACE_SECONDS) -> None:
    """Raise RunIsBusy when a rank of an earlier start, other than those in `own`, still lives after `grace` seconds."""
    names = {rank_name(rank) for rank in own}
    for path in sorted((run / FOLDER).glob("rank_*")):
        if path.name not in names:
            acquire(run, path.name, grace=grace).release()


def _busy(run: Path, owner: bytes) -> PtoolError:
    try:
        who = msgspec.json.decode(owner)
        text = f"process {who['pid']} on host {who['host']}"
    except (msgspec.DecodeError, KeyError, TypeError):
        text = "another process"
    return RunIsBusy(f"{text} is training in this folder", where=str(run), hint="wait for it, or stop it first")
