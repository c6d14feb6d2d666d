"""Seeing on every host what rank 0 has written on its own.

A network file system remembers what it was asked: a host that looked for a file before it was there (as planning does)
may be told for half a minute and more that it is not, though rank 0 has long written it (`man 5 nfs`: lookupcache,
acdirmin; FUSE mounts of object stores likewise). So the ranks are told by rank 0 what the file holds, and wait until
they see it. Opening a folder makes an NFS client ask the server for it again, so the wait is mostly short.

Where it is never seen, the folder is no shared one, and the error says so. Torch-free.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from ptool.errors import InputError

SECONDS = 120.0
"""The longest wait; NFS forgets what it remembers of a folder after 60 s (acdirmax) unless mounted otherwise."""
LOOK_AGAIN_SECONDS = 0.1


def wait_for(path: Path, content: bytes | None = None, *, seconds: float = SECONDS) -> None:
    """Return when `path` can be read here, with `content` where that is given.

    Raises InputError after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not _is_seen(path, content):
        if time.monotonic() >= deadline:
            raise InputError(
                f"rank 0 has written this file, and host {socket.gethostname()} does not see it",
                where=str(path),
                hint="the run folder must lie on a file system that all hosts share",
            )
        for folder in (path.parent.parent, path.parent):
            with suppress(OSError):
                os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        time.sleep(LOOK_AGAIN_SECONDS)


def _is_seen(path: Path, content: bytes | None) -> bool:
    with suppress(OSError):
        return path.is_file() if content is None else path.read_bytes() == content
    return False
