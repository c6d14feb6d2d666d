"""Lines that look like logs or like rows of a table, told by their bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.segments import Segments

LOG_START = 24
LOG_DIGITS = 6
TABLE_SEPARATORS = 2


def look_like_logs(lines: Segments) -> npt.NDArray[np.bool_]:
    """bool[s]: lines with six ASCII digits or more among their first 24 bytes: a date, a time, an address."""
    return _many_digits(lines.text, lines.starts, lines.ends)


def look_like_rows(lines: Segments) -> npt.NDArray[np.bool_]:
    """bool[s]: lines with two separators or more: tabs, bars, or runs of spaces between other characters."""
    return _many_separators(lines.text, lines.starts, lines.ends)


@kernel
def _many_digits(
    text: npt.NDArray[np.uint8], starts: npt.NDArray[np.signedinteger], ends: npt.NDArray[np.signedinteger]
) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(starts), dtype=np.bool_)
    for line in range(len(starts)):
        digits = 0
        for position in range(starts[line], min(int(ends[line]), int(starts[line]) + LOG_START)):
            digits += 0x30 <= text[position] <= 0x39
        found[line] = digits >= LOG_DIGITS
    return found


@kernel
def _many_separators(
    text: npt.NDArray[np.uint8], starts: npt.NDArray[np.signedinteger], ends: npt.NDArray[np.signedinteger]
) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(starts), dtype=np.bool_)
    for line in range(len(starts)):
        separators = 0
        spaces = 0
        begun = False
        for position in range(starts[line], ends[line]):
            byte = text[position]
            if byte == 0x20:
                spaces += 1
                continue
            separators += (byte == 0x09 and begun) or byte == 0x7C or (spaces > 1 and begun)
            spaces = 0
            begun |= byte != 0x09
        found[line] = separators >= TABLE_SEPARATORS
    return found
