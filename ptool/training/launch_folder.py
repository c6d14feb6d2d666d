"""The folder that ranks and their launcher share while a run lasts: pids, last words, and progress through a pipe.

rank_0.pid      this rank listens to signals
rank_0.error    why it ended
reports         a FIFO: what rank 0 has to say, a line of JSON each
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from ptool.errors import PtoolError
from ptool.reporting import Reporter

_PIPE = "reports"


def announce(folder: Path, rank: int) -> None:
    """Tell the launcher that this rank listens to signals."""
    temporary = folder / f".rank_{rank}.pid"
    temporary.write_text(str(os.getpid()))
    temporary.rename(folder / f"rank_{rank}.pid")


def announced(folder: Path) -> list[int]:
    """Pids of the ranks that listen to signals."""
    return [int(path.read_text()) for path in folder.glob("rank_*.pid")]


def leave_error(folder: Path, rank: int, error: PtoolError) -> None:
    """Tell the launcher why this rank ends."""
    body = [type(error).__name__, error.message, error.where, error.hint, error.exit_code, time.time()]
    (folder / f"rank_{rank}.error").write_bytes(msgspec.json.encode(body))


class PipeReporter:
    """Rank 0's reporter: lines of JSON to the launcher.

    A launcher that cannot write (a paused terminal, a pager that nobody pages on) must not stop the training: what does
    not fit into the pipe is dropped. A line is no longer than what the system writes whole or not at all.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / _PIPE, os.O_WRONLY | os.O_NONBLOCK)

    def notice(self, text: str) -> None:
        """One line for the person running the command."""
        while len(line := _line(["notice", text])) > select.PIPE_BUF:
            text = f"{text[: len(text) // 2]}…"
        self._send(line)

    def progress(self, done: int, total: int | None, *, unit: str, detail: str = "") -> None:
        """Work done so far and in all."""
        self._send(_line(["progress", done, total, unit, detail]))

    def _send(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._descriptor, line)


def open_pipe(folder: Path) -> int:
    """Make the pipe; a descriptor to read from."""
    os.mkfifo(folder / _PIPE)
    return os.open(folder / _PIPE, os.O_RDWR)  # a writer of our own: rank 0's end is no end of file


def relay(descriptor: int, finished: threading.Event, reporter: Reporter) -> None:
    """Pass on what comes through the pipe, until `finished` and nothing is left."""
    rest = b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], 0.05)
        if not ready:
            if finished.is_set():
                break
            continue
        *lines, rest = (rest + os.read(descriptor, 65536)).split(b"\n")
        for line in lines:
            _pass_report(msgspec.json.decode(line), reporter)
    os.close(descriptor)


def _pass_report(message: list[Any], reporter: Reporter) -> None:
    if message[0] == "notice":
        reporter.notice(message[1])
    else:
        _, done, total, unit, detail = message
        reporter.progress(done, total, unit=unit, detail=detail)


def _line(message: list[object]) -> bytes:
    return msgspec.json.encode(message) + b"\n"
