"""Standard streams that the caller has closed (`>&-`, `2>&-`, some daemons).

A file that is opened next takes the free number, and what libraries and signal handlers say on descriptor 2 would go
into somebody's tokens. So the three numbers are taken first: stdin has nothing to read, what goes to stderr is gone,
and writing to stdout fails, because the product is not to be lost without a word.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

MISSING: set[int] = set()
"""The numbers that were free when this process began."""


def fill_missing() -> None:
    """Open what is missing of descriptors 0, 1 and 2, and give Python its streams for them."""
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            MISSING.add(descriptor)
            os.set_inheritable(os.open(os.devnull, mode), True)  # the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def let_go(stream: TextIO) -> None:
    """Flush a stream at the end; what cannot be written was reported, and Python is not to complain again (120)."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except ValueError:
        pass  # closed
