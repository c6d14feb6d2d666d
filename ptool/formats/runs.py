"""`FILE.run.json`: when, where and how long a run took. Never part of a digest, so it may say what changes."""

from __future__ import annotations

import os
import platform
import resource
import socket
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ptool.errors import OutputError
from ptool.formats.atomic import write_bytes


class RunRecord:
    """Started when made; `write` puts the record beside an output (in a folder: `run.json`)."""

    def __init__(self) -> None:
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()

    def write(self, output: Path) -> None:
        """Record the run that made `output`. A record that cannot be written is no reason to lose the output."""
        from ptool import __version__

        usage = resource.getrusage(resource.RUSAGE_SELF)
        record = {
            # A name that is no UTF-8 arrives with surrogates, which JSON must not have.
            "command": [one.encode("utf-8", "backslashreplace").decode() for one in sys.argv],
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "peak_memory_bytes": usage.ru_maxrss * 1024,
            "pid": os.getpid(),
            "python": platform.python_version(),
            "seconds": round(time.monotonic() - self._clock, 3),
            "started": self._started.isoformat(timespec="seconds"),
            "version": __version__,
        }
        path = output / "run.json" if output.is_dir() else output.with_name(output.name + ".run.json")
        with suppress(OSError, OutputError):
            write_bytes(path, msgspec.json.format(msgspec.json.encode(record)) + b"\n")
