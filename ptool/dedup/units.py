"""Lines and paragraphs of texts as units that are compared, and texts with some of them cut out.

A line ends at a newline; a paragraph is a run of lines that are not blank. Units are compared without spaces, tabs and
carriage returns at their edges; blank lines are no units. What is cut out with a unit is all up to the next one: its
newline, or the blank lines after it. What was before the first unit stays.

One pass over the bytes, 1 ns each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.hashing import Bytes, Offsets

Unit = Literal["document", "paragraph", "line"]


@dataclass(frozen=True, eq=False)
class Units:
    """Byte spans `starts`, `ends` (int64[u], edges stripped); document i has `doc_offsets[i]:doc_offsets[i + 1]`."""

    starts: Offsets
    ends: Offsets
    doc_offsets: Offsets


def find_units(text: Bytes, offsets: Offsets, unit: Unit) -> Units:
    """The units of n texts, text i being the UTF-8 at `text[offsets[i]:offsets[i + 1]]`."""
    most = int(np.count_nonzero(text == 10)) + len(offsets)
    starts, ends = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    doc_offsets = np.zeros(len(offsets), dtype=np.int64)
    count = _find(text, offsets, unit == "paragraph", starts, ends, doc_offsets)
    return Units(starts[:count], ends[:count], doc_offsets)


def as_texts(text: Bytes, units: Units) -> tuple[Bytes, Offsets]:
    """The units as texts of their own, one after another."""
    offsets = np.zeros(len(units.starts) + 1, dtype=np.int64)
    np.cumsum(units.ends - units.starts, out=offsets[1:])
    joined = np.empty(int(offsets[-1]), dtype=np.uint8)
    _copy(text, units.starts, offsets, joined)
    return joined, offsets


@dataclass(frozen=True)
class CutText:
    """What is left of a text, and the spans that went, as offsets into its UTF-8; `is_empty`: no unit is left."""

    left: bytes
    spans: list[tuple[int, int]]
    is_empty: bool


def cut(text: Bytes, offsets: Offsets, units: Units, gone: npt.NDArray[np.bool_], document: int) -> CutText:
    """Document `document` without its units for which `gone` holds; neighbours that go are one span."""
    first, last = int(units.doc_offsets[document]), int(units.doc_offsets[document + 1])
    start, end = int(offsets[document]), int(offsets[document + 1])
    spans: list[tuple[int, int]] = []
    pieces: list[bytes] = []
    position = start
    for unit in range(first, last):
        if gone[unit]:
            begin = int(units.starts[unit])
            stop = int(units.starts[unit + 1]) if unit + 1 < last else end
            pieces.append(text[position:begin].tobytes())
            if spans and spans[-1][1] == begin - start:
                spans[-1] = (spans[-1][0], stop - start)
            else:
                spans.append((begin - start, stop - start))
            position = stop
    pieces.append(text[position:end].tobytes())
    return CutText(b"".join(pieces), spans, bool(gone[first:last].all()))


@kernel
def _find(text: Bytes, offsets: Offsets, paragraphs: bool, starts: Offsets, ends: Offsets, doc_offsets: Offsets) -> int:
    unit = 0
    for document in range(len(offsets) - 1):
        position, stop = offsets[document], offsets[document + 1]
        is_open = False  # the line before belongs to a paragraph
        while position < stop:
            line_end = position
            while line_end < stop and text[line_end] != 10:
                line_end += 1
            first, last = position, line_end
            while first < last and (text[first] == 32 or text[first] == 9 or text[first] == 13):
                first += 1
            while last > first and (text[last - 1] == 32 or text[last - 1] == 9 or text[last - 1] == 13):
                last -= 1
            if first == last:
                is_open = False
            elif paragraphs and is_open:
                ends[unit - 1] = last
            else:
                starts[unit], ends[unit] = first, last
                unit += 1
                is_open = True
            position = line_end + 1
        doc_offsets[document + 1] = unit
    return unit


@kernel
def _copy(text: Bytes, starts: Offsets, offsets: Offsets, joined: Bytes) -> None:
    for unit in range(len(starts)):
        for i in range(offsets[unit + 1] - offsets[unit]):
            joined[offsets[unit] + i] = text[starts[unit] + i]
