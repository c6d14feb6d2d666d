"""Repeated pieces and repeated word n-grams, counted exactly.

A hash table per document finds the first occurrence of a piece; on a hit the bytes themselves are compared, so the
result is that of a Python set and no collision can change a decision. Entries of earlier documents are told by their
index and never cleared, which makes a document of ten words cost ten words.

N-grams run over the words packed end to end (`PackedWords`): an n-gram is then one span of bytes. Most n-grams of prose
stand there once, and cost next to nothing:

- a long n-gram is looked up only where another word of the document begins with the same 16, then 24 bytes (a filter of
  one byte per slot says so, and may say so too often, never too seldom);
- for top n-grams words are numbered by their first occurrence, and an n-gram is two numbers: that of its first n - 1
  words and that of its last; it is looked for only where both (n - 1)-grams in it occur twice.

About 7 ns per look-up, 4 bytes of memory per word and the packed text; while counting, 17 bytes for each word of the
longest document and 6 for each different n-gram.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.segments import Segments, paragraphs
from ptool.text.vectors import eight_at, put_eight
from ptool.text.words import Words

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, near 2^64 over the golden ratio
_MIX = np.uint64(0xBF58476D1CE4E5B9)  # splitmix64
_ONE = np.uint64(1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_MOST_AT_FIRST = 1 << 16  # entries that a table has room for before it has to grow
_MOST_SLOTS = 1 << 24  # fewer than eight to a word only for the longest texts, which then look up more
_SLACK = 32  # bytes after the packed words, so that a head can be read at any of them

# What words that begin a long n-gram are told apart by: their first 16 bytes, and where these are shared, 24.
_SHORT_BYTES = 16
_HEAD_BYTES = 24
_SHORT_ONLY = 1  # only n-grams of fewer than 16 bytes can repeat here
_SHORT_SHARED = 2  # those of fewer than 24 too
_HEAD_SHARED = 3  # any
_LEAST_LONG = 5  # from these n-grams on, words are sorted out once for all n
_MOST_TOP = 4  # top n-grams up to these are counted together


@dataclass(frozen=True, eq=False)
class Repeated:
    """Second and later occurrences of a piece in its document: how many, and their code points (int64[n] each)."""

    num: npt.NDArray[np.int64]
    num_chars: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Words that may begin an n-gram that occurs twice: positions, the _HEAD_ flag of each, and by document."""

    words: npt.NDArray[np.signedinteger]
    shared: npt.NDArray[np.uint8]
    doc_offsets: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PackedWords:
    """The words of n documents end to end, without what stood between them.

    text          uint8[b + _SLACK]  the bytes of all words, and some to read on into
    starts        int32|int64[w+1]   where each word begins in `text`
    doc_offsets   int64[n+1]         where each document's words begin
    """

    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.signedinteger]
    doc_offsets: npt.NDArray[np.int64]
    _tops: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)
    _candidates: dict[int, _Candidates] = field(default_factory=dict)

    def repeated_ngram_chars(self, n: int) -> npt.NDArray[np.int64]:
        """int64[docs]: code points of n-grams seen before, found greedily from the left without overlap.

        N-grams are compared joined without spaces, as datatrove 0.10.1 does (find_all_duplicate).
        """
        least = min(n, _LEAST_LONG)
        if least not in self._candidates:
            self._candidates[least] = self._find_candidates(least)
        found = self._candidates[least]
        table = self._table(int(np.diff(found.doc_offsets).max(initial=0)))
        return _repeated_ngrams(
            self.text, self.starts, self.doc_offsets, n, table, found.words, found.shared, found.doc_offsets
        )

    def top_ngram_chars(self, n: int) -> npt.NDArray[np.int64]:
        """int64[docs]: occurrences of the commonest n-gram times its code points, its n - 1 spaces included.

        Of equally common ones the first counts; one occurrence counts too, as in datatrove 0.10.1
        (find_top_duplicate). 0 where a document has fewer than n words.
        """
        if n not in self._tops:
            self._find_tops(max(n, _MOST_TOP))
        return self._tops[n]

    def _find_tops(self, most: int) -> None:
        """The top n-grams up to `most`; what they need on the way is not kept."""
        longest = int(np.diff(self.doc_offsets).max(initial=0))
        found = np.zeros((most + 1, len(self.doc_offsets) - 1), dtype=np.int64)
        scratch = np.empty((4, longest + 1), dtype=self.starts.dtype)
        twice = np.empty(longest + 1, dtype=np.bool_)
        _find_tops(self.text, self.starts, self.doc_offsets, self._table(longest), scratch, twice, found)
        self._tops.update(enumerate(found))

    def _find_candidates(self, n: int) -> _Candidates:
        longest = int(np.diff(self.doc_offsets).max(initial=0))
        slots = np.zeros(min(1 << max(6, (8 * longest).bit_length()), _MOST_SLOTS), dtype=np.uint8)
        words = np.empty_like(self.starts)  # only what is written becomes memory
        shared = np.empty(len(self.starts), dtype=np.uint8)
        doc_offsets = np.zeros_like(self.doc_offsets)
        heads = np.empty(longest, dtype=np.uint32)
        num = _find_shared_heads(self.text, self.starts, self.doc_offsets, n, slots, heads, words, shared, doc_offsets)
        return _Candidates(words[:num], shared[:num], doc_offsets)

    def _table(self, most: int) -> npt.NDArray[np.signedinteger]:
        return np.empty(_table_size(most), dtype=self.starts.dtype)  # only what is used becomes memory


def pack_words(words: Words) -> PackedWords:
    """Copy words end to end. 0.5 ns per byte."""
    num_words = len(words.starts)
    kind = words.starts.dtype
    starts = np.empty(num_words + 1, dtype=kind)
    size = int((words.ends - words.starts).sum(dtype=np.int64))
    text = np.zeros(size + _SLACK, dtype=np.uint8)
    _pack(words.text, words.starts, words.ends, text, starts)
    return PackedWords(text, starts, words.doc_offsets)


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
    packed_starts: npt.NDArray[np.signedinteger],
) -> None:
    """Copy words, eight bytes at a time, of which the next word overwrites the rest."""
    at = 0
    safe = len(text) - 8
    for word in range(len(starts)):
        packed_starts[word] = at
        position = int(starts[word])
        end = int(ends[word])
        to = at
        while position < end and position <= safe:
            put_eight(packed, to, eight_at(text, position))
            position += 8
            to += 8
        at += end - int(starts[word])
        for last in range(position, end):  # near the end of the buffer
            packed[to] = text[last]
            to += 1
    packed_starts[len(starts)] = at
    for position in range(at, len(packed)):
        packed[position] = 0


@kernel
def _characters(text: npt.NDArray[np.uint8], start: int, stop: int) -> int:
    count = 0
    for position in range(start, stop):
        count += text[position] & 0xC0 != 0x80
    return count


@kernel
def _hash(text: npt.NDArray[np.uint8], start: int, size: int) -> np.uint64:
    """A hash of `size` bytes, eight at a time; the last eight may overlap the ones before."""
    value = np.uint64(size)
    last = start + size
    if size < 8:
        for at in range(start, last):
            value = (value ^ np.uint64(text[at])) * _BASE
        return value
    for at in range(start, last - 8, 8):
        value = (value ^ eight_at(text, at)) * _BASE
        value ^= value >> np.uint64(32)
    return (value ^ eight_at(text, last - 8)) * _BASE


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
    if size >= 8:
        while matched < size - 8:
            if eight_at(text, first + matched) != eight_at(text, second + matched):
                return False
            matched += 8
        return bool(eight_at(text, first + size - 8) == eight_at(text, second + size - 8))
    while matched < size and text[first + matched] == text[second + matched]:
        matched += 1
    return matched == size


@kernel
def _repeated_ngrams(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    n: int,
    table: npt.NDArray[np.signedinteger],
    candidates: npt.NDArray[np.signedinteger],
    shared: npt.NDArray[np.uint8],
    candidate_offsets: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    found = np.zeros(len(doc_offsets) - 1, dtype=np.int64)
    for document in range(len(found)):
        first = doc_offsets[document]
        last = doc_offsets[document + 1] - n
        begin_at, end_at = candidate_offsets[document], candidate_offsets[document + 1]
        bits = _clear_table(table, end_at - begin_at)
        mask = (_ONE << np.uint64(bits)) - _ONE
        num = 0
        resume = first
        for index in range(begin_at, end_at):
            word = int(candidates[index])
            if word < resume or word > last:
                continue
            start = int(starts[word])
            size = int(starts[word + n]) - start
            if size >= _HEAD_BYTES and shared[index] < _HEAD_SHARED:  # the only one that begins so
                continue
            if size >= _SHORT_BYTES and shared[index] < _SHORT_SHARED:
                continue
            slot = _slot(_hash(text, start, size), mask)
            while True:
                other = int(table[slot])
                if other < 0:
                    table[slot] = word
                    num += 1
                    if _is_full(table, bits, num):
                        old = table[: 1 << bits].copy()
                        bits = _clear_larger(table, bits)
                        mask = (_ONE << np.uint64(bits)) - _ONE
                        for entry in old[old >= 0]:
                            begin = int(starts[entry])
                            _put(table, _slot(_hash(text, begin, int(starts[entry + n]) - begin), mask), mask, entry)
                    break
                begin = int(starts[other])
                if int(starts[other + n]) - begin == size and _equal(text, begin, start, size):
                    found[document] += _characters(text, start, start + size)
                    resume = word + n
                    break
                slot = (slot + np.uint64(1)) & mask
    return found


@kernel
def _find_tops(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    table: npt.NDArray[np.signedinteger],
    scratch: npt.NDArray[np.signedinteger],
    twice: npt.NDArray[np.bool_],
    found: npt.NDArray[np.int64],
) -> None:
    """Fill `found[n]` for each n. Words and n-grams are known by the position of their first occurrence, from 0."""
    words, heads, numbers, todo = scratch[0], scratch[1], scratch[2], scratch[3]
    for document in range(len(doc_offsets) - 1):
        first = doc_offsets[document]
        size = doc_offsets[document + 1] - first
        mine = starts[first : first + size + 1]
        best, most = _count_words(text, mine, table, numbers)
        if size:
            found[1, document] = most * _characters(text, int(mine[best]), int(mine[best + 1]))
        for word in range(size):
            owner = int(numbers[word]) if numbers[word] >= 0 else word
            words[word] = owner
            heads[word] = owner
            twice[word] = numbers[owner] < -1
        for n in range(2, min(len(found), size + 1)):
            num = 0  # those that can occur twice, listed without a branch
            for word in range(size - n + 1):
                todo[num] = word
                num += twice[word] & twice[word + 1]
            best, most = _count_pairs(words, heads, n, todo[:num], table, numbers)
            # What occurs once counts only if nothing occurs twice, and then the first n-gram does.
            found[n, document] = most * (_characters(text, int(mine[best]), int(mine[best + n])) + n - 1)
            twice[:size] = False
            for index in range(num):
                owner = int(numbers[index]) if numbers[index] >= 0 else index
                heads[todo[index]] = todo[owner]
                twice[todo[index]] = numbers[owner] < -1


@kernel
def _count_words(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    table: npt.NDArray[np.signedinteger],
    numbers: npt.NDArray[np.signedinteger],
) -> tuple[int, int]:
    """For each word of a document its first occurrence; there, less than 0, how often it occurs (`numbers`).

    Returns the commonest word (the first one of several) and how often it occurs.
    """
    num_words = len(starts) - 1
    bits = _clear_table(table, num_words)
    shift = np.uint64(64 - bits)
    mask = (_ONE << np.uint64(bits)) - _ONE
    num = 0
    best = 0
    most = 1
    for word in range(num_words):
        start = int(starts[word])
        size = int(starts[word + 1]) - start
        # The first and the last eight bytes, which are the same ones in a short word: all of it up to sixteen.
        inner, back, head, tail = _edges(text, start, size)
        slot = ((head ^ (tail * _MIX) ^ np.uint64(size)) * _BASE) >> shift
        while True:
            other = int(table[slot])
            if other < 0:
                table[slot] = word
                numbers[word] = -1
                num += 1
                if _is_full(table, bits, num):
                    old = table[: 1 << bits].copy()
                    bits = _clear_larger(table, bits)
                    shift = np.uint64(64 - bits)
                    mask = (_ONE << np.uint64(bits)) - _ONE
                    for entry in old[old >= 0]:
                        size = int(starts[entry + 1]) - int(starts[entry])
                        _, _, head, tail = _edges(text, int(starts[entry]), size)
                        _put(table, ((head ^ (tail * _MIX) ^ np.uint64(size)) * _BASE) >> shift, mask, entry)
                break
            begin = int(starts[other])
            if (
                int(starts[other + 1]) - begin == size
                and (eight_at(text, begin) & inner) == head
                and (eight_at(text, begin + back) & inner) == tail
                and (size <= 16 or _equal(text, begin, start, size))
            ):
                numbers[word] = other
                numbers[other] -= 1
                count = -int(numbers[other])
                if count > most or (count == most and other < best):
                    most = count
                    best = other
                break
            slot = (slot + _ONE) & mask
    return best, most


@kernel
def _count_pairs(
    words: npt.NDArray[np.signedinteger],
    heads: npt.NDArray[np.signedinteger],
    n: int,
    todo: npt.NDArray[np.signedinteger],
    table: npt.NDArray[np.signedinteger],
    numbers: npt.NDArray[np.signedinteger],
) -> tuple[int, int]:
    """For the n-gram at each of the words `todo` what `_count_words` says of words, as positions in `todo`.

    An n-gram is known by its first n - 1 words (`heads`) and its last one (`words`). Returns the first word of the
    commonest one, 0 where none occurs twice, and how often it occurs.
    """
    bits = _clear_table(table, len(todo))
    shift = np.uint64(64 - bits)
    mask = (_ONE << np.uint64(bits)) - _ONE
    num = 0
    best = -1
    most = 1
    for index in range(len(todo)):
        word = int(todo[index])
        head = heads[word]
        tail = words[word + n - 1]
        slot = (((np.uint64(head) << np.uint64(32)) ^ np.uint64(tail)) * _BASE) >> shift
        while True:
            other = int(table[slot])
            if other < 0:
                table[slot] = index
                numbers[index] = -1
                num += 1
                if _is_full(table, bits, num):
                    old = table[: 1 << bits].copy()
                    bits = _clear_larger(table, bits)
                    shift = np.uint64(64 - bits)
                    mask = (_ONE << np.uint64(bits)) - _ONE
                    for entry in old[old >= 0]:
                        key = np.uint64(heads[todo[entry]]) << np.uint64(32) ^ np.uint64(words[todo[entry] + n - 1])
                        _put(table, (key * _BASE) >> shift, mask, entry)
                break
            begin = int(todo[other])
            if heads[begin] == head and words[begin + n - 1] == tail:
                numbers[index] = other
                numbers[other] -= 1
                count = -int(numbers[other])
                if count > most or (count == most and other < best):
                    most = count
                    best = other
                break
            slot = (slot + _ONE) & mask
    return int(todo[best]) if best >= 0 else 0, most


@kernel
def _edges(text: npt.NDArray[np.uint8], start: int, size: int) -> tuple[np.uint64, int, np.uint64, np.uint64]:
    """A word's first eight bytes and its last; before these the mask of both, and how far the last are behind."""
    inner = _ALL >> np.uint64(64 - 8 * min(size, 8))
    back = max(size - 8, 0)
    return inner, back, eight_at(text, start) & inner, eight_at(text, start + back) & inner


@kernel
def _clear_table(table: npt.NDArray[np.signedinteger], entries: int) -> int:
    """Empty as much of the table as so many entries need, or a first part of it; the bits of a slot."""
    bits = 4
    while (3 << bits) < 4 * min(entries, _MOST_AT_FIRST):
        bits += 1
    table[: 1 << bits] = -1
    return bits


@kernel
def _is_full(table: npt.NDArray[np.signedinteger], bits: int, entries: int) -> bool:
    """Whether three quarters of the slots are taken and there can be more of them."""
    return 4 * entries > 3 << bits and 2 << bits <= len(table)


@kernel
def _clear_larger(table: npt.NDArray[np.signedinteger], bits: int) -> int:
    """Empty twice as much of the table; the bits of a slot."""
    table[: 2 << bits] = -1
    return bits + 1


@kernel
def _put(table: npt.NDArray[np.signedinteger], slot: np.uint64, mask: np.uint64, entry: int) -> None:
    while table[slot] >= 0:
        slot = (slot + _ONE) & mask
    table[slot] = entry


@kernel
def _find_shared_heads(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.signedinteger],
    doc_offsets: npt.NDArray[np.int64],
    n: int,
    slots: npt.NDArray[np.uint8],
    heads: npt.NDArray[np.uint32],
    words: npt.NDArray[np.signedinteger],
    shared: npt.NDArray[np.uint8],
    candidate_offsets: npt.NDArray[np.int64],
) -> int:
    """List the words that may begin a repeated n-gram or longer one (`words`), each with its flag (`shared`)."""
    num = 0
    for document in range(len(doc_offsets) - 1):
        first = doc_offsets[document]
        last = doc_offsets[document + 1]
        stop = int(starts[last])
        shift = _clear_slots(slots, last - first)
        for word in range(first, last):
            start = int(starts[word])
            head = (((eight_at(text, start) * _MIX) ^ eight_at(text, start + 8)) * _BASE) >> shift
            heads[word - first] = head
            slots[head] = slots[head] << 1 | 1
        begin = num
        for word in range(first, last):
            start = int(starts[word])
            is_short = int(starts[min(word + n, last)]) - start < _SHORT_BYTES
            near_end = start + _SHORT_BYTES > stop  # too near to have a head
            flag = max(
                is_short * _SHORT_ONLY, (slots[heads[word - first]] > 1) * _SHORT_SHARED, near_end * _HEAD_SHARED
            )
            words[num] = word
            shared[num] = flag
            num += flag > 0
        shift = _clear_slots(slots, num - begin)
        for index in range(begin, num):
            start = int(starts[words[index]])
            head = ((eight_at(text, start) * _MIX) ^ eight_at(text, start + 8)) * _BASE
            head = ((head ^ eight_at(text, start + 16)) * _MIX) >> shift
            heads[index - begin] = head
            slots[head] = slots[head] << 1 | 1
        for index in range(begin, num):
            if shared[index] == _SHORT_SHARED and slots[heads[index - begin]] > 1:
                shared[index] = _HEAD_SHARED
        candidate_offsets[document + 1] = num
    return num


@kernel
def _clear_slots(slots: npt.NDArray[np.uint8], entries: int) -> np.uint64:
    """Empty eight slots for each entry, where there are as many; 64 less the bits of a slot."""
    bits = 6
    while (np.int64(1) << bits) < len(slots) and (np.int64(1) << bits) < 8 * entries:
        bits += 1
    slots[: np.int64(1) << bits] = 0
    return np.uint64(64 - bits)


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
