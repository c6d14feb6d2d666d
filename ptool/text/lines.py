"""Lines of text as spans of the buffer, cut where `str.splitlines()` cuts, each with its edges stripped of whitespace.

Python's set of line ends is larger than most people expect: besides newline and CRLF it has vertical tab, form feed,
three ASCII separators, NEL, U+2028 and U+2029. Reference filters are written in Python, so decisions follow it. Read
off the bitmaps of a text (marks.py): 0.2 ns per byte, 16 bytes of memory per line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.counts import sum_by_document
from ptool.text.marks import Marks, count_in, first_one_from, first_zero, last_zero, mark
from ptool.text.spans import span_type


@dataclass(frozen=True, eq=False)
class LineSpans:
    """The lines of n documents, in order; byte offsets into `text`, line ends left out.

    text                        uint8[total]  the buffer that the spans point into
    starts, ends                int32|int64[l]  the line; 64 bits for buffers of 2 GiB and more
    stripped_starts, _ends      int32|int64[l]  the line without whitespace at its edges (both `ends` for a blank one)
    doc_offsets                 int64[n + 1]  where each document's lines begin
    marks                       bitmaps of `text`
    """

    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.signedinteger]
    ends: npt.NDArray[np.signedinteger]
    stripped_starts: npt.NDArray[np.signedinteger]
    stripped_ends: npt.NDArray[np.signedinteger]
    doc_offsets: npt.NDArray[np.int64]
    marks: Marks

    @property
    def num_lines(self) -> npt.NDArray[np.int64]:
        """int64[n]: lines of each document."""
        return np.diff(self.doc_offsets)

    def num_starting(self, *marks: str) -> npt.NDArray[np.int64]:
        """int64[n]: lines whose first characters, whitespace aside, are one of `marks`."""
        return self._num_at(marks, at_end=False)

    def num_ending(self, *marks: str) -> npt.NDArray[np.int64]:
        """int64[n]: lines whose last characters, whitespace aside, are one of `marks`."""
        return self._num_at(marks, at_end=True)

    def _num_at(self, marks: tuple[str, ...], *, at_end: bool) -> npt.NDArray[np.int64]:
        found = np.zeros(len(self.starts), dtype=np.bool_)
        for one in marks:
            wanted = np.frombuffer(one.encode(), dtype=np.uint8)
            _mark_edges(self.text, self.stripped_starts, self.stripped_ends, wanted, at_end, found)
        return sum_by_document(found, self.doc_offsets)


def split_lines(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], marks: Marks | None = None) -> LineSpans:
    """The lines of n texts, text i being the valid UTF-8 at `text[offsets[i]:offsets[i + 1]]`; `marks` are its own."""
    marks = marks or mark(text, offsets, cjk_apart=False)
    doc_offsets = np.zeros(len(offsets), dtype=np.int64)
    most = int(count_in(marks.breaks, offsets).sum()) + len(offsets)
    spans = np.empty((4, most), dtype=span_type(text))
    num_lines = _split(text, offsets, marks.breaks, marks.spaces, spans, doc_offsets)
    starts, ends, stripped_starts, stripped_ends = spans[:, :num_lines]
    return LineSpans(text, starts, ends, stripped_starts, stripped_ends, doc_offsets, marks)


@kernel
def _split(
    text: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    breaks: npt.NDArray[np.uint64],
    spaces: npt.NDArray[np.uint64],
    spans: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
) -> int:
    line = 0
    for document in range(len(offsets) - 1):
        position = offsets[document]
        stop = offsets[document + 1]
        while position < stop:
            end = first_one_from(breaks, position, stop)
            stripped = first_zero(spaces, position, end)
            spans[0, line] = position
            spans[1, line] = end
            spans[2, line] = stripped
            spans[3, line] = last_zero(spaces, stripped, end) + 1 if stripped < end else end
            line += 1
            position = end
            if position < stop:
                first = text[position]
                position += 1 if first < 0x80 else 2 if first < 0xE0 else 3
                if first == 0x0D and position < stop and text[position] == 0x0A:
                    position += 1
        doc_offsets[document + 1] = line
    return line


@kernel
def _mark_edges(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    wanted: npt.NDArray[np.uint8],
    at_end: bool,
    found: npt.NDArray[np.bool_],
) -> None:
    size = len(wanted)
    for line in range(len(starts)):
        if ends[line] - starts[line] >= size:
            first = int(ends[line]) - size if at_end else int(starts[line])
            matched = 0
            while matched < size and text[first + matched] == wanted[matched]:
                matched += 1
            if matched == size:
                found[line] = True
