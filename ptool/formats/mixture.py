"""Which row of which packed folder is sample number k: several packed folders mixed by weight while training.

A pure function of the seed, the weights and the sample number. Nothing is drawn ahead and no state is saved: a resumed
run asks for the next number, and a new mix begins at a number (a phase), after which every folder goes on where it was.

Which folder: the numbers k a + b modulo 2^64, where a is 2^64 over the golden ratio and b comes from the seed, fall
into the folders' shares of 0..2^64. That sequence spreads more evenly than any random one (three-distance theorem): in
every stretch of samples a folder has its share within a few rows, so every batch has the mix. How many of the first k
fall into a share is a sum of floors, which Euclid's algorithm gives in some 60 steps for any k.

Which row: the folder's rows in an order of their own for each epoch, by a keyed permutation (a Feistel network of four
rounds, walked until it lands inside), so that no order is stored.

Weights count tokens. Rows of a folder with more padding hold fewer, so its share of rows is larger.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ptool.errors import UsageError

Integers = npt.NDArray[np.int64]

_MODULUS = 1 << 64
_STEP = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, the odd neighbour."""
_ROUNDS = 4


class Phase(NamedTuple):
    """From sample `first` on, the folders' shares of the tokens; they need not sum to 1."""

    first: int
    weights: tuple[float, ...]


class Samples(NamedTuple):
    """For consecutive samples: the folder, its row, and the epoch of that folder that the row is from."""

    folders: Integers
    rows: Integers
    epochs: Integers


class Mixture:
    """Samples of several packed folders, `rows` and (real) `tokens` of each given, in one or several phases."""

    def __init__(self, rows: Sequence[int], tokens: Sequence[int], phases: Sequence[Phase], seed: int) -> None:
        """Raises UsageError for weights that cannot be, a folder without rows that has one, or phases out of order."""
        if not phases or phases[0].first != 0 or any(b.first <= a.first for a, b in pairwise(phases)):
            raise UsageError("phases of a mix begin at sample 0 and go up", hint="give the first phase from 0 on")
        self._rows = list(rows)
        self._seed = seed
        self._offset = _scrambled(seed)
        self._phases = list(phases)
        self._firsts = [phase.first for phase in phases]
        self._bounds = [_bounds(rows, tokens, phase.weights) for phase in phases]
        self._before = self._counted()

    def samples(self, start: int, count: int) -> Samples:
        """Samples start <= k < start + count."""
        parts = [self._folders(first, last, bounds) for first, last, bounds in self._stretches(start, start + count)]
        folders = np.concatenate([np.empty(0, dtype=np.int64), *parts])
        before = self.drawn(start)
        rows, epochs = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        for folder in np.unique(folders).tolist():
            here = folders == folder
            drawn = before[folder] + np.arange(int(here.sum()))
            epochs[here], places = np.divmod(drawn, self._rows[folder])
            rows[here] = self._permuted(folder, epochs[here], places)
        return Samples(folders, rows, epochs)

    def drawn(self, sample: int) -> list[int]:
        """Rows of each folder among the samples before number `sample`."""
        phase = max(0, bisect_right(self._firsts, sample) - 1)
        here = self._counts(sample, self._bounds[phase])
        return [before + count for before, count in zip(self._before[phase], here, strict=True)]

    def _counted(self) -> list[list[int]]:
        """For each phase: what makes the counts of its bounds those of all samples before, by folder.

        Kept, because every micro-batch asks, and a run of many folders has many phases too.
        """
        before = [[0] * len(self._rows)]
        for phase, old, new in zip(self._phases[1:], self._bounds, self._bounds[1:], strict=False):
            counts = zip(before[-1], self._counts(phase.first, old), self._counts(phase.first, new), strict=True)
            before.append([total + was - now for total, was, now in counts])
        return before

    def _stretches(self, start: int, stop: int) -> list[tuple[int, int, list[int]]]:
        """What of start <= k < stop lies in each phase, with that phase's bounds."""
        ends = [phase.first for phase in self._phases[1:]] + [max(stop, 0)]
        found = []
        for phase, end, bounds in zip(self._phases, ends, self._bounds, strict=True):
            first, last = max(start, phase.first), min(stop, max(end, phase.first))
            if first < last:
                found.append((first, last, bounds))
        return found

    def _folders(self, first: int, last: int, bounds: list[int]) -> Integers:
        numbers = np.arange(first, last, dtype=np.uint64)
        points = numbers * np.uint64(_STEP) + np.uint64(self._offset)
        edges = np.array([edge for edge in bounds[1:-1] if edge < _MODULUS], dtype=np.uint64)
        return np.searchsorted(edges, points, side="right").astype(np.int64)

    def _counts(self, number: int, bounds: list[int]) -> list[int]:
        """How many of the first `number` points are in each folder's share."""
        shifted = self._offset + _MODULUS
        sums = {edge: _floor_sum(number, _MODULUS, _STEP, shifted - edge) for edge in set(bounds)}
        return [sums[low] - sums[high] for low, high in pairwise(bounds)]

    def _permuted(self, folder: int, epochs: Integers, places: Integers) -> Integers:
        size = self._rows[folder]
        half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
        mask = np.uint64((1 << half) - 1)
        base = np.uint64(_scrambled(self._seed * 0x10001 + folder + 1))
        keys = _mix(epochs.astype(np.uint64) ^ base)
        found = places.astype(np.uint64)
        pending = np.ones(len(found), dtype=bool)
        while pending.any():
            left, right, key = found[pending] >> np.uint64(half), found[pending] & mask, keys[pending]
            for round_number in range(_ROUNDS):
                left, right = right, left ^ (_mix(right ^ key ^ np.uint64(round_number << 56)) & mask)
            found[pending] = (left << np.uint64(half)) | right
            pending &= found >= np.uint64(size)
        return found.astype(np.int64)


def _bounds(rows: Sequence[int], tokens: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Where each folder's share of 0..2^64 begins, and 2^64."""
    if len(weights) != len(rows) or not all(0 <= weight < float("inf") for weight in weights) or sum(weights) <= 0:
        message = f"weights {list(weights)} for {len(rows)} folders"
        raise UsageError(message, hint="one weight for each folder, none negative, not all zero")
    if any(weight and not (row and token) for weight, row, token in zip(weights, rows, tokens, strict=True)):
        raise UsageError("a folder without rows has a weight", hint="leave it out")
    shares = [weight * row / token if weight else 0.0 for weight, row, token in zip(weights, rows, tokens, strict=True)]
    sums = np.cumsum([0.0, *shares])
    edges = [min(int(value / sums[-1] * 2.0**64), _MODULUS) for value in sums.tolist()]
    last = max(folder for folder, share in enumerate(shares) if share)
    return [*edges[: last + 1], *[_MODULUS] * (len(rows) - last)]


def _floor_sum(count: int, modulus: int, step: int, offset: int) -> int:
    """Sum of floor((step * i + offset) / modulus) over 0 <= i < count, as Euclid's algorithm finds it."""
    total = 0
    while True:
        total += (count - 1) * count // 2 * (step // modulus) + count * (offset // modulus)
        step, offset = step % modulus, offset % modulus
        top = step * count + offset
        if top < modulus:
            return total
        count, offset = divmod(top, modulus)
        modulus, step = step, modulus


def _scrambled(value: int) -> int:
    with np.errstate(over="ignore"):
        return int(_mix(np.array([value % _MODULUS], dtype=np.uint64))[0])


def _mix(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    mixed = values.astype(np.uint64) + np.uint64(_STEP)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)
