"""Bitmaps of a text buffer: one bit per byte says what it is, so that kernels walk 64 bytes at a step.

One pass asks of every 64 bytes where characters begin, which are whitespace, letters, line ends, and where words begin;
ASCII is told by vector instructions (vectors.py), any other character by its flags (characters.py). What comes after
reads bits: the words of a text are the places where a bit changes, the characters of a line the bits of a span. 0.3 ns
per byte of English, 1.5 of Chinese, one byte of memory per byte of text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptool.text.characters import CJK, JOINING, LETTER, LINE_BREAK, SPACE, SYMBOL, character_flags
from ptool.text.compiled import kernel
from ptool.text.utf8 import character_at
from ptool.text.vectors import bytes_between, count_ones, first_one

Bits = npt.NDArray[np.uint64]
_ONE = np.uint64(1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_NUM_MAPS = 8
_LAST = np.uint64(63)


@dataclass(frozen=True, eq=False)
class Marks:
    """Bitmaps, uint64[len(text) // 64 + 2]: bit k of element b is byte 64 * b + k.

    leads     the first byte of every character
    spaces    all bytes of whitespace (`str.isspace`)
    newlines  line feeds
    breaks    the first byte of what ends a line for `str.splitlines`
    letters   the first byte of letters (`str.isalpha`)
    plain     the first byte of characters that are no symbols (characters.SYMBOL); whitespace may be among them
    cjk       all bytes of ideographs and kana; under the rule `cjk` with the marks that belong to them
    starts    the first byte of every word
    before    int64[the same]: characters before each element
    """

    leads: Bits
    spaces: Bits
    newlines: Bits
    breaks: Bits
    letters: Bits
    plain: Bits
    cjk: Bits
    starts: Bits
    before: npt.NDArray[np.int64]


def mark(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], *, cjk_apart: bool) -> Marks:
    """The bitmaps of n texts; with `cjk_apart` every ideograph and kana is a word of its own."""
    maps = np.zeros((_NUM_MAPS, len(text) // 64 + 2), dtype=np.uint64)
    tail = np.zeros(64, dtype=np.uint8)
    before = np.zeros(maps.shape[1], dtype=np.int64)
    _mark(text, offsets, character_flags(), cjk_apart, tail, maps, before)
    leads, spaces, newlines, breaks, letters, plain, cjk, starts = maps
    return Marks(leads, spaces, newlines, breaks, letters, plain, cjk, starts, before)


def count_in(bits: Bits, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64[n]: bits that are set from each offset to the next."""
    return _count_in(bits, offsets)


@kernel
def _mark(
    text: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    table: npt.NDArray[np.uint8],
    cjk_apart: bool,
    tail: npt.NDArray[np.uint8],
    maps: npt.NDArray[np.uint64],
    before: npt.NDArray[np.int64],
) -> None:
    num_bytes = len(text)
    whole = num_bytes // 64
    for position in range(whole * 64, num_bytes):
        tail[position - whole * 64] = text[position]
    after_space = _ONE  # whether the byte before is whitespace, or of an ideograph
    after_cjk = np.uint64(0)
    ideograph_end = -1  # where an ideograph that marks may join has just ended
    document = 0
    num_leads = 0
    for block in range(whole + 1):
        source, at, valid = text, 64 * block, _ALL
        if block == whole:
            source, at, valid = tail, 0, (_ONE << np.uint64(num_bytes & 63)) - _ONE
        inside = bytes_between(source, at, 0x80, 0xBF)
        heads = bytes_between(source, at, 0xC2, 0xF4)
        spaces = bytes_between(source, at, 0x09, 0x0D) | bytes_between(source, at, 0x1C, 0x20)
        breaks = bytes_between(source, at, 0x0A, 0x0D) | bytes_between(source, at, 0x1C, 0x1E)
        letters = bytes_between(source, at, 0x41, 0x5A) | bytes_between(source, at, 0x61, 0x7A)
        plain = letters | bytes_between(source, at, 0x30, 0x39)
        cuts = np.uint64(0)
        spaces |= maps[1, block]  # what a character that began in the block before has left
        cjk = maps[6, block]
        while heads:
            shift = np.uint64(first_one(heads))
            heads &= heads - _ONE
            position = 64 * block + int(np.int64(shift))
            code, size = character_at(text, position)
            kind = table[code]
            bit = _ONE << shift
            letters |= bit if kind & LETTER else np.uint64(0)
            plain |= np.uint64(0) if kind & SYMBOL else bit
            breaks |= bit if kind & LINE_BREAK else np.uint64(0)
            if not kind & (SPACE | CJK | JOINING):
                continue
            joins = cjk_apart and kind & JOINING != 0 and ideograph_end == position
            if joins:  # to an ideograph of the same document
                while offsets[document] < position:
                    document += 1
                joins = offsets[document] != position
            if kind & SPACE:
                spaces |= _span(shift, size)
                maps[1, block + 1] |= _spill(shift, size)
            elif kind & CJK or joins:
                cjk |= _span(shift, size)
                maps[6, block + 1] |= _spill(shift, size)
                ideograph_end = position + size
                if cjk_apart and not joins:
                    cuts |= bit
        words = ~spaces & valid
        starts = words & (spaces << _ONE | after_space)
        if cjk_apart:
            starts |= cuts | (words & ~cjk & (cjk << _ONE | after_cjk))
        after_space = spaces >> _LAST
        after_cjk = cjk >> _LAST
        before[block] = num_leads
        leads = ~inside & valid
        num_leads += count_ones(leads)
        maps[0, block] = leads
        maps[1, block] = spaces & valid
        maps[2, block] = bytes_between(source, at, 0x0A, 0x0A)
        maps[3, block] = breaks & valid
        maps[4, block] = letters
        maps[5, block] = plain
        maps[6, block] = cjk
        maps[7, block] = starts
    before[whole + 1] = num_leads
    for one in range(len(offsets) - 1):
        position = offsets[one]
        block, bit = position >> 6, _ONE << np.uint64(position & 63)
        if position < offsets[one + 1] and not maps[1, block] & bit:
            maps[7, block] |= bit


@kernel
def _span(shift: np.uint64, size: int) -> np.uint64:
    """`size` bits from `shift` on, as far as they are in this element."""
    return ((_ONE << np.uint64(size)) - _ONE) << shift


@kernel
def _spill(shift: np.uint64, size: int) -> np.uint64:
    """Those bits of a span that are in the next element."""
    over = np.int64(shift) + size - 64
    return (_ONE << np.uint64(over)) - _ONE if over > 0 else np.uint64(0)


@kernel
def _below(position: int) -> np.uint64:
    """The bits before a position, in its element."""
    return (_ONE << np.uint64(position & 63)) - _ONE


@kernel
def ones_between(bits: npt.NDArray[np.uint64], first: int, stop: int) -> int:
    """Bits that are set among first <= position < stop."""
    begin, end = first >> 6, stop >> 6
    if begin == end:
        return count_ones(bits[begin] & _below(stop) & ~_below(first))
    count = count_ones(bits[begin] & ~_below(first)) + count_ones(bits[end] & _below(stop))
    for block in range(begin + 1, end):
        count += count_ones(bits[block])
    return count


@kernel
def any_between(bits: npt.NDArray[np.uint64], first: int, stop: int) -> bool:
    """Whether a bit is set among first <= position < stop."""
    begin, end = first >> 6, stop >> 6
    if begin == end:
        return bool(bits[begin] & _below(stop) & ~_below(first) != 0)
    if bits[begin] & ~_below(first):
        return True
    for block in range(begin + 1, end):
        if bits[block]:
            return True
    return bool(bits[end] & _below(stop) != 0)


@kernel
def first_one_from(bits: npt.NDArray[np.uint64], first: int, stop: int) -> int:
    """The first position from `first` on whose bit is set; `stop` where there is none before it."""
    if first >= stop:
        return stop
    block = first >> 6
    found = bits[block] & ~_below(first)
    while not found and (block + 1) << 6 < stop:
        block += 1
        found = bits[block]
    return min((block << 6) + first_one(found), stop) if found else stop


@kernel
def first_zero(bits: npt.NDArray[np.uint64], first: int, stop: int) -> int:
    """The first position from `first` on whose bit is not set; `stop` where there is none before it."""
    if first >= stop:
        return stop
    block = first >> 6
    found = ~bits[block] & ~_below(first)
    while not found and (block + 1) << 6 < stop:
        block += 1
        found = ~bits[block]
    return min((block << 6) + first_one(found), stop) if found else stop


@kernel
def last_one(bits: npt.NDArray[np.uint64], first: int, stop: int) -> int:
    """The last position before `stop` whose bit is set; first - 1 where there is none from `first` on."""
    position = stop - 1
    while position >= first and not bits[position >> 6] >> np.uint64(position & 63) & _ONE:
        position -= 1
    return position


@kernel
def last_zero(bits: npt.NDArray[np.uint64], first: int, stop: int) -> int:
    """The last position before `stop` whose bit is not set; first - 1 where there is none."""
    position = stop - 1
    while position >= first and bits[position >> 6] >> np.uint64(position & 63) & _ONE:
        position -= 1
    return position


@kernel
def characters_before(leads: npt.NDArray[np.uint64], before: npt.NDArray[np.int64], position: int) -> int:
    """Characters that begin before a byte."""
    return int(before[position >> 6]) + count_ones(leads[position >> 6] & _below(position))


@kernel
def _count_in(bits: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    for document in range(len(counts)):
        counts[document] = ones_between(bits, offsets[document], offsets[document + 1])
    return counts
