r"""Sentences by their punctuation, in any script: datatrove 0.10.1's own rule for languages without a model.

A sentence is what this expression of its `WhitespaceTokenizer` finds, line by line, and a line without any counts as
one (utils/text.py, split_into_sentences):

    (?:(?:\p{Lu}\.)|.)+?[<terminal punctuation>\n]+["'”]?

So a capital and its full stop ("J. Smith") end no sentence unless nothing else does. The kernel below walks the same
path as the regular expression engine, from punctuation to punctuation; which letters are capitals (`\p{Lu}`) is that of
the running Python.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.counts import sum_by_document
from ptool.text.kinds import TERMINAL, UPPER, character_kinds
from ptool.text.marks import first_one_from
from ptool.text.segments import Segments
from ptool.text.utf8 import character_at
from ptool.text.vectors import bytes_between, first_one

_QUOTES = (0x22, 0x27, 0x201D)


def count_sentences(lines: Segments) -> npt.NDArray[np.int64]:
    """int64[n]: sentences of each document, over its newline lines; 0 for an empty text."""
    terminals = np.zeros(len(lines.text) // 64 + 2, dtype=np.uint64)
    _mark_terminals(lines.text, character_kinds(), terminals)
    counts = _count(lines.text, lines.starts, lines.ends, terminals, character_kinds())
    one_empty_line = (lines.counts == 1) & (lines.ends == lines.starts)[lines.doc_offsets[:-1]]
    return np.where(one_empty_line, 0, sum_by_document(counts, lines.doc_offsets))


@kernel
def _mark_terminals(
    text: npt.NDArray[np.uint8], table: npt.NDArray[np.uint8], terminals: npt.NDArray[np.uint64]
) -> None:
    """Set the bit of every first byte of a TERMINAL."""
    whole = len(text) // 64
    for block in range(whole):
        position = 64 * block
        found = bytes_between(text, position, 0x21, 0x21) | bytes_between(text, position, 0x2E, 0x2E)
        found |= bytes_between(text, position, 0x3F, 0x3F)
        heads = bytes_between(text, position, 0xC2, 0xF4)
        while heads:
            at = first_one(heads)
            heads &= heads - np.uint64(1)
            code, _ = character_at(text, position + at)
            if table[code] & TERMINAL:
                found |= np.uint64(1) << np.uint64(at)
        terminals[block] = found
    for position in range(64 * whole, len(text)):
        if text[position] < 0x80 or text[position] >= 0xC2:
            code, _ = character_at(text, position)
            if table[code] & TERMINAL:
                terminals[whole] |= np.uint64(1) << np.uint64(position & 63)


@kernel
def _count(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    terminals: npt.NDArray[np.uint64],
    table: npt.NDArray[np.uint8],
) -> npt.NDArray[np.int64]:
    counts = np.ones(len(starts), dtype=np.int64)
    for line in range(len(starts)):
        position = int(starts[line])
        stop = int(ends[line])
        found = 0
        while position < stop:
            # The punctuation that ends the sentence, or else the last full stop after a capital that was passed over.
            mark = first_one_from(terminals, position + 1, stop)
            after_capital = -1
            while mark < stop and text[mark] == 0x2E and _is_capital_before(text, mark, table):
                after_capital = mark
                mark = first_one_from(terminals, mark + 1, stop)
            if mark == stop:
                mark = after_capital
            if mark < 0:
                break
            found += 1
            position = mark
            while position < stop:
                code, size = character_at(text, position)
                if not table[code] & TERMINAL:
                    if code in _QUOTES:
                        position += size
                    break
                position += size
        counts[line] = max(found, 1)
    return counts


@kernel
def _is_capital_before(text: npt.NDArray[np.uint8], position: int, table: npt.NDArray[np.uint8]) -> bool:
    before = position - 1
    while text[before] & 0xC0 == 0x80:
        before -= 1
    code, _ = character_at(text, before)
    return bool(table[code] & UPPER != 0)
