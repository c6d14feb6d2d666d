"""Documents that belong together, side by side: packing for long contexts.

Documents of one key (a repository, a book, a citation group) are planned as if they were one document, in the order of
the input, so that a row that is long enough holds all of them; a longer group goes on in the next rows (concat) or
fills rows of its own (best-fit). Every document keeps its boundaries: attention and targets stop where they would
without it. A group stands where its first document would; documents without a key stand alone. A document that a mix
repeats comes once in each repeat of its group.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.formats.packed import SPAN
from ptool.packing.plan import Integers, Plan, Strategy, plan_rows

NO_KEY = 0
"""What stands for documents that belong to no group."""


def group(documents: Integers, keys: npt.NDArray[np.uint64]) -> tuple[Integers, Integers]:
    """An order of `documents` (as places in it) in which groups stand together, and how many documents each group has.

    `documents` are numbers into `keys`, repeats allowed.
    """
    count = len(documents)
    places = np.arange(count)
    repeats = repeats_before(documents)
    own = keys[documents]
    alone = own == NO_KEY
    # A group is told by its key and the repeat; documents alone by where they stand.
    by_group = np.lexsort((documents, np.where(alone, places, 0), repeats * ~alone, own))
    sorted_keys, sorted_repeats, sorted_alone = own[by_group], repeats[by_group], alone[by_group]
    opens = np.ones(count, dtype=bool)
    opens[1:] = (np.diff(sorted_keys) != 0) | (np.diff(sorted_repeats) != 0) | sorted_alone[1:]
    starts = np.flatnonzero(opens)
    sizes = np.diff(starts, append=count)
    turn = np.argsort(np.minimum.reduceat(by_group, starts)) if count else starts
    within = np.arange(count) - np.repeat(np.cumsum(sizes[turn]) - sizes[turn], sizes[turn])
    return by_group[np.repeat(starts[turn], sizes[turn]) + within], sizes[turn]


def repeats_before(documents: Integers) -> Integers:
    """How often each number stood before in the list."""
    order = np.argsort(documents, kind="stable")
    same = np.diff(documents[order], prepend=-1) == 0
    places = np.arange(len(documents))
    found = np.zeros(len(documents), dtype=np.int64)
    found[order] = places - np.maximum.accumulate(np.where(same, 0, places))
    return found


def plan_groups(lengths: Integers, sizes: Integers, seq_len: int, strategy: Strategy) -> Plan:
    """Rows for documents of `lengths`, of which every `sizes[i]` next ones are planned as one."""
    ends = np.cumsum(lengths)
    group_ends = ends[np.cumsum(sizes) - 1] if len(sizes) else ends
    group_starts = np.concatenate([np.zeros(1, dtype=np.int64), group_ends])[:-1]
    plan = plan_rows(group_ends - group_starts, seq_len, strategy)

    # Every span of a group becomes one for each document in it.
    starts = group_starts[plan.spans["document"]] + plan.spans["offset"]
    stops = starts + plan.spans["length"]
    filled = np.flatnonzero(lengths)
    bounds = ends[filled]
    first = np.searchsorted(bounds, starts, side="right")
    last = np.searchsorted(bounds, stops, side="left")
    pieces = last - first + 1
    whole = np.repeat(np.arange(len(plan.spans)), pieces)
    number = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    document = filled[first[whole] + number]
    begin = np.maximum(starts[whole], (ends - lengths)[document])
    end = np.minimum(stops[whole], ends[document])
    spans = np.empty(len(whole), dtype=SPAN)
    spans["document"] = document
    spans["offset"] = begin - (ends - lengths)[document]
    spans["start"] = plan.spans["start"][whole] + (begin - starts[whole])
    spans["length"] = end - begin
    row_of_span = np.repeat(np.arange(len(plan.counts)), plan.counts)
    return Plan(spans, np.bincount(row_of_span[whole], minlength=len(plan.counts)).astype(np.int64))
