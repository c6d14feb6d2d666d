"""Which piece of which document goes where: pure integers, no token is touched.

`concat` puts the documents one after another and cuts every `seq_len` tokens, as Megatron does. Rows keep the order of
the documents, and only the last row has padding.

`best_fit` keeps documents whole where it can: one longer than a row gives as many full rows as it has, what is left of
it and every shorter document is placed whole, by best-fit decreasing (arXiv 2404.10830): the longest first, each into
the row with the least room that still takes it, a new row where none does. Nothing is truncated. The textbook places
one item at a time with a search tree over rows; items of one length are alike, so here they are placed together: the
row with the least sufficient room takes as many as go in, then the next. That is a few array operations per
(length, room) pair met, however many documents there are, and the same plan, ties included: equal lengths in document
order, equal rooms in the order in which rows came to have them.

`pad` gives every document rows of its own, for those who train on one document at a time.

Rows of `best_fit` are ordered by their earliest document, which leaves no trace of the sorting by length in the order
of training. In a row, later pieces of long documents come first, then whole documents in order: an end-of-document
token predicts the start of a document, and the start of a later piece is none.

Cost: about 100 bytes of memory per document and row while planning.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ptool.formats.packed import SPAN, Spans

Strategy = Literal["concat", "best-fit", "pad"]
Integers = npt.NDArray[np.int64]


class Plan(NamedTuple):
    """Rows to build: `spans` of all rows, in order, and how many of them each row has."""

    spans: Spans
    counts: Integers


def plan_rows(lengths: Integers, seq_len: int, strategy: Strategy) -> Plan:
    """Rows of `seq_len` for documents of `lengths` tokens. Documents without tokens appear in no row."""
    plan = {"concat": concat, "best-fit": best_fit, "pad": pad}[strategy]
    return plan(lengths.astype(np.int64), seq_len)


def concat(lengths: Integers, seq_len: int) -> Plan:
    """All documents in order, cut every `seq_len` tokens."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    documents = np.flatnonzero(lengths)
    document_starts = (ends - lengths)[documents]
    row_starts = np.arange(0, total, seq_len, dtype=np.int64)
    # Two sorted runs, which the stable sort only merges; a start that is both stands there once.
    starts = np.sort(np.concatenate([document_starts, row_starts]), kind="stable")
    starts = starts[np.diff(starts, prepend=-1) > 0]
    opens = np.zeros(len(starts), dtype=np.int64)
    opens[np.searchsorted(starts, document_starts)] = 1
    owner = np.cumsum(opens) - 1
    spans = np.empty(len(starts), dtype=SPAN)
    spans["document"] = documents[owner]
    spans["offset"] = starts - document_starts[owner]
    spans["start"] = starts % seq_len
    spans["length"] = np.diff(starts, append=total)
    return Plan(spans, np.bincount(starts // seq_len, minlength=len(row_starts)).astype(np.int64))


def pad(lengths: Integers, seq_len: int) -> Plan:
    """Every document in rows of its own, the last of them padded."""
    pieces = -(-lengths // seq_len)
    documents = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(documents)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    spans = np.zeros(len(documents), dtype=SPAN)
    spans["document"] = documents
    spans["offset"] = number * seq_len
    spans["length"] = np.minimum(lengths[documents] - spans["offset"], seq_len)
    return Plan(spans, np.ones(len(documents), dtype=np.int64))


def reorder(plan: Plan, order: Integers) -> Plan:
    """The same rows, row order[i] as row i."""
    counts = plan.counts[order]
    starts = (np.cumsum(plan.counts) - plan.counts)[order]
    ends = np.cumsum(counts)
    within = np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)
    return Plan(plan.spans[np.repeat(starts, counts) + within], counts)


def concatenate(plans: Sequence[Plan]) -> Plan:
    """The rows of several plans, one after another."""
    return Plan(
        np.concatenate([np.empty(0, dtype=SPAN), *(plan.spans for plan in plans)]),
        np.concatenate([np.empty(0, dtype=np.int64), *(plan.counts for plan in plans)]),
    )


def best_fit(lengths: Integers, seq_len: int) -> Plan:
    """Documents whole where they fit into a row, by best-fit decreasing; longer ones as full rows and a rest."""
    full = lengths // seq_len
    rest = lengths - full * seq_len
    num_full = int(full.sum())
    full_documents = np.repeat(np.arange(len(lengths)), full)
    piece_number = np.arange(num_full) - np.repeat(np.cumsum(full) - full, full)

    items = np.flatnonzero(rest)
    bins = _assign(rest[items], seq_len)

    spans = np.empty(num_full + len(items), dtype=SPAN)
    spans["document"] = np.concatenate([full_documents, items])
    spans["offset"] = np.concatenate([piece_number * seq_len, (full * seq_len)[items]])
    spans["length"] = np.concatenate([np.full(num_full, seq_len), rest[items]])
    rows = np.concatenate([np.arange(num_full), num_full + bins])

    rows = _by_earliest(rows, spans)
    order = np.lexsort((spans["document"], spans["offset"] == 0, rows))
    spans, rows = spans[order], rows[order]
    counts = np.bincount(rows).astype(np.int64)
    ends = np.cumsum(spans["length"], dtype=np.int64)
    row_ends = np.cumsum(counts)
    before = np.concatenate([np.zeros(1, dtype=np.int64), ends])[row_ends - counts]
    spans["start"] = ends - spans["length"] - np.repeat(before, counts)
    return Plan(spans, counts)


def _by_earliest(rows: Integers, spans: Spans) -> Integers:
    """Row numbers renumbered by the earliest (document, offset) in each row."""
    order = np.lexsort((spans["offset"], spans["document"]))
    _, first_seen = np.unique(rows[order], return_index=True)
    ranks = np.empty(len(first_seen), dtype=np.int64)
    ranks[np.argsort(first_seen)] = np.arange(len(first_seen))
    return ranks[rows]


def _assign(sizes: Integers, capacity: int) -> Integers:
    """The bin of each item, bins numbered as they are opened. Sizes are 1 to capacity - 1."""
    order = np.argsort(-sizes, kind="stable")
    placed = np.empty(len(sizes), dtype=np.int64)
    values, counts = np.unique(-sizes, return_counts=True)
    open_bins = _OpenBins()
    num_bins = at = 0
    for size, last in zip((-values).tolist(), np.cumsum(counts).tolist(), strict=True):
        while at < last:
            room = open_bins.least_room(size)
            if room is None:
                room = capacity
                bins = np.arange(num_bins, num_bins + -(-(last - at) // (capacity // size)))
                num_bins += len(bins)
            else:
                bins = open_bins.take(room, -(-(last - at) // (room // size)))
            each = room // size
            count = min(last - at, each * len(bins))
            placed[order[at : at + count]] = np.repeat(bins, each)[:count]
            at += count
            filled = count // each
            open_bins.put(room - each * size, bins[:filled])
            if filled < len(bins):  # the last bin took fewer than it could
                open_bins.put(room - (count - filled * each) * size, bins[filled:])
    return placed


class _OpenBins:
    """Bins by the room left in them, first in, first out among equals."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[Integers]] = defaultdict(list)
        self._rooms: list[int] = []

    def least_room(self, size: int) -> int | None:
        """The smallest room of any bin that takes `size`."""
        at = bisect_left(self._rooms, size)
        return self._rooms[at] if at < len(self._rooms) else None

    def take(self, room: int, count: int) -> Integers:
        """Up to `count` of the bins with exactly this room, the longest waiting first."""
        groups = self._waiting[room]
        bins: Integers = np.concatenate(groups)
        if count < len(bins):
            self._waiting[room] = [bins[count:]]
        else:
            del self._waiting[room]
            self._rooms.remove(room)
        return bins[:count]

    def put(self, room: int, bins: Integers) -> None:
        """Add bins that now have this room; full ones need no place."""
        if room == 0 or not len(bins):
            return
        if not self._waiting[room]:
            insort(self._rooms, room)
        self._waiting[room].append(bins)
