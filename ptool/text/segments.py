r"""Lines cut at newlines alone, and what Gopher and FineWeb make of them: runs of lines, paragraphs, non-blank lines.

Three splits of one pass over the bytes, each equal to a line of Python:

    newline lines    text.split("\n")
    runs             re.split(r"\n+", text)
    paragraphs       re.split(r"\n{2,}", text.strip())

They differ from `str.splitlines()` (lines.py) for carriage returns and the rarer line ends; which one a rule uses is
part of its definition. Read off the bitmaps of a text (marks.py): 0.2 ns per byte, 13 bytes of memory per line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptool.text.characters import SPACE, character_flags
from ptool.text.compiled import kernel
from ptool.text.counts import sum_by_document
from ptool.text.kinds import TERMINAL, character_kinds
from ptool.text.marks import Marks, characters_before, count_in, first_one_from, first_zero, mark
from ptool.text.spans import span_type
from ptool.text.utf8 import character_at


@dataclass(frozen=True, eq=False)
class Segments:
    """Pieces of n documents, in order; byte offsets into `text`.

    text          uint8[total]          the buffer that the spans point into
    starts, ends  int32 or int64[s]     the piece, its separators left out
    num_chars     the same type[s]      its length in code points
    blank         bool[s]               whether it is whitespace alone
    doc_offsets   int64[n + 1]          where each document's pieces begin
    """

    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.signedinteger]
    ends: npt.NDArray[np.signedinteger]
    num_chars: npt.NDArray[np.signedinteger]
    blank: npt.NDArray[np.bool_]
    doc_offsets: npt.NDArray[np.int64]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """int64[n]: pieces of each document."""
        return np.diff(self.doc_offsets)

    def where(self, wanted: npt.NDArray[np.bool_]) -> Segments:
        """The pieces for which `wanted` (bool[s]) holds."""
        doc_offsets = np.zeros_like(self.doc_offsets)
        np.cumsum(sum_by_document(wanted, self.doc_offsets), out=doc_offsets[1:])
        columns = self.starts[wanted], self.ends[wanted], self.num_chars[wanted], self.blank[wanted]
        return Segments(self.text, *columns, doc_offsets=doc_offsets)

    def num_where(self, wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """int64[n]: pieces of each document for which `wanted` (bool[s]) holds."""
        return sum_by_document(wanted, self.doc_offsets)

    def ends_with_terminal(self) -> npt.NDArray[np.bool_]:
        """bool[s]: whether the last character ends a sentence in some script (kinds.TERMINAL)."""
        return _last_character_is(self.text, self.starts, self.ends, character_kinds(), TERMINAL)


def newline_lines(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], marks: Marks | None = None) -> Segments:
    r"""`text.split("\n")` of n texts; an empty text has one empty line. `marks` are the texts' own."""
    marks = marks or mark(text, offsets, cjk_apart=False)
    counts = count_in(marks.newlines, offsets) + 1
    doc_offsets = np.zeros(len(offsets), dtype=np.int64)
    np.cumsum(counts, out=doc_offsets[1:])
    spans = np.empty((3, int(doc_offsets[-1])), dtype=span_type(text))
    blank = np.empty(spans.shape[1], dtype=np.bool_)
    _split_newlines(offsets, marks.newlines, marks.spaces, marks.leads, marks.before, spans, blank)
    return Segments(text, spans[0], spans[1], spans[2], blank, doc_offsets)


def runs_of_lines(lines: Segments) -> Segments:
    r"""`re.split(r"\n+", text)`: the lines that are not empty, and empty pieces at the edges of a text."""
    filled = lines.ends > lines.starts
    filled[lines.doc_offsets[:-1]] = True
    filled[lines.doc_offsets[1:] - 1] = True
    return lines.where(filled)


def paragraphs(lines: Segments) -> Segments:
    r"""`re.split(r"\n{2,}", text.strip())` of the texts that `lines` were cut from."""
    text = lines.text
    spans = np.empty((3, len(lines.starts)), dtype=lines.starts.dtype)
    doc_offsets = np.zeros_like(lines.doc_offsets)
    num = _join_paragraphs(
        text, lines.starts, lines.ends, lines.num_chars, lines.blank, lines.doc_offsets, character_flags(), spans,
        doc_offsets,
    )  # fmt: skip
    starts, ends, num_chars = spans[:, :num]
    return Segments(text, starts, ends, num_chars, num_chars == 0, doc_offsets)


@kernel
def _split_newlines(
    offsets: npt.NDArray[np.int64],
    newlines: npt.NDArray[np.uint64],
    spaces: npt.NDArray[np.uint64],
    leads: npt.NDArray[np.uint64],
    before: npt.NDArray[np.int64],
    spans: npt.NDArray[np.signedinteger],
    blank: npt.NDArray[np.bool_],
) -> None:
    line = 0
    for document in range(len(offsets) - 1):
        position = offsets[document]
        stop = offsets[document + 1]
        while position <= stop:
            end = first_one_from(newlines, position, stop)
            spans[0, line] = position
            spans[1, line] = end
            spans[2, line] = characters_before(leads, before, end) - characters_before(leads, before, position)
            blank[line] = first_zero(spaces, position, end) == end
            line += 1
            position = end + 1


@kernel
def _join_paragraphs(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    num_chars: npt.NDArray[np.signedinteger],
    blank: npt.NDArray[np.bool_],
    line_offsets: npt.NDArray[np.int64],
    table: npt.NDArray[np.uint8],
    spans: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
) -> int:
    found = 0
    for document in range(len(line_offsets) - 1):
        first = line_offsets[document]
        last = line_offsets[document + 1] - 1
        while first <= last and blank[first]:
            first += 1
        while last >= first and blank[last]:
            last -= 1
        if first > last:  # nothing but whitespace: split gives one empty paragraph
            spans[0, found] = starts[line_offsets[document]]
            spans[1, found] = starts[line_offsets[document]]
            spans[2, found] = 0
            found += 1
        line = first
        while line <= last:
            begin = line
            chars = -1
            while line <= last and ends[line] > starts[line]:
                chars += num_chars[line] + 1
                line += 1
            start = int(starts[begin])
            end = int(ends[line - 1])
            if begin == first:
                while True:
                    code, size = character_at(text, start)
                    if not table[code] & SPACE:
                        break
                    start += size
                    chars -= 1
            if line > last:
                while True:
                    previous = end - 1
                    while text[previous] & 0xC0 == 0x80:
                        previous -= 1
                    code, size = character_at(text, previous)
                    if not table[code] & SPACE:
                        break
                    end = previous
                    chars -= 1
            spans[0, found] = start
            spans[1, found] = end
            spans[2, found] = chars
            found += 1
            while line <= last and ends[line] == starts[line]:
                line += 1
        doc_offsets[document + 1] = found
    return found


@kernel
def _last_character_is(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    table: npt.NDArray[np.uint8],
    flag: int,
) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(starts), dtype=np.bool_)
    for segment in range(len(starts)):
        position = int(ends[segment]) - 1
        if position < starts[segment]:
            continue
        while text[position] & 0xC0 == 0x80:
            position -= 1
        code, _ = character_at(text, position)
        found[segment] = table[code] & flag != 0
    return found
