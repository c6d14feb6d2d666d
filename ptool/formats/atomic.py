"""Files that are there whole or not at all.

A writer fills a temporary file in the folder of its target, flushes it to the disk, and renames it. POSIX makes the
rename atomic, so `kill -9` at any moment leaves the old file or none. Cost: one fsync of the file, one of its folder.
The temporary is named `.NAME.HOST-PID-HEX.part` (HOST is a checksum of the host's name); one left by a killed process
is removed by the next process on that host that writes the same name, once the one that left it is gone.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ptool.errors import OutputError

_BUFFER = 1 << 20
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.part")


class PendingFile:
    """A file under a temporary name: write to `file`, `seal` it on the disk, then `publish` or `discard` it.

    Several outputs that belong together are all sealed before the first is published, so that a full disk leaves none.
    Raises OutputError when the folder is missing or read-only, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with describing_os_errors(path):
            if path.exists() and not path.is_file():
                # The rename would put a file in its place: of /dev/null, for root.
                raise OutputError("it is there and is no file", where=str(path), hint="give the name of a file")
            _remove_orphans(path)
            self._temporary = temporary_name(path)
            # 0666 less the umask, as open() has it; O_EXCL: never somebody else's file.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(self._temporary, flags, 0o666)
            self.file: BinaryIO = os.fdopen(descriptor, "wb", buffering=_BUFFER)

    def close(self) -> None:
        """Close the file for a while: of many outputs, not all can be open at once."""
        with describing_os_errors(self.path):
            self.file.close()

    def reopen(self) -> None:
        """Go on writing where `close` left off."""
        if self.file.closed:
            with describing_os_errors(self.path):
                self.file = self._temporary.open("ab", buffering=_BUFFER)

    def seal(self) -> None:
        """Bring everything written to the disk and close the file."""
        if not self.file.closed:
            with describing_os_errors(self.path):
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()

    def publish(self, *, durable: bool = True) -> None:
        """Give the file its name; not `durable`: somebody brings it to the disk later, with others (`sync_file`)."""
        if durable:
            self.seal()
        with describing_os_errors(self.path):
            self.file.close()
            self._temporary.replace(self.path)
            if durable:
                sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove the temporary file; harmless after `publish`."""
        with suppress(OSError):
            self.file.close()  # flushes, which fails again on a full disk
        with suppress(OSError):
            self._temporary.unlink()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends, and leaves nothing behind when it raises."""
    pending = PendingFile(path)
    try:
        with describing_os_errors(path):
            yield pending.file
        pending.publish()
    except BaseException:
        pending.discard()
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, atomically."""
    with replacing(path) as file:
        file.write(data)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no reader takes for an output."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part")


def is_temporary(path: Path) -> bool:
    """Whether `path` has the name of an unfinished output."""
    return _TEMPORARY.fullmatch(path.name) is not None


def sync_file(path: Path) -> None:
    """Bring a file that is closed to the disk."""
    with describing_os_errors(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems refuse fsync on folders; their renames are durable by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def describing_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing `path` into one line a person can act on."""
    try:
        yield
    except BrokenPipeError:
        raise  # a reader that left is no failure of ours: the process ends by SIGPIPE
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space or write elsewhere",
            errno.EDQUOT: "the quota is used up; free some space or write elsewhere",
            errno.EROFS: "write elsewhere",
            errno.EACCES: "check the folder's permissions or write elsewhere",
            errno.ENOENT: f"create the folder first: mkdir -p {path.parent}",
        }
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot write: {reason}", where=str(path), hint=hints.get(error.errno or 0)) from error


_left_behind: dict[str, dict[str, list[tuple[int, str]]]] = {}
"""By folder, the temporaries of this host that were there at first: of which name, by which process, called what."""


def _remove_orphans(path: Path) -> None:
    # A folder is listed once: with an output for each file of a crawl it has 300,000 entries, and as many writers.
    folder = str(path.parent.absolute())
    if folder not in _left_behind:
        with suppress(OSError):
            _left_behind[folder] = _temporaries(folder)
    found = _left_behind.get(folder, {}).pop(path.name, [])
    alive = [(pid, name) for pid, name in found if _is_alive(pid)]
    if alive:  # not forever, perhaps
        _left_behind[folder][path.name] = alive
    for pid, name in found:
        if (pid, name) not in alive:
            with suppress(OSError):
                path.with_name(name).unlink()


def _temporaries(folder: str) -> dict[str, list[tuple[int, str]]]:
    found: dict[str, list[tuple[int, str]]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match and match["host"] == _host():
                found.setdefault(match["name"], []).append((int(match["pid"]), entry.name))
    return found


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
