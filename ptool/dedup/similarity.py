"""How alike two documents are: the exact Jaccard similarity of their shingle sets, or equal values of signatures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ptool.dedup.tables import Numbers, signed
from ptool.text.compiled import kernel

_u32 = np.uint32


@kernel
def spread_out(shingles: Numbers, spread: Numbers) -> Numbers:
    """A hash table (positions plus one) of distinct shingles, in `spread` or in a larger array."""
    size = 16
    while size < 2 * len(shingles):
        size *= 2
    table = np.zeros(size, dtype=np.uint32) if size > len(spread) else spread[:size]
    table[:] = 0
    mask = _u32(size - 1)
    for i in range(len(shingles)):
        slot = shingles[i] & mask
        while table[slot] != 0:
            slot = (slot + _u32(1)) & mask
        table[slot] = _u32(i + 1)
    return table


@kernel
def jaccard(shingles: Numbers, spread: Numbers, others: Numbers, threshold: float) -> float:
    """Exact Jaccard similarity of two sets; below the threshold, any value below it. `spread` is that of `shingles`."""
    total = len(shingles) + len(others)
    mask = _u32(len(spread) - 1)
    common, seen = 0, 0
    # Every eighth shingle first, then the ones beside them: what two texts do not share often stands together, and is
    # met early so, where enough of it ends the comparison.
    for offset in range(8):
        most = min(common + (len(others) - seen), len(shingles))
        if most / (total - most) < threshold:
            return 0.0
        for i in range(offset, len(others), 8):
            seen += 1
            value = others[i]
            slot = value & mask
            while spread[slot] != 0 and shingles[signed(spread[slot]) - 1] != value:
                slot = (slot + _u32(1)) & mask
            common += spread[slot] != 0
    return np.float64(common / (total - common))


@kernel
def share_equal(kept: npt.NDArray[Any], number: int, signatures: npt.NDArray[Any], row: int) -> float:
    """The share of equal values of two signatures, which estimates the Jaccard similarity."""
    matches = 0
    for i in range(signatures.shape[1]):
        matches += kept[number, i] == signatures[row, i]
    return np.float64(matches / signatures.shape[1])
