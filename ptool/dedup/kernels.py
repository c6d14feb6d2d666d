"""The compiled half of deduplication: the table of text hashes, the buckets of bands, and the walk over a batch.

The arrays belong to `exact.ExactIndex`, `index.NearIndex` and `spool.ShingleSpool`, which say what they hold and what
they cost; here they are only read and written. All kernels of this package that call each other stand in this file,
because the compiler's cache watches the file of the kernel that is called, not the files of the kernels it calls.

A table of a million documents is far larger than any cache, so each probe is a miss. Probes of a document's bands, and
of the next documents', depend on nothing: `_touch` loads them for a group of documents at once, which the processor
overlaps, and the walk that follows finds them near. Without it, each document waits for some twenty misses in turn.
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

Verdicts = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float64]
KEPT, EXACT, NEAR = 0, 1, 2

Counters = npt.NDArray[np.int64]
CANDIDATES, REFUSED, NOT_COMPARED, UNCHECKED, NUM_COUNTERS = 0, 1, 2, 3, 4

VERIFY_NONE, VERIFY_SIGNATURE, VERIFY_EXACT = 0, 1, 2

_LATE = np.uint32(1 << 31)
"""Marks the last link of a full bucket; the other bits count the documents that were not remembered."""

_GROUP = 8
"""Documents whose first slots are loaded ahead: 8 x 14 loads keep every miss buffer of a core busy."""

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


class New(NamedTuple):
    """A batch to decide about, as `signatures.Description` has it."""

    hashes: Hashes
    keys: Hashes
    signatures: npt.NDArray[Any]
    num_shingles: Offsets
    shingles: Numbers
    shingle_offsets: Offsets


class Terms(NamedTuple):
    """What counts as a twin, and how much a bucket remembers. `clusters`: near duplicates are joined, not dropped."""

    threshold: float
    verify: int
    rows: int
    max_bucket: int
    clusters: bool


class Found(NamedTuple):
    """What the walk decides, one place for each document of the batch, and what it counts."""

    verdicts: Verdicts
    twins: Offsets
    scores: Scores
    counters: Counters
    parents: Numbers


@kernel
def resolve(new: New, kept: Kept, terms: Terms, num_kept: int, stamp: int, found: Found) -> int:
    """Walk a batch: exact copies first, then twins by band and similarity; returns how many are kept by now.

    `stamp` is the number of documents walked before this batch. Adds the kept documents to all columns and tables.
    """
    num_bands = new.keys.shape[1]
    places = np.empty((num_bands, 3), dtype=np.int64)
    spread = np.empty(16, dtype=np.uint32)
    touched = _u64(0)
    for doc in range(len(new.hashes)):
        if doc % _GROUP == 0:
            touched += _touch(new, kept, doc, min(doc + _GROUP, len(new.hashes)))
        high, low = new.hashes[doc, 0], new.hashes[doc, 1]
        twin, slot = _find_copy(kept.table, kept.hashes, high, low)
        if twin >= 0:
            found.verdicts[doc], found.twins[doc], found.scores[doc] = EXACT, twin, 1.0
            continue
        comparable = num_bands > 0 and new.num_shingles[doc] > 0
        if comparable:
            stamp += 1
            twin, score, spread = _find_twin(new, kept, terms, doc, num_kept, _u32(stamp), places, spread, found)
            if twin >= 0:
                found.twins[doc], found.scores[doc] = twin, score
                if not terms.clusters:
                    found.verdicts[doc] = NEAR
                    continue
            _remember(new, kept, terms, doc, num_kept, places)
        _add(new, kept, terms, doc, num_kept, slot)
        num_kept += 1
    found.counters[NUM_COUNTERS - 1] += _signed(touched & _u64(0))  # so that the compiler keeps the loads
    return num_kept


@kernel
def add_kept(new: New, kept: Kept, terms: Terms, num_kept: int, counters: Counters) -> int:
    """Add documents known to be kept, as a saved index has them, without looking for their twins."""
    num_bands = new.keys.shape[1]
    places = np.empty((num_bands, 3), dtype=np.int64)
    for doc in range(len(new.hashes)):
        slot = _find_copy(kept.table, kept.hashes, new.hashes[doc, 0], new.hashes[doc, 1])[1]
        if num_bands > 0 and new.num_shingles[doc] > 0:
            for band in range(num_bands):
                key = new.keys[doc, band]
                bucket = _find_bucket(kept, terms.rows, band, key)
                length, last = 0, -1
                entry = _u32(kept.tables[band, bucket] & _LOW)
                while entry != 0 and not entry & _LATE:
                    last = _document(entry)
                    length += 1
                    entry = kept.links[last, band]
                places[band, 0], places[band, 1], places[band, 2] = bucket, length, last
            _remember(new, kept, terms, doc, num_kept, places)
        _add(new, kept, terms, doc, num_kept, slot)
        num_kept += 1
    return num_kept


@kernel
def _touch(new: New, kept: Kept, first: int, last: int) -> np.uint64:
    """Load the slots at which probing for documents `first:last` begins."""
    total = _u64(0)
    for doc in range(first, last):
        total += kept.table[0, _first_slot(new.hashes[doc, 0], kept.table.shape[1])]
        for band in range(new.keys.shape[1]):
            total += kept.tables[band, _first_slot(new.keys[doc, band], kept.tables.shape[1])]
    return total


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
    return _signed(((hash_value >> _HALF) * _u64(num_slots)) >> _HALF)


@kernel
def _find_copy(table: Tables, kept_hashes: Hashes, high: np.uint64, low: np.uint64) -> tuple[int, int]:
    """The kept document with this text hash, or -1; and the slot it is in or would go to."""
    num_slots = table.shape[1]
    slot = _first_slot(high, num_slots)
    while table[0, slot] != 0:
        if table[0, slot] >> _HALF == high >> _HALF:
            number = _document(_u32(table[0, slot] & _LOW))
            if kept_hashes[number, 0] == high and kept_hashes[number, 1] == low:
                return number, slot
        slot = slot + 1 if slot + 1 < num_slots else 0
    return -1, slot


@kernel
def _find_twin(
    new: New,
    kept: Kept,
    terms: Terms,
    doc: int,
    num_kept: int,
    stamp: np.uint32,
    places: Counters,
    spread: Numbers,
    found: Found,
) -> tuple[int, float, Numbers]:
    """The kept document most similar to `doc` among those that share a band, and their similarity; (-1, 0.0) for none.

    Ties go to the earliest document. Each document is compared once: `stamps` holds `stamp` for those already seen by
    this call. `places[band]` receives the slot, the bucket's length and the last document of its chain, for
    `_remember`. `spread` is scratch for the document's own shingles, returned because it may have grown.
    """
    best, best_score, is_spread = -1, 0.0, False
    for band in range(kept.tables.shape[0]):
        slot = _find_bucket(kept, terms.rows, band, new.keys[doc, band])
        length, last = 0, -1
        entry = _u32(kept.tables[band, slot] & _LOW)
        while entry != 0:
            if entry & _LATE:
                found.counters[NOT_COMPARED] += np.int64(entry & ~_LATE)
                break
            last = _document(entry)
            length += 1
            if kept.stamps[last, 0] != stamp:
                kept.stamps[last, 0] = stamp
                found.counters[CANDIDATES] += 1
                if terms.verify == VERIFY_EXACT:
                    if not is_spread:
                        spread, is_spread = _spread(new, doc, spread), True
                    score = _jaccard(new, kept, doc, last, spread, terms.threshold)
                else:
                    score = _share_equal(kept.signatures, last, new.signatures, doc)
                is_twin = score >= terms.threshold
                if not is_twin and terms.verify == VERIFY_NONE:
                    found.counters[UNCHECKED] += 1
                    is_twin = True
                if not is_twin:
                    found.counters[REFUSED] += 1
                else:
                    if best < 0 or score > best_score or (score == best_score and last < best):
                        best, best_score = last, score
                    if terms.clusters:
                        _join(found.parents, last, num_kept)
            entry = kept.links[last, band]
        places[band, 0], places[band, 1], places[band, 2] = slot, length, last
    return best, best_score, spread


@kernel
def _join(parents: Numbers, one: int, other: int) -> None:
    """Union-find: the smaller root becomes the root of both."""
    first, second = _root(parents, one), _root(parents, other)
    parents[max(first, second)] = _u32(min(first, second))


@kernel
def _root(parents: Numbers, one: int) -> int:
    while _signed(parents[one]) != one:
        parents[one] = parents[parents[one]]  # path halving
        one = _signed(parents[one])
    return one


@kernel
def roots_of(parents: Numbers, num_kept: int) -> Offsets:
    """The first document of each document's cluster."""
    roots = np.empty(num_kept, dtype=np.int64)
    for number in range(num_kept):
        roots[number] = _root(parents, number)
    return roots


@kernel
def _add(new: New, kept: Kept, terms: Terms, doc: int, number: int, slot: int) -> None:
    """Store what verification will need of a document that is kept, and its text hash."""
    kept.hashes[number, 0], kept.hashes[number, 1] = new.hashes[doc, 0], new.hashes[doc, 1]
    kept.table[0, slot] = ((new.hashes[doc, 0] >> _HALF) << _HALF) | _u64(number + 1)
    if terms.verify == VERIFY_EXACT:
        start = kept.shingle_ends[number - 1, 0] if number > 0 else 0
        size = new.shingle_offsets[doc + 1] - new.shingle_offsets[doc]
        for i in range(size):
            kept.shingles[start + i] = new.shingles[new.shingle_offsets[doc] + i]
        kept.shingle_ends[number, 0] = start + size


@kernel
def _remember(new: New, kept: Kept, terms: Terms, doc: int, number: int, places: Counters) -> None:
    """Add `doc` as document `number` to the buckets that were just found for it."""
    for i in range(kept.signatures.shape[1]):
        kept.signatures[number, i] = new.signatures[doc, i]
    for band in range(kept.tables.shape[0]):
        key = new.keys[doc, band]
        if kept.keys.shape[1] > 0:
            kept.keys[number, band] = key
        slot, length, last = places[band, 0], places[band, 1], places[band, 2]
        if length < terms.max_bucket:
            kept.links[number, band] = _u32(kept.tables[band, slot] & _LOW)
            kept.tables[band, slot] = ((key >> _HALF) << _HALF) | _u64(number + 1)
        else:
            late = kept.links[last, band] & ~_LATE
            kept.links[last, band] = _LATE | _u32(late + _u32(1))


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
def _find_bucket(kept: Kept, rows: int, band: int, key: np.uint64) -> int:
    """The slot of the bucket that has this key, or the empty slot it would go to.

    The slot itself tells nearly all others apart by half of their key, so no document is looked at in vain.
    """
    num_slots = kept.tables.shape[1]
    slot = _first_slot(key, num_slots)
    while kept.tables[band, slot] != 0:
        entry = kept.tables[band, slot]
        if entry >> _HALF == key >> _HALF:
            number = _document(_u32(entry & _LOW))
            if kept.keys.shape[1] > 0:
                if kept.keys[number, band] == key:
                    break
            elif _band_key(kept.signatures, number, band, rows) == key:
                break
        slot = slot + 1 if slot + 1 < num_slots else 0
    return slot


@kernel
def _share_equal(kept: npt.NDArray[Any], number: int, signatures: npt.NDArray[Any], row: int) -> float:
    matches = 0
    for i in range(signatures.shape[1]):
        matches += kept[number, i] == signatures[row, i]
    return np.float64(matches / signatures.shape[1])


@kernel
def _spread(new: New, doc: int, spread: Numbers) -> Numbers:
    """A hash table (positions plus one) of the distinct shingles of `doc`, in `spread` or in a larger array."""
    start, end = new.shingle_offsets[doc], new.shingle_offsets[doc + 1]
    size = 16
    while size < 2 * (end - start):
        size *= 2
    table = np.zeros(size, dtype=np.uint32) if size > len(spread) else spread[:size]
    table[:] = 0
    mask = _u32(size - 1)
    for i in range(end - start):
        slot = new.shingles[start + i] & mask
        while table[slot] != 0:
            slot = (slot + _u32(1)) & mask
        table[slot] = _u32(i + 1)
    return table


@kernel
def _jaccard(new: New, kept: Kept, doc: int, number: int, spread: Numbers, threshold: float) -> float:
    """Exact Jaccard similarity of the two sets of shingle hashes; below the threshold, any value below it."""
    start, stop = new.shingle_offsets[doc], new.shingle_offsets[doc + 1]
    first = kept.shingle_ends[number - 1, 0] if number > 0 else 0
    last = kept.shingle_ends[number, 0]
    total = (stop - start) + (last - first)
    mask = _u32(len(spread) - 1)
    common, seen = 0, 0
    # Every eighth shingle first, then the ones beside them: what two texts do not share often stands together, and is
    # met early so, where enough of it ends the comparison.
    for offset in range(8):
        most = min(common + (last - first - seen), stop - start)
        if most / (total - most) < threshold:
            return 0.0
        for i in range(first + offset, last, 8):
            seen += 1
            value = kept.shingles[i]
            slot = value & mask
            while spread[slot] != 0 and new.shingles[start + _signed(spread[slot]) - 1] != value:
                slot = (slot + _u32(1)) & mask
            common += spread[slot] != 0
    return np.float64(common / (total - common))


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
                slot = _first_slot(entry, num_slots)
                while tables[band, slot] != 0:
                    slot = slot + 1 if slot + 1 < num_slots else 0
                tables[band, slot] = entry
