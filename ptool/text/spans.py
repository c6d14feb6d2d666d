"""The integer type of byte positions: 32 bits for any buffer that allows it, half the memory of 64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MOST = 2**31 - 1


def span_type(text: npt.NDArray[np.uint8]) -> type[np.int32 | np.int64]:
    """int32 where every position in `text` fits, int64 for a buffer of 2 GiB and more (a single huge line)."""
    return np.int32 if len(text) <= _MOST else np.int64
