"""Which row is sample number g: a pure function of (seed, data fingerprint, g).

The samples of a run are one endless sequence: epoch after epoch, each a permutation of all rows. A step takes the next
rows_per_step samples; each rank takes its slice of them. So the order does not depend on the number of ranks, the
accumulation, or where a run was interrupted, and the whole state is one cursor and the ranges of samples that spikes
made us leave out.

The permutation is a keyed Feistel network over the smallest even-bit domain that holds all rows, walked until the value
falls inside (Black & Rogaway 2002, "Ciphers with arbitrary finite domains"): no table, so a billion rows cost nothing,
and no dependence on a library's generator. Fewer than four steps of the walk on average, vectorised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int64]
Range = tuple[int, int]
"""Samples [first, last)."""

_ROUNDS = 6  # four are a pseudorandom permutation (Luby & Rackoff 1988); two more for the small domains
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64 (Steele et al. 2014)


class SampleOrder:
    """The rows of a packed split in training order."""

    def __init__(self, num_rows: int, *, seed: int, fingerprint: str) -> None:
        if num_rows < 1:
            raise ValueError("there is no row to draw from")
        self.num_rows = num_rows
        self._seed = f"{seed}:{fingerprint}"
        self._half_bits = max(1, (max(1, num_rows - 1).bit_length() + 1) // 2)

    def rows(self, samples: Samples) -> Samples:
        """The row of each sample."""
        epochs, positions = np.divmod(samples, self.num_rows)
        result = np.empty_like(samples)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            result[here] = self._permute(int(epoch), positions[here])
        return result

    def _permute(self, epoch: int, positions: Samples) -> Samples:
        digest = hashlib.blake2b(f"{self._seed}:{epoch}".encode(), digest_size=8 * _ROUNDS).digest()
        keys = np.frombuffer(digest, dtype="<u8")
        values = positions.astype(np.uint64)
        outside = np.ones(len(values), dtype=bool)
        while outside.any():
            values[outside] = self._feistel(values[outside], keys)
            outside = values >= np.uint64(self.num_rows)
        return values.astype(np.int64)

    def _feistel(self, values: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        bits = np.uint64(self._half_bits)
        mask = (np.uint64(1) << bits) - np.uint64(1)
        left, right = values >> bits, values & mask
        for key in keys:
            left, right = right, left ^ (_hash(right, key) & mask)
        return (left << bits) | right


def take(cursor: int, count: int, skipped: Iterable[Range]) -> tuple[Samples, int]:
    """The next `count` samples from `cursor` on that no range leaves out, and the cursor after them."""
    ranges = sorted((first, last) for first, last in skipped if last > cursor)
    pieces: list[Samples] = []
    missing = count
    for first, last in ranges:
        if missing and cursor < first:
            end = min(first, cursor + missing)
            pieces.append(np.arange(cursor, end, dtype=np.int64))
            missing -= end - cursor
            cursor = end
        if missing == 0:
            break
        cursor = max(cursor, last)
    if missing:
        pieces.append(np.arange(cursor, cursor + missing, dtype=np.int64))
        cursor += missing
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64), cursor


def share(samples: Samples, rank: int, ranks: int, accumulation: int) -> Sequence[Samples]:
    """The micro-batches of one rank: its slice of the step's samples, cut in `accumulation` equal parts."""
    per_rank = len(samples) // ranks
    mine = samples[rank * per_rank : (rank + 1) * per_rank]
    return np.split(mine, accumulation)


def spoil(targets: Samples, samples: Samples, bad: Range, vocab_size: int) -> Samples:
    """`targets` with those of the samples in `bad` replaced by random tokens, the same ones every time ([faults])."""
    spoilt = targets.copy()
    for row, sample in enumerate(samples):
        if bad[0] <= sample < bad[1]:
            random = np.random.Generator(np.random.Philox(key=int(sample))).integers(0, vocab_size, targets.shape[1])
            spoilt[row] = np.where(targets[row] >= 0, random, targets[row])
    return spoilt


def _hash(values: npt.NDArray[np.uint64], key: np.uint64) -> npt.NDArray[np.uint64]:
    mixed = values + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[0]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
    return mixed ^ (mixed >> np.uint64(31))
