"""Words as spans of the text buffer, with what rules ask of a word: its length, and whether it has letters.

Three splitters. `whitespace` is `str.split()`. `cjk`, the default, cuts the same and makes every ideograph and kana a
word of its own (a voicing mark or variation selector stays with it), because Chinese and Japanese are written without
spaces: a page would be one word, and every rule about words would judge noise. Text without such characters, English
for one, splits the same under both. No dictionary is used: it would be slower by two orders of magnitude, and no two
of them agree. `unicode` cuts at punctuation as well: a word is a run of letters, digits and marks (with an apostrophe
or full stop between two of them, or a comma between two digits), and every other character is a word by itself. That is
Unicode Standard Annex 29 without its tables for single scripts, and near to what NLTK and spaCy give for English.

One pass over the bytes, about 2 ns each; 13 bytes of memory per word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ptool.text.batch import WordRule
from ptool.text.characters import CJK, JOINING, LETTER, SPACE, SYMBOL, WORD_PART, character_flags, word_flags
from ptool.text.compiled import kernel
from ptool.text.counts import count_distinct, sum_by_document
from ptool.text.spans import span_type
from ptool.text.utf8 import character_at

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
    num_chars      int32[w]      its length in code points
    flags          uint8[w]      HAS_LETTER, HAS_TEXT, HAS_CJK
    doc_offsets    int64[n + 1]  where each document's words begin
    """

    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.signedinteger]
    ends: npt.NDArray[np.signedinteger]
    num_chars: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint8]
    doc_offsets: npt.NDArray[np.int64]

    @property
    def num_words(self) -> npt.NDArray[np.int64]:
        """int64[n]: words of each document."""
        return np.diff(self.doc_offsets)

    @cached_property
    def num_with_letters(self) -> npt.NDArray[np.int64]:
        """int64[n]: words with at least one letter."""
        return sum_by_document(self.flags & HAS_LETTER != 0, self.doc_offsets)

    @cached_property
    def num_with_text(self) -> npt.NDArray[np.int64]:
        """int64[n]: words with at least one character that is no symbol."""
        return sum_by_document(self.flags & HAS_TEXT != 0, self.doc_offsets)

    @cached_property
    def chars_with_text(self) -> npt.NDArray[np.int64]:
        """int64[n]: code points of the words counted by `num_with_text`."""
        return sum_by_document(self.num_chars * (self.flags & HAS_TEXT != 0), self.doc_offsets)

    def num_short(self, length: int) -> npt.NDArray[np.int64]:
        """int64[n]: words of at most `length` code points without ideographs and kana."""
        return sum_by_document((self.num_chars <= length) & (self.flags & HAS_CJK == 0), self.doc_offsets)

    def num_distinct(self, wanted: Iterable[str]) -> npt.NDArray[np.int64]:
        """int64[n]: how many of the words `wanted` each document has at least once; case counts."""
        return count_distinct(self.text, self.starts, self.ends, self.doc_offsets, wanted)


def split_words(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], rule: WordRule = "cjk") -> Words:
    """The words of n texts, text i being the valid UTF-8 at `text[offsets[i]:offsets[i + 1]]`."""
    # A word of one byte needs a space after it, any other word has two bytes or more.
    most = (len(text) + len(offsets)) // 2
    starts = np.empty(most, dtype=span_type(text))  # only what is written becomes memory
    ends = np.empty_like(starts)
    num_chars = np.empty(most, dtype=np.int32)
    flags = np.empty(most, dtype=np.uint8)
    doc_offsets = np.zeros(len(offsets), dtype=np.int64)
    if rule == "unicode":
        most = len(text)
        starts, ends = np.empty(most, dtype=starts.dtype), np.empty(most, dtype=starts.dtype)
        num_chars, flags = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.uint8)
        num_words = _split_at_punctuation(text, offsets, word_flags(), starts, ends, num_chars, flags, doc_offsets)
    else:
        num_words = _split(text, offsets, character_flags(), rule == "cjk", starts, ends, num_chars, flags, doc_offsets)
    return Words(text, starts[:num_words], ends[:num_words], num_chars[:num_words], flags[:num_words], doc_offsets)


def count_words(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], rule: WordRule) -> npt.NDArray[np.int64]:
    """int64[n]: words of each text, without the spans."""
    if rule == "unicode":
        return split_words(text, offsets, rule).num_words
    return _count(text, offsets, character_flags(), rule == "cjk")


@kernel
def _count(
    text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], table: npt.NDArray[np.uint8], cjk_apart: bool
) -> npt.NDArray[np.int64]:
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    for document in range(len(counts)):
        position = offsets[document]
        stop = offsets[document + 1]
        previous = np.uint8(SPACE)  # what stands before: a space, an ideograph, or a letter of a word
        count = 0
        while position < stop:
            code, size = character_at(text, position)
            position += size
            kind = table[code]
            if not cjk_apart:
                kind &= SPACE
            if kind & JOINING and previous & CJK:
                continue  # belongs to the ideograph before
            kind &= SPACE | CJK
            count += (kind & CJK != 0) or (kind == 0 and previous != 0)
            previous = kind
        counts[document] = count
    return counts


@kernel
def _split(
    text: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    table: npt.NDArray[np.uint8],
    cjk_apart: bool,
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    num_chars: npt.NDArray[np.int32],
    flags: npt.NDArray[np.uint8],
    doc_offsets: npt.NDArray[np.int64],
) -> int:
    ends_a_run = SPACE | CJK if cjk_apart else SPACE
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
            chars = 1
            some = kind  # flags that at least one character has
            all_ = kind  # flags that every character has
            position += size
            alone = kind & ends_a_run  # an ideograph: only joining marks belong to it
            while position < stop:
                code, size = character_at(text, position)
                kind = table[code]
                if (not kind & JOINING) if alone else (kind & ends_a_run):
                    break
                chars += 1
                some |= kind
                all_ &= kind
                position += size
            ends[word] = position
            num_chars[word] = chars
            flags[word] = (
                (HAS_LETTER if some & LETTER else 0)
                | (0 if all_ & SYMBOL else HAS_TEXT)
                | (HAS_CJK if some & CJK else 0)
            )
            word += 1
        doc_offsets[document + 1] = word
    return word


@kernel
def _split_at_punctuation(
    text: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    table: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    num_chars: npt.NDArray[np.int32],
    flags: npt.NDArray[np.uint8],
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
            chars = 1
            some = kind
            all_ = kind
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
                chars += 1
                some |= kind
                all_ &= kind
                position += size
            ends[word] = position
            num_chars[word] = chars
            flags[word] = (
                (HAS_LETTER if some & LETTER else 0)
                | (0 if all_ & SYMBOL else HAS_TEXT)
                | (HAS_CJK if some & CJK else 0)
            )
            word += 1
        doc_offsets[document + 1] = word
    return word
