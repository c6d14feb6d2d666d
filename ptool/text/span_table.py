"""A hash table of spans of bytes, as the parts that kernels put together: hash, compare, clear, grow.

A table is one array of integers, -1 where a slot is free; whoever uses it knows what its entries are and where their
bytes stand. Look-ups probe one slot after another and compare the bytes themselves, so that no collision changes an
answer. A table begins small and is doubled as it fills: what a document does not use is neither cleared nor made
memory. 7 ns per look-up while the table is in the processor's cache; entries are never taken out one by one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.vectors import eight_at

BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd, near 2^64 over the golden ratio: a multiplier whose upper bits are spread."""
MIX = np.uint64(0xBF58476D1CE4E5B9)
"""A second one, of splitmix64."""
_MOST_AT_FIRST = 1 << 16  # entries that a table has room for before it has to grow


def table_size(most: int) -> int:
    """A power of two at least a third larger than the number of entries."""
    return 1 << max(4, (most + most // 3).bit_length())


@kernel
def characters(text: npt.NDArray[np.uint8], start: int, stop: int) -> int:
    """Code points of a span."""
    count = 0
    for position in range(start, stop):
        count += text[position] & 0xC0 != 0x80
    return count


@kernel
def hash_bytes(text: npt.NDArray[np.uint8], start: int, size: int) -> np.uint64:
    """A hash of `size` bytes, eight at a time; the last eight may overlap the ones before."""
    value = np.uint64(size)
    last = start + size
    if size < 8:
        for at in range(start, last):
            value = (value ^ np.uint64(text[at])) * BASE
        return value
    for at in range(start, last - 8, 8):
        value = (value ^ eight_at(text, at)) * BASE
        value ^= value >> np.uint64(32)
    return (value ^ eight_at(text, last - 8)) * BASE


@kernel
def mixed(value: np.uint64) -> np.uint64:
    """A hash with all its bits spread, the lowest too."""
    value ^= value >> np.uint64(31)
    value *= MIX
    return value ^ (value >> np.uint64(29))


@kernel
def equal_bytes(text: npt.NDArray[np.uint8], first: int, second: int, size: int) -> bool:
    """Whether two spans of one size are the same bytes."""
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
def clear_table(table: npt.NDArray[np.signedinteger], entries: int) -> int:
    """Empty as much of the table as so many entries need, or a first part of it; the bits of a slot."""
    bits = 4
    while (3 << bits) < 4 * min(entries, _MOST_AT_FIRST):
        bits += 1
    table[: 1 << bits] = -1
    return bits


@kernel
def is_full(table: npt.NDArray[np.signedinteger], bits: int, entries: int) -> bool:
    """Whether three quarters of the slots are taken and there can be more of them."""
    return 4 * entries > 3 << bits and 2 << bits <= len(table)


@kernel
def take_entries(table: npt.NDArray[np.signedinteger], bits: int) -> npt.NDArray[np.signedinteger]:
    """The entries of a table that is full, of which twice as much is now empty, for them to be put into."""
    num = 0
    for slot in range(1 << bits):
        if table[slot] >= 0:
            table[num] = table[slot]
            num += 1
    entries = table[:num].copy()
    table[: 2 << bits] = -1
    return entries


@kernel
def put(table: npt.NDArray[np.signedinteger], slot: np.uint64, mask: np.uint64, entry: int) -> None:
    """Put an entry into the first free slot from its own on."""
    while table[slot] >= 0:
        slot = (slot + np.uint64(1)) & mask
    table[slot] = entry


@kernel
def mask_of(bits: int) -> np.uint64:
    """The number of slots less one."""
    return (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
