"""Damage done on purpose, by [faults]: to see a run survive it (`ptool demo`, tests, the soak).

A fault belongs to a place in data order, not to a step: a batch that was left out takes its fault with it, and a batch
that is tried again has it again, except for `broken-once`, which is what broken hardware looks like.

    targets     the targets of all rows are random: bad data
    outlier     those of one row in eight: one raised loss
    slow        a share of them that grows to a third: a loss that climbs for many steps
    lr          the learning rate is 300 times what it should be
    broken-rank the loss of one rank is not a number
    broken-once ... the first time only
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ptool.training.config import Faults
    from ptool.training.data import Range, Samples

LR_JUMP = 300.0  # a thousandfold is not finite at once, tenfold is often survived
OUTLIER_ROWS = 8
SLOW_SHARE = 1 / 3
_NO_TARGET = -100


class FaultyBatches:
    """What [faults] does to the samples it names; `batch` is the rows of a step."""

    def __init__(self, faults: Faults, *, batch: int, rank: int, vocab_size: int) -> None:
        self._faults = faults
        self._rank = rank
        self._vocab_size = vocab_size
        self._batch = batch
        first = (faults.bad_batch_at - 1) * batch
        self._bad: Range = (first, first + faults.bad_batches * batch) if faults.bad_batch_at else (0, 0)
        self._fired = False

    def targets(self, targets: Samples, samples: Samples) -> Samples:
        """The targets to train on in place of `targets`."""
        first, last = self._bad
        bad = (samples >= first) & (samples < last)
        kind = self._faults.kind
        if kind not in ("targets", "outlier", "slow") or not bad.any():
            return targets
        shares = bad.astype(np.float64)
        if kind == "outlier":
            shares[samples % OUTLIER_ROWS != 0] = 0.0
        elif kind == "slow":
            shares *= SLOW_SHARE * ((samples - first) // self._batch + 1) / self._faults.bad_batches
        return spoil(targets, samples, shares, self._vocab_size)

    def loss_factor(self, samples: Samples) -> float:
        """1, or not a number where this rank's loss is to be broken."""
        kind = self._faults.kind
        if kind not in ("broken-rank", "broken-once") or self._rank != self._faults.rank or not self._hits(samples):
            return 1.0
        if kind == "broken-once" and self._fired:
            return 1.0
        self._fired = True
        return math.nan

    def lr_factor(self, samples: Samples) -> float:
        """What multiplies the learning rate of a step on `samples`."""
        return LR_JUMP if self._faults.kind == "lr" and self._hits(samples) else 1.0

    def _hits(self, samples: Samples) -> bool:
        return bool(len(samples)) and self._bad[0] <= int(samples[0]) < self._bad[1]


def spoil(targets: Samples, samples: Samples, shares: npt.NDArray[np.float64], vocab_size: int) -> Samples:
    """`targets` with a share of each row's replaced by random tokens, the same ones every time."""
    spoilt = targets.copy()
    for row in np.flatnonzero(shares).tolist():
        random = np.random.Generator(np.random.Philox(key=int(samples[row])))
        tokens = random.integers(0, vocab_size, targets.shape[1])
        chosen = (random.random(targets.shape[1]) < shares[row]) & (targets[row] != _NO_TARGET)
        spoilt[row] = np.where(chosen, tokens, targets[row])
    return spoilt
