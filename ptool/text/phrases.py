"""Lines that hold a phrase, compared as `str.lower` compares: one pass, a few phrases at most."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.segments import Segments


def count_lines_with(lines: Segments, phrase: str, *, before: str = "") -> npt.NDArray[np.int64]:
    """int64[n]: lines of each document with `phrase`, whatever its case; `before`: those above the first with that one.

    Phrases are ASCII in lower case and begin with no `k` (the Kelvin sign's lower case).
    """
    found = _lines_with(lines.text, lines.starts, lines.ends, _letters(phrase), _lower_case())
    if before:
        ends = _lines_with(lines.text, lines.starts, lines.ends, _letters(before), _lower_case())
        found &= ~_from_first_on(ends, lines.doc_offsets)
    return lines.num_where(found)


def _letters(phrase: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(phrase.lower().encode(), dtype=np.uint8)


def _lower_case() -> npt.NDArray[np.uint8]:
    return np.frombuffer(bytes(range(256)).lower(), dtype=np.uint8)


@kernel
def _lines_with(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    letters: npt.NDArray[np.uint8],
    lower: npt.NDArray[np.uint8],
) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(starts), dtype=np.bool_)
    first = letters[0]
    for line in range(len(starts)):
        stop = int(ends[line])
        position = int(starts[line])
        while position <= stop - len(letters) and not found[line]:
            if lower[text[position]] == first:
                at = position
                matched = 0
                while matched < len(letters) and at < stop:
                    if letters[matched] == lower[text[at]]:
                        at += 1
                    elif (
                        letters[matched] == 0x6B and text[at] == 0xE2 and text[at + 1] == 0x84 and text[at + 2] == 0xAA
                    ):
                        at += 3  # the Kelvin sign
                    else:
                        break
                    matched += 1
                found[line] = matched == len(letters)
            position += 1
    return found


@kernel
def _from_first_on(marked: npt.NDArray[np.bool_], doc_offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    after = np.zeros(len(marked), dtype=np.bool_)
    for document in range(len(doc_offsets) - 1):
        reached = False
        for line in range(doc_offsets[document], doc_offsets[document + 1]):
            reached |= marked[line]
            after[line] = reached
    return after
