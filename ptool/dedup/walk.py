"""The compiled half of deduplication: the walk over a batch in stream order.

A table of a million documents is far larger than any cache, so each probe is a miss. Probes of a document's bands, and
of the next documents', depend on nothing: `_touch` loads them for a group of documents at once, which the processor
overlaps, and the walk that follows finds them near. Without it, each document waits for some twenty misses in turn.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ptool.dedup.similarity import jaccard, share_equal, spread_out
from ptool.dedup.tables import LATE, Kept, Numbers, document_of, find_bucket, find_copy, first_slot, signed
from ptool.text.compiled import kernel
from ptool.text.hashing import Hashes, Offsets

Verdicts = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float64]
KEPT, EXACT, NEAR = 0, 1, 2

Counters = npt.NDArray[np.int64]
CANDIDATES, REFUSED, NOT_COMPARED, UNCHECKED, NUM_COUNTERS = 0, 1, 2, 3, 4

VERIFY_NONE, VERIFY_SIGNATURE, VERIFY_EXACT = 0, 1, 2

_GROUP = 8
"""Documents whose first slots are loaded ahead: 8 x 14 loads keep every miss buffer of a core busy."""

_u32, _u64 = np.uint32, np.uint64
_HALF = _u64(32)
_LOW = _u64(0xFFFFFFFF)


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
        twin, slot = find_copy(kept.table, kept.hashes, high, low)
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
    found.counters[NUM_COUNTERS - 1] += signed(touched & _u64(0))  # so that the compiler keeps the loads
    return num_kept


@kernel
def add_kept(new: New, kept: Kept, terms: Terms, num_kept: int, counters: Counters) -> int:
    """Add documents known to be kept, as a saved index has them, without looking for their twins."""
    num_bands = new.keys.shape[1]
    places = np.empty((num_bands, 3), dtype=np.int64)
    for doc in range(len(new.hashes)):
        slot = find_copy(kept.table, kept.hashes, new.hashes[doc, 0], new.hashes[doc, 1])[1]
        if num_bands > 0 and new.num_shingles[doc] > 0:
            for band in range(num_bands):
                key = new.keys[doc, band]
                bucket = find_bucket(kept, terms.rows, band, key)
                length, last = 0, -1
                entry = _u32(kept.tables[band, bucket] & _LOW)
                while entry != 0 and not entry & LATE:
                    last = document_of(entry)
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
        total += kept.table[0, first_slot(new.hashes[doc, 0], kept.table.shape[1])]
        for band in range(new.keys.shape[1]):
            total += kept.tables[band, first_slot(new.keys[doc, band], kept.tables.shape[1])]
    return total


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
    shingles = new.shingles[new.shingle_offsets[doc] : new.shingle_offsets[doc + 1]]
    for band in range(kept.tables.shape[0]):
        slot = find_bucket(kept, terms.rows, band, new.keys[doc, band])
        length, last = 0, -1
        entry = _u32(kept.tables[band, slot] & _LOW)
        while entry != 0:
            if entry & LATE:
                found.counters[NOT_COMPARED] += np.int64(entry & ~LATE)
                break
            last = document_of(entry)
            length += 1
            if kept.stamps[last, 0] != stamp:
                kept.stamps[last, 0] = stamp
                found.counters[CANDIDATES] += 1
                if terms.verify == VERIFY_EXACT:
                    if not is_spread:
                        spread, is_spread = spread_out(shingles, spread), True
                    score = jaccard(shingles, spread, _set_of(kept, last), terms.threshold)
                else:
                    score = share_equal(kept.signatures, last, new.signatures, doc)
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
def _set_of(kept: Kept, number: int) -> Numbers:
    """The shingles of a kept document."""
    first = kept.shingle_ends[number - 1, 0] if number > 0 else 0
    return kept.shingles[first : kept.shingle_ends[number, 0]]


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
            late = kept.links[last, band] & ~LATE
            kept.links[last, band] = LATE | _u32(late + _u32(1))


@kernel
def _join(parents: Numbers, one: int, other: int) -> None:
    """Union-find: the smaller root becomes the root of both."""
    first, second = _root(parents, one), _root(parents, other)
    parents[max(first, second)] = _u32(min(first, second))


@kernel
def _root(parents: Numbers, one: int) -> int:
    while signed(parents[one]) != one:
        parents[one] = parents[parents[one]]  # path halving
        one = signed(parents[one])
    return one


@kernel
def roots_of(parents: Numbers, num_kept: int) -> Offsets:
    """The first document of each document's cluster."""
    roots = np.empty(num_kept, dtype=np.int64)
    for number in range(num_kept):
        roots[number] = _root(parents, number)
    return roots
