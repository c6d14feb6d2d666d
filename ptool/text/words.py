"""Words as spans of the text buffer, with what rules ask of a word: its length, and whether it has letters.

Three splitters. `whitespace` is `str.split()`. `cjk`, the default, cuts the same and makes every ideograph and kana a
word of its own (a voicing mark or variation selector stays with it), because Chinese and Japanese are written without
spaces: a page would be one word, and every rule about words would judge noise. Text without such characters, English
for one, splits the same under both. No dictionary is used: it would be slower by two orders of magnitude, and no two
of them agree. `unicode` cuts at punctuation as well: a word is a run of letters, digits and marks (with an apostrophe
or full stop between two of them, or a comma between two digits), and every other character is a word by itself. That is
Unicode Standard Annex 29 without its tables for single scripts, and near to what NLTK and spaCy give for English.

Words are read off the bitmaps of a text (marks.py), 0.5 ns per byte; 8 bytes of memory per word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ptool.text.batch import WordRule
from ptool.text.characters import CJK, JOINING, SPACE, WORD_PART, word_flags
from ptool.text.compiled import kernel
from ptool.text.counts import count_distinct
from ptool.text.marks import Marks, any_between, characters_before, count_in, mark
from ptool.text.spans import span_type
from ptool.text.utf8 import character_at
from ptool.text.vectors import first_one

HAS_LETTER = 1
"""Flag of a word with at least one letter."""
HAS_TEXT = 2
"""Flag of a word with at least one character that is no symbol."""
HAS_CJK = 4
"""Flag of a word with an ideograph or kana."""


@dataclass(frozen=True, eq=False)
class Words:
    """The words of n documents, in order.

    text           uint8[total]  the buffer that the spans point into
    starts, ends   int32|int64[w]  byte span of each word; 64 bits for buffers of 2 GiB and more
    doc_offsets    int64[n + 1]  where each document's words begin
    marks          bitmaps of `text`
    """

    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.signedinteger]
    ends: npt.NDArray[np.signedinteger]
    doc_offsets: npt.NDArray[np.int64]
    marks: Marks

    @cached_property
    def flags(self) -> npt.NDArray[np.uint8]:
        """uint8[w]: HAS_LETTER, HAS_TEXT, HAS_CJK."""
        return _flags(self.starts, self.ends, self.marks.letters, self.marks.plain, self.marks.cjk)

    @property
    def num_words(self) -> npt.NDArray[np.int64]:
        """int64[n]: words of each document."""
        return np.diff(self.doc_offsets)

    @cached_property
    def num_with_letters(self) -> npt.NDArray[np.int64]:
        """int64[n]: words with at least one letter."""
        return _num_with(self.flags, self.doc_offsets, HAS_LETTER)

    @cached_property
    def num_with_text(self) -> npt.NDArray[np.int64]:
        """int64[n]: words with at least one character that is no symbol."""
        return _num_with(self.flags, self.doc_offsets, HAS_TEXT)

    @cached_property
    def chars_with_text(self) -> npt.NDArray[np.int64]:
        """int64[n]: code points of the words counted by `num_with_text`."""
        spans = self.starts, self.ends, self.doc_offsets
        return _chars_with(self.marks.leads, self.marks.before, *spans, self.flags, HAS_TEXT)

    def num_short(self, length: int) -> npt.NDArray[np.int64]:
        """int64[n]: words of at most `length` code points without ideographs and kana."""
        spans = self.starts, self.ends, self.doc_offsets
        return _num_short(self.marks.leads, self.marks.before, *spans, self.flags, length)

    def num_distinct(self, wanted: Iterable[str]) -> npt.NDArray[np.int64]:
        """int64[n]: how many of the words `wanted` each document has at least once; case counts."""
        return count_distinct(self.text, self.starts, self.ends, self.doc_offsets, wanted)


def split_words(
    text: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    rule: WordRule = "cjk",
    marks: Marks | None = None,
) -> Words:
    """The words of n texts, text i being the valid UTF-8 at `text[offsets[i]:offsets[i + 1]]`; `marks` are its own."""
    marks = marks or mark(text, offsets, cjk_apart=rule == "cjk")
    if rule == "unicode":
        starts = np.empty(len(text), dtype=span_type(text))  # only what is written becomes memory
        ends = np.empty_like(starts)
        doc_offsets = np.zeros(len(offsets), dtype=np.int64)
        num_words = _split_at_punctuation(text, offsets, word_flags(), starts, ends, doc_offsets)
        return Words(text, starts[:num_words], ends[:num_words], doc_offsets, marks)
    doc_offsets = np.zeros(len(offsets), dtype=np.int64)
    np.cumsum(count_in(marks.starts, offsets), out=doc_offsets[1:])
    starts = np.empty(int(doc_offsets[-1]), dtype=span_type(text))
    ends = np.empty_like(starts)
    _split(marks.starts, marks.spaces, len(text), starts, ends)
    return Words(text, starts, ends, doc_offsets, marks)


def count_words(
    text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], rule: WordRule, marks: Marks
) -> npt.NDArray[np.int64]:
    """int64[n]: words of each text, without the spans."""
    if rule == "unicode":
        return split_words(text, offsets, rule, marks).num_words
    return count_in(marks.starts, offsets)


@kernel
def _split(
    starts_map: npt.NDArray[np.uint64],
    spaces: npt.NDArray[np.uint64],
    num_bytes: int,
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
) -> None:
    """A word ends where whitespace or another word begins, or with the text: as many ends as starts, in order."""
    word = 0
    ended = 0
    after_word = np.uint64(0)
    for block in range(num_bytes // 64 + 1):
        found = starts_map[block]
        first = 64 * block
        words = ~spaces[block]
        stops = (words << np.uint64(1) | after_word) & (spaces[block] | found)
        after_word = words >> np.uint64(63)
        while found:
            starts[word] = first + first_one(found)
            word += 1
            found &= found - np.uint64(1)
        while stops:
            ends[ended] = first + first_one(stops)
            ended += 1
            stops &= stops - np.uint64(1)
    if ended < word:
        ends[ended] = num_bytes


@kernel
def _flags(
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    letters: npt.NDArray[np.uint64],
    plain: npt.NDArray[np.uint64],
    cjk: npt.NDArray[np.uint64],
) -> npt.NDArray[np.uint8]:
    flags = np.empty(len(starts), dtype=np.uint8)
    for word in range(len(starts)):
        start = int(starts[word])
        end = int(ends[word])
        flags[word] = (
            (HAS_LETTER if any_between(letters, start, end) else 0)
            | (HAS_TEXT if any_between(plain, start, end) else 0)
            | (HAS_CJK if any_between(cjk, start, end) else 0)
        )
    return flags


@kernel
def _num_with(flags: npt.NDArray[np.uint8], doc_offsets: npt.NDArray[np.int64], flag: int) -> npt.NDArray[np.int64]:
    """Words of each document with a flag."""
    found = np.zeros(len(doc_offsets) - 1, dtype=np.int64)
    for document in range(len(found)):
        for word in range(doc_offsets[document], doc_offsets[document + 1]):
            found[document] += flags[word] & flag != 0
    return found


@kernel
def _chars_with(
    leads: npt.NDArray[np.uint64],
    before: npt.NDArray[np.int64],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    flags: npt.NDArray[np.uint8],
    flag: int,
) -> npt.NDArray[np.int64]:
    """Characters of the words of each document that have a flag."""
    found = np.zeros(len(doc_offsets) - 1, dtype=np.int64)
    for document in range(len(found)):
        for word in range(doc_offsets[document], doc_offsets[document + 1]):
            found[document] += (flags[word] & flag != 0) * _num_chars(leads, before, starts, ends, word)
    return found


@kernel
def _num_short(
    leads: npt.NDArray[np.uint64],
    before: npt.NDArray[np.int64],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    flags: npt.NDArray[np.uint8],
    length: int,
) -> npt.NDArray[np.int64]:
    found = np.zeros(len(doc_offsets) - 1, dtype=np.int64)
    for document in range(len(found)):
        for word in range(doc_offsets[document], doc_offsets[document + 1]):
            is_short = _num_chars(leads, before, starts, ends, word) <= length
            found[document] += is_short & (flags[word] & HAS_CJK == 0)
    return found


@kernel
def _num_chars(
    leads: npt.NDArray[np.uint64],
    before: npt.NDArray[np.int64],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    word: int,
) -> int:
    end = characters_before(leads, before, int(ends[word]))
    return end - characters_before(leads, before, int(starts[word]))


@kernel
def _split_at_punctuation(
    text: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    table: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
) -> int:
    word = 0
    for document in range(len(offsets) - 1):
        position = offsets[document]
        stop = offsets[document + 1]
        while position < stop:
            code, size = character_at(text, position)
            kind = table[code]
            if kind & SPACE:
                position += size
                continue
            starts[word] = position
            some = kind
            position += size
            inside = kind & WORD_PART and not kind & CJK
            while position < stop:
                previous = code
                code, size = character_at(text, position)
                kind = table[code]
                if some & CJK:
                    if not kind & JOINING:
                        break
                elif not inside:
                    break
                elif kind & CJK or not kind & WORD_PART:
                    if code not in (0x27, 0x2019, 0x2E, 0x2C) or position + size >= stop:
                        break
                    after, _ = character_at(text, position + size)
                    if table[after] & CJK or not table[after] & WORD_PART:
                        break
                    if code == 0x2C and not (0x30 <= previous <= 0x39 and 0x30 <= after <= 0x39):
                        break
                some |= kind
                position += size
            ends[word] = position
            word += 1
        doc_offsets[document + 1] = word
    return word
