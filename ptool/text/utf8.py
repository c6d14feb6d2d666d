"""Reading UTF-8 inside a kernel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel


@kernel
def character_at(text: npt.NDArray[np.uint8], position: int) -> tuple[np.int64, int]:
    """Code point and length in bytes of the character that begins at `position`."""
    first = np.int64(text[position])
    if first < 0x80:
        return first, 1
    second = np.int64(text[position + 1]) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, 2
    third = np.int64(text[position + 2]) & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, 3
    fourth = np.int64(text[position + 3]) & 0x3F
    return (first & 0x07) << 18 | second << 12 | third << 6 | fourth, 4
