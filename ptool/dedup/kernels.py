"""The compiled half of deduplication: the table of text hashes, the buckets of bands, and the walk over a batch.

The arrays belong to `exact.ExactIndex` and `index.NearIndex`, which say what they hold and what they cost; here they
are only read and written. All kernels of this package stand in this file because the compiler's cache watches the file
of the kernel that is called, not the files of the kernels it calls.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel
from ptool.text.hashing import Hashes, Offsets, Signatures, mix_64

Numbers = npt.NDArray[np.uint32]
"""Document numbers plus one; 0 is "none"."""

Tables = npt.NDArray[np.uint32]
"""uint32[num_bands, num_slots] of document numbers plus one, 0 for an empty slot."""

Verdicts = npt.NDArray[np.uint8]
KEPT, EXACT, NEAR = 0, 1, 2

Counters = npt.NDArray[np.int64]
CANDIDATES, REFUSED, NOT_COMPARED, NUM_COUNTERS = 0, 1, 2, 3

_LATE = np.uint32(1 << 31)
"""Marks the last link of a full bucket; the other bits count the documents that were not remembered."""

_u64 = np.uint64
_FNV_PRIME = _u64(0x100000001B3)  # FNV-1a, 64 bits; spread by mix_64 afterwards


@kernel
def resolve_exact(
    text_hashes: Hashes, num_kept: int, table: Numbers, kept_hashes: Hashes, verdicts: Verdicts, twins: Offsets
) -> int:
    """Walk a batch in exact mode, adding the kept documents to `table`; returns how many are kept by now."""
    for doc in range(len(text_hashes)):
        high, low = text_hashes[doc, 0], text_hashes[doc, 1]
        twin, slot = _find_copy(table, kept_hashes, high, low)
        if twin >= 0:
            verdicts[doc], twins[doc] = EXACT, twin
            continue
        kept_hashes[num_kept, 0], kept_hashes[num_kept, 1] = high, low
        table[slot] = np.uint32(num_kept + 1)
        num_kept += 1
    return num_kept


@kernel
def resolve_near(
    text_hashes: Hashes,
    signatures: Signatures,
    num_shingles: Offsets,
    num_kept: int,
    stamp: int,
    table: Numbers,
    kept_hashes: Hashes,
    tables: Tables,
    links: Signatures,
    kept: Signatures,
    stamps: Signatures,
    rows: int,
    min_matches: int,
    max_bucket: int,
    verdicts: Verdicts,
    twins: Offsets,
    matches: Offsets,
    counters: Counters,
) -> int:
    """Walk a batch: exact copies first, then twins by band and similarity; returns how many are kept by now.

    `stamp` is the number of documents walked before this batch. Fills `verdicts`, `twins` and, for near duplicates,
    `matches` (equal signature values); adds the kept documents to all tables; adds to `counters`.
    """
    places = np.empty((tables.shape[0], 3), dtype=np.int64)
    for doc in range(len(text_hashes)):
        high, low = text_hashes[doc, 0], text_hashes[doc, 1]
        twin, slot = _find_copy(table, kept_hashes, high, low)
        if twin >= 0:
            verdicts[doc], twins[doc] = EXACT, twin
            continue
        if num_shingles[doc] > 0:
            stamp += 1
            twin, equal = _find_twin(
                tables, links, kept, stamps, np.uint32(stamp), signatures, doc, rows, min_matches, places, counters
            )
            if twin >= 0:
                verdicts[doc], twins[doc], matches[doc] = NEAR, twin, equal
                continue
            _remember(tables, links, kept, num_kept, signatures, doc, max_bucket, places)
        kept_hashes[num_kept, 0], kept_hashes[num_kept, 1] = high, low
        table[slot] = np.uint32(num_kept + 1)
        num_kept += 1
    return num_kept


@kernel
def _document(entry: np.uint32) -> int:
    """The document an entry of a table or chain names."""
    return _signed(entry) - 1


@kernel
def _signed(value: np.uint32 | np.uint64) -> int:
    return np.int64(value)  # type: ignore[return-value]  # numba's int() leaves an unsigned number unsigned


@kernel
def _first_slot(hash_value: np.uint64, num_slots: int) -> int:
    """Where probing begins: the upper 32 bits scaled to the table (Lemire's multiply-shift, any table size)."""
    return _signed(((hash_value >> _u64(32)) * _u64(num_slots)) >> _u64(32))


@kernel
def _find_copy(table: Numbers, kept_hashes: Hashes, high: np.uint64, low: np.uint64) -> tuple[int, int]:
    """The kept document with this text hash, or -1; and the slot it is in or would go to."""
    slot = _first_slot(high, len(table))
    while table[slot] != 0:
        number = _document(table[slot])
        if kept_hashes[number, 0] == high and kept_hashes[number, 1] == low:
            return number, slot
        slot = slot + 1 if slot + 1 < len(table) else 0
    return -1, slot


@kernel
def refill_table(table: Numbers, old: Numbers, kept_hashes: Hashes) -> None:
    """Put the entries of `old` into the empty `table`."""
    for entry in old:
        if entry != 0:
            number = _document(entry)
            slot = _find_copy(table, kept_hashes, kept_hashes[number, 0], kept_hashes[number, 1])[1]
            table[slot] = entry


@kernel
def _find_twin(
    tables: Tables,
    links: Signatures,
    kept: Signatures,
    stamps: Numbers,
    stamp: np.uint32,
    signatures: Signatures,
    row: int,
    rows: int,
    min_matches: int,
    places: Counters,
    counters: Counters,
) -> tuple[int, int]:
    """The kept document most similar to `signatures[row]` among those that share a band, and their equal values.

    Ties go to the earliest document; (-1, 0) where none has `min_matches` equal values. Each document is compared once:
    `stamps` holds `stamp` for those already seen by this call. `places[band]` receives the slot, the bucket's length
    and the last document of its chain, for `_remember`.
    """
    best, best_matches = -1, 0
    for band in range(tables.shape[0]):
        slot = _find_bucket(tables[band], kept, signatures, row, band * rows, rows)
        length, last = 0, -1
        entry = tables[band, slot]
        while entry != 0:
            if entry & _LATE:
                counters[NOT_COMPARED] += np.int64(entry & ~_LATE)
                break
            last = _document(entry)
            length += 1
            if stamps[last, 0] != stamp:
                stamps[last, 0] = stamp
                matches = _count_equal(kept, last, signatures, row)
                counters[CANDIDATES] += 1
                if matches < min_matches:
                    counters[REFUSED] += 1
                elif best < 0 or matches > best_matches or (matches == best_matches and last < best):
                    best, best_matches = last, matches
            entry = links[last, band]
        places[band, 0], places[band, 1], places[band, 2] = slot, length, last
    return best, best_matches


@kernel
def _remember(
    tables: Tables,
    links: Signatures,
    kept: Signatures,
    number: int,
    signatures: Signatures,
    row: int,
    max_bucket: int,
    places: Counters,
) -> None:
    """Add `signatures[row]` as document `number` to the buckets that `_find_twin` has just found for it."""
    for i in range(signatures.shape[1]):
        kept[number, i] = signatures[row, i]
    for band in range(tables.shape[0]):
        slot, length, last = places[band, 0], places[band, 1], places[band, 2]
        if length < max_bucket:
            links[number, band] = tables[band, slot]
            tables[band, slot] = np.uint32(number + 1)
        else:
            late = links[last, band] & ~_LATE
            links[last, band] = _LATE | np.uint32(late + np.uint32(1))


@kernel
def _band_hash(signatures: Signatures, row: int, start: int, rows: int) -> np.uint64:
    value = _u64(start)
    for i in range(start, start + rows):
        value = (value ^ _u64(signatures[row, i])) * _FNV_PRIME
    return _u64(mix_64(value))


@kernel
def _equal_bands(kept: Signatures, number: int, signatures: Signatures, row: int, start: int, rows: int) -> bool:
    i = start
    while i < start + rows and kept[number, i] == signatures[row, i]:
        i += 1
    return i == start + rows


@kernel
def _find_bucket(table: Numbers, kept: Signatures, signatures: Signatures, row: int, start: int, rows: int) -> int:
    """The slot of the bucket that has this band, or the empty slot it would go to."""
    slot = _first_slot(_band_hash(signatures, row, start, rows), len(table))
    while table[slot] != 0 and not _equal_bands(kept, _document(table[slot]), signatures, row, start, rows):
        slot = slot + 1 if slot + 1 < len(table) else 0
    return slot


@kernel
def _count_equal(kept: Signatures, number: int, signatures: Signatures, row: int) -> int:
    matches = 0
    for i in range(signatures.shape[1]):
        matches += kept[number, i] == signatures[row, i]
    return matches


@kernel
def spread_tables(tables: Tables, old_slots: int, kept: Signatures, rows: int) -> None:
    """Move each band's table from where it was (old_slots apart) to its new, longer row, from the last to the first.

    A new row begins at or after the old one, so nothing that is still to be moved is overwritten.
    """
    num_bands, num_slots = tables.shape
    flat = tables.reshape(num_bands * num_slots)
    for band in range(num_bands - 1, -1, -1):
        entries = flat[band * old_slots : (band + 1) * old_slots].copy()
        flat[band * old_slots : (band + 1) * old_slots] = 0
        for entry in entries:
            if entry != 0:
                slot = _first_slot(_band_hash(kept, _document(entry), band * rows, rows), num_slots)
                while tables[band, slot] != 0:
                    slot = slot + 1 if slot + 1 < num_slots else 0
                tables[band, slot] = entry
