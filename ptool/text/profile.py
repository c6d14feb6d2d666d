"""What kinds of characters a text is made of: one pass, a handful of counts per document.

Each count is what one line of Python would say (the tests' twin does); together they cost 2 ns per byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptool.text.characters import LETTER, SPACE, character_flags
from ptool.text.compiled import kernel
from ptool.text.kinds import BROKEN, DIGIT, MARK, SCRIPT_SHIFT, SCRIPTS, UPPER, character_kinds
from ptool.text.utf8 import character_at

_NUM_COUNTS = 6


@dataclass(frozen=True, eq=False)
class Profile:
    """Counts of code points (int64[n] each).

    `marks` combine with the character before; `broken` are controls, U+FFFD, private use, noncharacters and the signs
    of UTF-8 read as Latin-1 (Ã©, â€™); `longest_run` is the longest run of one character that is no whitespace;
    `by_script` is int64[n, len(SCRIPTS)], letters alone, with nothing under "none".
    """

    spaces: npt.NDArray[np.int64]
    digits: npt.NDArray[np.int64]
    letters: npt.NDArray[np.int64]
    marks: npt.NDArray[np.int64]
    uppercase: npt.NDArray[np.int64]
    broken: npt.NDArray[np.int64]
    longest_run: npt.NDArray[np.int64]
    by_script: npt.NDArray[np.int64]

    def of_script(self, name: str) -> npt.NDArray[np.int64]:
        """int64[n]: letters of a script in SCRIPTS."""
        return self.by_script[:, SCRIPTS.index(name)]


def profile(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Profile:
    """Count the characters of n texts."""
    counts = np.zeros((_NUM_COUNTS, len(offsets) - 1), dtype=np.int64)
    by_script = np.zeros((len(offsets) - 1, 16), dtype=np.int64)
    _profile(text, offsets, character_flags(), character_kinds(), counts, by_script)
    marks = by_script[:, MARK].copy()
    by_script[:, 0] = 0
    spaces, digits, letters, uppercase, broken, longest_run = counts
    return Profile(spaces, digits, letters, marks, uppercase, broken, longest_run, by_script[:, : len(SCRIPTS)])


@kernel
def _profile(
    text: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    table: npt.NDArray[np.uint8],
    kinds: npt.NDArray[np.uint8],
    counts: npt.NDArray[np.int64],
    by_script: npt.NDArray[np.int64],
) -> None:
    for document in range(len(offsets) - 1):
        position = offsets[document]
        previous = -1
        run = 0
        longest = 0
        while position < offsets[document + 1]:
            code, size = character_at(text, position)
            position += size
            flags = table[code]
            kind = kinds[code]
            if flags & SPACE:
                counts[0, document] += 1
                run = 0
            else:
                run = run + 1 if code == previous else 1
                longest = max(longest, run)
            counts[1, document] += kind & DIGIT != 0
            counts[3, document] += kind & UPPER != 0
            counts[2, document] += flags & LETTER != 0
            by_script[document, kind >> SCRIPT_SHIFT] += 1
            # A UTF-8 lead byte and a continuation byte, each taken for a character of Latin-1 or Windows-1252.
            misread = (0xC2 <= previous <= 0xC5 and (0x80 <= code <= 0xBF or code in (0x2122, 0x201C, 0x201D))) or (
                previous == 0xE2 and code == 0x20AC
            )
            counts[4, document] += (kind & BROKEN != 0) or misread
            previous = int(code)
        counts[5, document] = longest
