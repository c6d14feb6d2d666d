"""The kept documents' shingle hashes, on disk: what exact verification compares, and too much to hold in memory.

A page of text has hundreds of distinct shingles of 4 bytes each, more than all the rest of the index together, and only
a candidate's are ever read. They stand one document after another in a file that is mapped into memory, so the kernels
index it like an array and the system keeps the pages that are used.

The file has no name from the moment it exists: however the process ends, `kill -9` included, its space comes back.
Space is allocated before it is written to (`posix_fallocate`), because a full disk met through a mapping would be a
SIGBUS, not an error. A temporary folder on a tmpfs is memory again, so that is always said.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from ptool.dedup.exact import Column
from ptool.dedup.tables import Numbers
from ptool.errors import UsageError
from ptool.formats.atomic import describing_os_errors
from ptool.reporting import SILENT, Reporter

_VALUE_BYTES = 4
_LEAST_GROWTH = 1 << 20


class ShingleSpool:
    """`values` uint32[capacity]: the sets one after another; `ends` int64[documents, 1]: where each ends.

    Both arrays are replaced as a whole while growing; keep no view of them. Raises OutputError when the disk is full.
    """

    def __init__(self, folder: Path | None = None, *, reporter: Reporter = SILENT) -> None:
        self.folder = folder or default_folder()
        if is_in_memory(self.folder):
            reporter.notice(
                f"{self.folder} is in memory (tmpfs): the spool of shingles counts as memory; see --tmp-dir"
            )
        self.ends = Column(1, np.int64)
        self.values: Numbers = np.zeros(0, dtype=np.uint32)
        with describing_os_errors(self.folder / "spool"):
            self._descriptor = _nameless_file(self.folder)

    def reserve(self, num_documents: int, num_values: int) -> None:
        """Make room for this many documents and values in all."""
        self.ends.reserve(num_documents)
        capacity = len(self.values)
        if num_values > capacity:
            size = (max(num_values, capacity + capacity // 8) * _VALUE_BYTES + _LEAST_GROWTH) // mmap.PAGESIZE
            self._resize(size * mmap.PAGESIZE)

    def size_of(self, num_documents: int) -> int:
        """Values that the first `num_documents` documents have."""
        return int(self.ends.array[num_documents - 1, 0]) if num_documents else 0

    def close(self) -> None:
        """Give the space back; the arrays are empty afterwards."""
        self.values = np.zeros(0, dtype=np.uint32)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _resize(self, num_bytes: int) -> None:
        present = len(self.values) * _VALUE_BYTES
        with describing_os_errors(self.folder / "spool"):
            os.posix_fallocate(self._descriptor, present, num_bytes - present)
            mapping = mmap.mmap(self._descriptor, num_bytes)
        mapping.madvise(mmap.MADV_RANDOM)  # candidates lie anywhere: reading ahead would only displace others
        self.values = np.frombuffer(mapping, dtype=np.uint32)


def default_folder() -> Path:
    """$TMPDIR, else /var/tmp: for large temporary files, and on disk where /tmp may be a tmpfs."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")


def is_in_memory(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether `folder` lies on a tmpfs or ramfs, by the longest mount point that is above it."""
    try:
        target = folder.resolve()
        best, kind = -1, ""
        for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            before, _, after = line.partition(" - ")
            point = Path(before.split(" ")[4].replace("\\040", " "))
            if (point == target or point in target.parents) and len(point.parts) >= best:
                best, kind = len(point.parts), after.split(" ")[0]
    except (OSError, IndexError):
        return False  # nothing to be told
    return kind in ("tmpfs", "ramfs")


def _nameless_file(folder: Path) -> int:
    if not folder.is_dir():
        raise UsageError("the folder for temporary files is missing", where=str(folder), hint="--tmp-dir FOLDER")
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    # Some network file systems know no files without names: there it has one for a moment.
    descriptor, name = tempfile.mkstemp(prefix="ptool-spool-", dir=folder)
    Path(name).unlink()
    return descriptor
