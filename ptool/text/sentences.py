r"""Sentences by their punctuation, in any script: datatrove 0.10.1's own rule for languages without a model.

A sentence is what this expression of its `WhitespaceTokenizer` finds, line by line, and a line without any counts as
one (utils/text.py, split_into_sentences):

    (?:(?:\p{Lu}\.)|.)+?[<terminal punctuation>\n]+["'”]?

So a capital and its full stop ("J. Smith") end no sentence unless nothing else does. The kernel below walks the same
path as the regular expression engine in one pass; which letters are capitals (`\p{Lu}`) is that of the running Python.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.counts import sum_by_document
from ptool.text.kinds import TERMINAL, UPPER, character_kinds
from ptool.text.segments import Segments
from ptool.text.utf8 import character_at

_QUOTES = (0x22, 0x27, 0x201D)


def count_sentences(lines: Segments) -> npt.NDArray[np.int64]:
    """int64[n]: sentences of each document, over its newline lines; 0 for an empty text."""
    counts = _count(lines.text, lines.starts, lines.ends, character_kinds())
    one_empty_line = (lines.counts == 1) & (lines.ends == lines.starts)[lines.doc_offsets[:-1]]
    return np.where(one_empty_line, 0, sum_by_document(counts, lines.doc_offsets))


@kernel
def _count(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    table: npt.NDArray[np.uint8],
) -> npt.NDArray[np.int64]:
    counts = np.ones(len(starts), dtype=np.int64)
    for line in range(len(starts)):
        position = int(starts[line])
        stop = int(ends[line])
        found = 0
        while position < stop:
            at = position
            mark = -1  # where the punctuation that ends the sentence begins
            after_capital = -1  # the last full stop that was passed over
            while at < stop:
                code, size = character_at(text, at)
                kind = table[code]
                if kind & TERMINAL and at > position:
                    mark = at
                    break
                at += size
                if kind & UPPER and at < stop and text[at] == 0x2E:
                    after_capital = at
                    at += 1
            if mark < 0:
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
