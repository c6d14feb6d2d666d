"""Repeated pieces and repeated word n-grams, counted exactly.

A hash table per document finds the first occurrence of a piece; on a hit the bytes themselves are compared, so the
result is that of a Python set and no collision can change a decision. Entries of earlier documents are told by their
index and never cleared, which makes a document of ten words cost ten words.

N-grams run over the words packed end to end (`PackedWords`): an n-gram is then one span of bytes. Most n-grams of prose
stand there once, and cost next to nothing:

- a long n-gram is looked up only where another word of the document begins with the same 24 bytes (a filter of one byte
  per slot says so, and may say so too often, never too seldom);
- a top n-gram is looked for only where the (n - 1)-gram at its start occurs twice.

About 10 ns per look-up, 9 bytes of memory per word, the packed text, and while counting 4 to 12 bytes per
word of the longest document.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.segments import Segments, paragraphs
from ptool.text.words import Words

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, near 2^64 over the golden ratio
_MIX = np.uint64(0xBF58476D1CE4E5B9)  # splitmix64
_MOST_SLOTS = 1 << 24  # fewer than eight to a word only for the longest texts, which then look up more
_HEAD_BYTES = 24  # words that begin a long n-gram are told apart by as many bytes


@dataclass(frozen=True, eq=False)
class Repeated:
    """Second and later occurrences of a piece in its document: how many, and their code points (int64[n] each)."""

    num: npt.NDArray[np.int64]
    num_chars: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PackedWords:
    """The words of n documents end to end, without what stood between them.

    text          uint8[b]           the bytes of all words
    starts        int32|int64[w+1]   where each word begins in `text`
    chars         int32|int64[w+1]   code points before each word
    doc_offsets   int64[n+1]         where each document's words begin
    """

    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.signedinteger]
    chars: npt.NDArray[np.signedinteger]
    doc_offsets: npt.NDArray[np.int64]
    _tops: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]] = field(default_factory=dict)

    def repeated_ngram_chars(self, n: int) -> npt.NDArray[np.int64]:
        """int64[docs]: code points of n-grams seen before, found greedily from the left without overlap.

        N-grams are compared joined without spaces, as datatrove 0.10.1 does (find_all_duplicate).
        """
        return _repeated_ngrams(
            self.text,
            self.starts,
            self.chars,
            self.doc_offsets,
            n,
            self._table(),
            self._shared_heads,
        )

    def top_ngram_chars(self, n: int) -> npt.NDArray[np.int64]:
        """int64[docs]: occurrences of the commonest n-gram times its code points, its n - 1 spaces included.

        Of equally common ones the first counts; one occurrence counts too, as in datatrove 0.10.1
        (find_top_duplicate). 0 where a document has fewer than n words.
        """
        return self._top_ngrams(n)[0]

    def _top_ngrams(self, n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The top n-grams, and for each word whether the n-gram it begins occurs twice or more (bool[w])."""
        if n not in self._tops:
            candidates = self._top_ngrams(n - 1)[1] if n > 2 else np.ones(len(self.starts) - 1, dtype=np.bool_)
            owners = np.full(len(self.starts), -1, dtype=self.starts.dtype)
            counts = np.zeros(len(self.starts), dtype=np.int32)
            found = _top_ngrams(
                self.text,
                self.starts,
                self.chars,
                self.doc_offsets,
                n,
                self._table(),
                counts,
                owners,
                candidates,
            )
            self._tops[n] = found, _occur_twice(owners, counts)
        return self._tops[n]

    @cached_property
    def _shared_heads(self) -> npt.NDArray[np.bool_]:
        """bool[w]: whether another word of the document may begin with the same _HEAD_BYTES bytes."""
        longest = int(np.diff(self.doc_offsets).max(initial=0))
        size = min(1 << max(6, (8 * longest).bit_length()), _MOST_SLOTS)
        slots = np.zeros(size, dtype=np.uint8)
        return _find_shared_heads(self.text, self.starts, self.doc_offsets, slots)

    def _table(self) -> npt.NDArray[np.signedinteger]:
        longest = int(np.diff(self.doc_offsets).max(initial=0))
        table: npt.NDArray[np.signedinteger] = np.empty(_table_size(longest), dtype=self.starts.dtype)
        table.fill(-1)
        return table


def pack_words(words: Words) -> PackedWords:
    """Copy words end to end. 1 ns per byte."""
    num_words = len(words.starts)
    kind = words.starts.dtype
    starts = np.zeros(num_words + 1, dtype=kind)
    np.subtract(words.ends, words.starts, out=starts[1:])
    np.cumsum(starts, out=starts)
    chars = starts
    if int(words.num_chars.sum()) != int(starts[-1]):  # not ASCII alone: characters are not bytes
        chars = np.zeros(num_words + 1, dtype=kind)
        np.cumsum(words.num_chars, out=chars[1:])
    text = np.empty(int(starts[-1]), dtype=np.uint8)
    _pack(words.text, words.starts, words.ends, text)
    return PackedWords(text, starts, chars, words.doc_offsets)


def repeated_segments(segments: Segments) -> Repeated:
    """Second and later occurrences among the pieces of each document (datatrove 0.10.1: find_duplicates)."""
    longest = int(segments.counts.max(initial=0))
    table = np.full(_table_size(longest), -1, dtype=np.int64)
    found = np.zeros((2, len(segments.doc_offsets) - 1), dtype=np.int64)
    _repeated_segments(
        segments.text, segments.starts, segments.ends, segments.num_chars, segments.doc_offsets, table, found
    )
    return Repeated(found[0], found[1])


def consecutive_paragraphs(lines: Segments) -> npt.NDArray[np.int64]:
    """int64[n]: paragraphs of each document that are the same as the one before."""
    found = paragraphs(lines)
    same = np.zeros(len(found.starts), dtype=np.bool_)
    _mark_repeated(found.text, found.starts, found.ends, found.doc_offsets, same)
    return found.num_where(same & ~found.blank)


def _table_size(longest: int) -> int:
    """A power of two at least a third larger than the number of entries."""
    return 1 << max(4, (longest + longest // 3).bit_length())


@kernel
def _pack(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    packed: npt.NDArray[np.uint8],
) -> None:
    at = 0
    for word in range(len(starts)):
        for position in range(starts[word], ends[word]):
            packed[at] = text[position]
            at += 1


@kernel
def _hash(text: npt.NDArray[np.uint8], start: int, size: int) -> np.uint64:
    """A hash of `size` bytes, eight at a time."""
    value = np.uint64(size)
    at = start
    last = start + size
    while at + 8 <= last:
        value = (value ^ _eight(text, at)) * _BASE
        value ^= value >> np.uint64(32)
        at += 8
    while at < last:
        value = (value ^ np.uint64(text[at])) * _BASE
        at += 1
    return value


@kernel
def _eight(text: npt.NDArray[np.uint8], at: int) -> np.uint64:
    """Eight bytes as a number; compiles to one load."""
    value = np.uint64(0)
    for index in range(8):
        value |= np.uint64(text[at + index]) << np.uint64(8 * index)
    return value


@kernel
def _slot(value: np.uint64, mask: np.uint64) -> np.uint64:
    value ^= value >> np.uint64(31)
    value *= _MIX
    value ^= value >> np.uint64(29)
    return value & mask


@kernel
def _mask(table: npt.NDArray[np.signedinteger], entries: int) -> np.uint64:
    """Small documents use the first few slots only: those stay in the processor's cache."""
    size = np.uint64(16)
    while size < np.uint64(len(table)) and size * np.uint64(3) < np.uint64(entries) * np.uint64(4):
        size <<= np.uint64(1)
    return size - np.uint64(1)


@kernel
def _equal(text: npt.NDArray[np.uint8], first: int, second: int, size: int) -> bool:
    matched = 0
    while matched < size and text[first + matched] == text[second + matched]:
        matched += 1
    return matched == size


@kernel
def _repeated_ngrams(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    chars: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    n: int,
    table: npt.NDArray[np.signedinteger],
    shared_heads: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    found = np.zeros(len(doc_offsets) - 1, dtype=np.int64)
    for document in range(len(found)):
        first = doc_offsets[document]
        last = doc_offsets[document + 1] - n
        mask = _mask(table, doc_offsets[document + 1] - first)
        word = first
        while word <= last:
            start = int(starts[word])
            size = int(starts[word + n]) - start
            if size >= _HEAD_BYTES and not shared_heads[word]:  # the only one that begins so
                word += 1
                continue
            slot = _slot(_hash(text, start, size), mask)
            while True:
                other = int(table[slot])
                if other < first:  # free, or of an earlier document
                    table[slot] = word
                    word += 1
                    break
                begin = int(starts[other])
                if int(starts[other + n]) - begin == size and _equal(text, begin, start, size):
                    found[document] += chars[word + n] - chars[word]
                    word += n
                    break
                slot = (slot + np.uint64(1)) & mask
    return found


@kernel
def _top_ngrams(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    chars: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    n: int,
    table: npt.NDArray[np.signedinteger],
    counts: npt.NDArray[np.int32],
    owners: npt.NDArray[np.signedinteger],
    candidates: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    found = np.zeros(len(doc_offsets) - 1, dtype=np.int64)
    for document in range(len(found)):
        first = doc_offsets[document]
        last = doc_offsets[document + 1] - n
        mask = _mask(table, doc_offsets[document + 1] - first)
        best = first
        most = 1 if last >= first else 0
        for word in range(first, last + 1):
            if not candidates[word]:  # occurs once: it counts only if nothing occurs twice, and then the first does
                continue
            start = int(starts[word])
            size = int(starts[word + n]) - start
            slot = _slot(_hash(text, start, size), mask)
            while True:
                other = int(table[slot])
                if other < first:
                    table[slot] = word
                    counts[word] = 1
                    owners[word] = word
                    break
                begin = int(starts[other])
                same = int(starts[other + n]) - begin == size
                for inner in range(1, n):  # the same words, not only the same letters
                    same &= int(starts[other + inner]) - begin == int(starts[word + inner]) - start
                if same and _equal(text, begin, start, size):
                    counts[other] += 1
                    owners[word] = other
                    count = int(counts[other])
                    if count > most or (count == most and other < best):
                        most = count
                        best = other
                    break
                slot = (slot + np.uint64(1)) & mask
        if most:
            found[document] = most * (int(chars[best + n]) - int(chars[best]) + n - 1)
    return found


@kernel
def _occur_twice(owners: npt.NDArray[np.signedinteger], counts: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(owners) - 1, dtype=np.bool_)
    for word in range(len(found)):
        found[word] = owners[word] >= 0 and counts[owners[word]] > 1
    return found


@kernel
def _find_shared_heads(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    slots: npt.NDArray[np.uint8],
) -> npt.NDArray[np.bool_]:
    shared = np.ones(len(starts) - 1, dtype=np.bool_)
    heads = np.zeros(len(starts), dtype=np.uint32)
    for document in range(len(doc_offsets) - 1):
        first = doc_offsets[document]
        last = doc_offsets[document + 1]
        stop = int(starts[last])
        size = 64
        while size < len(slots) and size < 8 * (last - first):
            size *= 2
        slots[:size] = 0
        while last > first and int(starts[last - 1]) + _HEAD_BYTES > stop:
            last -= 1  # too near the end to begin a long n-gram
        for word in range(first, last):
            head = _slot(_hash(text, int(starts[word]), _HEAD_BYTES), np.uint64(size - 1))
            heads[word] = head
            slots[head] = min(slots[head] + 1, 2)
        for word in range(first, last):
            shared[word] = slots[heads[word]] > 1
    return shared


@kernel
def _repeated_segments(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    num_chars: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    table: npt.NDArray[np.int64],
    found: npt.NDArray[np.int64],
) -> None:
    for document in range(len(doc_offsets) - 1):
        first = doc_offsets[document]
        mask = _mask(table, doc_offsets[document + 1] - first)
        for segment in range(first, doc_offsets[document + 1]):
            start = int(starts[segment])
            size = int(ends[segment]) - start
            slot = _slot(_hash(text, start, size), mask)
            while True:
                other = table[slot]
                if other < first:
                    table[slot] = segment
                    break
                begin = int(starts[other])
                if int(ends[other]) - begin == size and _equal(text, begin, start, size):
                    found[0, document] += 1
                    found[1, document] += num_chars[segment]
                    break
                slot = (slot + np.uint64(1)) & mask


@kernel
def _mark_repeated(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    ends: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    same: npt.NDArray[np.bool_],
) -> None:
    for document in range(len(doc_offsets) - 1):
        for segment in range(doc_offsets[document] + 1, doc_offsets[document + 1]):
            size = int(ends[segment]) - int(starts[segment])
            if int(ends[segment - 1]) - int(starts[segment - 1]) == size:
                same[segment] = _equal(text, int(starts[segment - 1]), int(starts[segment]), size)
