"""Which row is sample number g: a pure function of (seed, data fingerprint, g).

The samples of a run are one endless sequence over the rows of all its packed folders: which folder a sample comes from
follows the weights of its phase, which of that folder's rows a permutation for each epoch (formats/mixture.py). A step
takes the next samples; each rank takes its slice of them. So the order does not depend on the number of ranks, the
accumulation, or where a run was interrupted, and the whole state is one cursor and the ranges of samples that spikes
made us leave out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ptool.formats import mixture
from ptool.formats.mixture import Mixture

Samples = npt.NDArray[np.int64]
Range = tuple[int, int]
"""Samples [first, last)."""


class SampleOrder:
    """Folder, row and epoch of every sample of a run."""

    def __init__(
        self,
        phases: Sequence[tuple[int, tuple[float, ...]]],
        rows: Sequence[int],
        tokens: Sequence[int],
        *,
        seed: int,
        fingerprint: str,
    ) -> None:
        """`phases`: (first sample, weights of the folders); `rows` and `tokens`: how many each folder has.

        `fingerprint` is that of the first folder: others can join while a run goes on, and the order of what was
        there stays.
        """
        digest = hashlib.blake2b(f"{seed}:{fingerprint}".encode(), digest_size=8).digest()
        firsts = [mixture.Phase(first, weights) for first, weights in phases]
        self._mixture = Mixture(rows, tokens, firsts, int.from_bytes(digest, "little"))

    def places(self, samples: Samples) -> mixture.Samples:
        """Where the rows of `samples`, any numbers in rising order, stand."""
        if not len(samples):
            return self._mixture.samples(0, 0)
        gaps = np.flatnonzero(np.diff(samples) != 1) + 1
        edges = [0, *gaps.tolist(), len(samples)]
        runs = [
            self._mixture.samples(int(samples[first]), last - first) for first, last in pairwise(edges) if first < last
        ]
        if len(runs) == 1:
            return runs[0]
        empty = np.empty(0, dtype=np.int64)
        return mixture.Samples(*(np.concatenate([empty, *parts]) for parts in zip(*runs, strict=True)))


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


def advance(cursor: int, count: int, skipped: Iterable[Range]) -> int:
    """The cursor after `take` of as many samples, without listing them; skipped ranges may overlap."""
    for first, last in sorted(skipped):
        if last <= cursor:
            continue
        if count <= max(0, first - cursor):
            break
        count -= max(0, first - cursor)
        cursor = last
    return cursor + count


def share(samples: Samples, rank: int, ranks: int, accumulation: int) -> Sequence[Samples]:
    """The micro-batches of one rank: its slice of the step's samples, cut in `accumulation` parts.

    All are equal where the batch was planned for as many ranks. A rollback past a change of ranks takes steps that were
    planned for others: there sizes differ by one, and a part can be empty, but every sample is in one.
    """
    return np.array_split(np.array_split(samples, ranks)[rank], accumulation)
