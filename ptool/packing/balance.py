"""The order of rows of several sources in which every window of N rows has the sources' ratio, to within one row.

Of N rows a source whose share is p should have N p. Let that be m and a fraction. In every window of N rows that the
order below has, wherever it begins, the source has m rows or m + 1: a batch of N rows is never a row off.

The rows are cut into blocks of N slots. From one block to the next a slot keeps its source, but for sources that go
from m + 1 rows down to m, each of which leaves one slot to a source that goes up. A window that straddles two blocks
sees every slot once, in the old or the new state, so its counts are m or m + 1 too. What is left to decide is which
sources have their extra row in which block: a source with U extra rows over all blocks has them in U different ones,
spread by the golden ratio, and every block has equally many (McNaughton's wrap-around rule). The rows that make no
whole block come first, as the end of a block of which the rest is not there.

Exact also at the end: every row of every source is used once. Array work, but for the changes of slots, which are at
most one for each source and block.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def interleave(rows: Integers, window: int) -> Integers:
    """Which source each row is of: source i comes rows[i] times, and in every `window` rows its share to a row."""
    total = int(rows.sum())
    if not total:
        return np.empty(0, dtype=np.int64)
    window = min(window, total)
    blocks, rest = divmod(total, window)
    least = window * rows // total
    first = _rows_before(rows, rest, least)
    extra = rows - first - blocks * least
    chosen = _spread_extras(extra, blocks)

    # The block of which only the last `rest` slots are there.
    counts = np.maximum(least, first)
    spare = window - int(counts.sum())
    candidates = np.flatnonzero((counts == least) & (window * rows % total > 0))
    counts[candidates[:spare]] += 1
    slots = np.concatenate([_evenly(counts - first), _evenly(first)])
    holder = {int(source): int(np.flatnonzero(slots == source)[-1]) for source in np.flatnonzero(counts > least)}
    order = [slots[window - rest :].copy()]
    for block in range(blocks):
        wanted = set(chosen[block].tolist())
        leaving = [source for source in holder if source not in wanted]
        for source, gone in zip(sorted(wanted - holder.keys()), leaving, strict=True):
            holder[source] = holder.pop(gone)
            slots[holder[source]] = source
        order.append(slots.copy())
    return np.concatenate(order)


def largest_deviation(order: Integers, rows: Integers, window: int) -> float:
    """How many rows a source's count in some window of the order is off its share, at most."""
    total = len(order)
    window = min(window, total)
    worst = 0.0
    for source, count in enumerate(rows.tolist()):
        sums = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(order == source)])
        inside = sums[window:] - sums[: total + 1 - window]
        share = window * count / max(total, 1)
        worst = max(worst, float(inside.max() - share), float(share - inside.min()))
    return worst


def _rows_before(rows: Integers, rest: int, least: Integers) -> Integers:
    """Rows of each source among the first `rest`: its share rounded down or up.

    Up where most is cut off, but first where that is no more than the `least` of a whole block, which costs no extra.
    """
    share, cut = np.divmod(rows * rest, int(rows.sum()))
    order = np.lexsort((np.arange(len(cut)), -cut, share >= least))
    order = order[cut[order] > 0]
    share[order[: rest - int(share.sum())]] += 1
    return share


def _spread_extras(extra: Integers, blocks: int) -> Integers:
    """Source numbers [blocks, extras of a block]: source i in extra[i] different blocks."""
    if not blocks:
        return np.empty((0, 0), dtype=np.int64)
    units = np.repeat(np.arange(len(extra)), extra).reshape(-1, blocks)
    golden = np.arange(blocks, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return units.T[np.argsort(np.argsort(golden, kind="stable"), kind="stable")] if len(units) else units.T


def _evenly(counts: Integers) -> Integers:
    """Each source counts[i] times, spread over the whole."""
    sources = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(sources)) - np.repeat(np.cumsum(counts) - counts, counts)
    return sources[np.lexsort((sources, (within + 0.5) / counts[sources]))]
