"""The tables of the index as compiled code sees them: text hashes, keys of bands, and chains of documents.

The arrays belong to `exact.ExactIndex` and `index.NearIndex`, which say what they hold and what they cost.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.hashing import Hashes, Offsets, mix_64

Numbers = npt.NDArray[np.uint32]
"""Document numbers plus one; 0 is "none"."""

Tables = npt.NDArray[np.uint64]
"""uint64[num_bands, num_slots]: upper half of the band's key, then a document number plus one; 0 for an empty slot."""

LATE = np.uint32(1 << 31)
"""Marks the last link of a full bucket; the other bits count the documents that were not remembered."""

_u32, _u64 = np.uint32, np.uint64
_HALF = _u64(32)
_LOW = _u64(0xFFFFFFFF)
_FNV_PRIME = _u64(0x100000001B3)  # FNV-1a, 64 bits; spread by mix_64 afterwards


class Kept(NamedTuple):
    """The kept documents' columns, in the order they were kept, and the tables over them.

    Of `keys` and `signatures` one has no columns: a band is told by its stored key, or by the signature it came from.
    """

    hashes: Hashes
    table: Tables
    keys: Hashes
    signatures: npt.NDArray[Any]
    links: Numbers
    stamps: Numbers
    tables: Tables
    shingles: Numbers
    shingle_ends: Offsets


@kernel
def document_of(entry: np.uint32) -> int:
    """The document an entry of a table or chain names."""
    return signed(entry) - 1


@kernel
def signed(value: np.uint32 | np.uint64) -> int:
    """The same number as a signed one, which may be subtracted from and used as a position."""
    return np.int64(value)  # type: ignore[return-value]  # numba's int() leaves an unsigned number unsigned


@kernel
def first_slot(hash_value: np.uint64, num_slots: int) -> int:
    """Where probing begins: the upper 32 bits scaled to the table (Lemire's multiply-shift, any table size)."""
    return signed(((hash_value >> _HALF) * _u64(num_slots)) >> _HALF)


@kernel
def find_copy(table: Tables, kept_hashes: Hashes, high: np.uint64, low: np.uint64) -> tuple[int, int]:
    """The kept document with this text hash, or -1; and the slot it is in or would go to."""
    num_slots = table.shape[1]
    slot = first_slot(high, num_slots)
    while table[0, slot] != 0:
        if table[0, slot] >> _HALF == high >> _HALF:
            number = document_of(_u32(table[0, slot] & _LOW))
            if kept_hashes[number, 0] == high and kept_hashes[number, 1] == low:
                return number, slot
        slot = slot + 1 if slot + 1 < num_slots else 0
    return -1, slot


@kernel
def find_bucket(kept: Kept, rows: int, band: int, key: np.uint64) -> int:
    """The slot of the bucket that has this key, or the empty slot it would go to.

    The slot itself tells nearly all others apart by half of their key, so no document is looked at in vain.
    """
    num_slots = kept.tables.shape[1]
    slot = first_slot(key, num_slots)
    while kept.tables[band, slot] != 0:
        entry = kept.tables[band, slot]
        if entry >> _HALF == key >> _HALF:
            number = document_of(_u32(entry & _LOW))
            if kept.keys.shape[1] > 0:
                if kept.keys[number, band] == key:
                    break
            elif _band_key(kept.signatures, number, band, rows) == key:
                break
        slot = slot + 1 if slot + 1 < num_slots else 0
    return slot


@kernel
def fill_band_keys(signatures: npt.NDArray[Any], rows: int, keys: Hashes) -> None:
    """The 64-bit key of every band of every signature."""
    for doc in range(keys.shape[0]):
        for band in range(keys.shape[1]):
            keys[doc, band] = _band_key(signatures, doc, band, rows)


@kernel
def _band_key(signatures: npt.NDArray[Any], row: int, band: int, rows: int) -> np.uint64:
    value = _u64(band + 1)
    for i in range(band * rows, band * rows + rows):
        value = (value ^ _u64(signatures[row, i])) * _FNV_PRIME
        value ^= value >> _HALF
    return _u64(mix_64(value))


@kernel
def widen_tables(tables: Tables, old_slots: int) -> None:
    """Move each band's table from where it was (old_slots apart) to its new, longer row, from the last to the first.

    A new row begins at or after the old one, so nothing that is still to be moved is overwritten. Slots carry the half
    of the key that decides their place, so no document is looked at, and places keep their order: memory is walked
    from end to end.
    """
    num_bands, num_slots = tables.shape
    flat = tables.reshape(num_bands * num_slots)
    for band in range(num_bands - 1, -1, -1):
        entries = flat[band * old_slots : (band + 1) * old_slots].copy()
        flat[band * old_slots : (band + 1) * old_slots] = 0
        for entry in entries:
            if entry != 0:
                slot = first_slot(entry, num_slots)
                while tables[band, slot] != 0:
                    slot = slot + 1 if slot + 1 < num_slots else 0
                tables[band, slot] = entry
