"""Damage on purpose falls where it was asked for, and the same way every time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ptool.training.config import Faults
from ptool.training.faults import LR_JUMP, FaultyBatches

VOCABULARY = 64
BATCH = 8


def faulty(kind: Any, *, batches: int = 1, rank: int = 0) -> FaultyBatches:
    faults = Faults(kind=kind, bad_batch_at=3, bad_batches=batches)
    return FaultyBatches(faults, batch=BATCH, rank=rank, vocab_size=VOCABULARY)


def spoilt(kind: Any, samples: np.ndarray, batches: int = 1) -> np.ndarray:
    """The share of each sample's targets that changed."""
    targets = np.tile(np.arange(VOCABULARY), (len(samples), 1))
    targets[:, -1] = -100
    once, twice = (faulty(kind, batches=batches).targets(targets, samples) for _ in range(2))
    assert (once == twice).all()
    assert (once[:, -1] == -100).all()
    return (once[:, :-1] != targets[:, :-1]).mean(axis=1)


def whole_rows(kind: Any, samples: np.ndarray) -> list[int]:
    """The samples whose targets all changed; the others are untouched."""
    shares = spoilt(kind, samples)
    assert set(np.round(shares).tolist()) <= {0.0, 1.0}
    assert shares[shares < 0.5].max(initial=0.0) == 0.0
    return samples[shares > 0.5].tolist()


def test_bad_targets_are_those_of_the_named_batches_in_any_company():
    samples = np.arange(12, 36)
    assert whole_rows("targets", samples) == list(range(16, 24))
    assert whole_rows("targets", samples[6:7]) == [18]
    assert whole_rows("outlier", samples) == [16]


def test_slow_damage_grows_to_a_third_of_all_targets():
    shares = [spoilt("slow", np.arange(16 + 8 * k, 24 + 8 * k), batches=10).mean() for k in range(10)]
    assert sum(shares[:3]) < sum(shares[3:6]) < sum(shares[7:])
    assert shares[0] < 0.06
    assert 0.25 < shares[-1] < 0.4
    assert spoilt("slow", np.arange(96, 104), batches=10).max() == 0.0


def test_a_broken_rank_has_no_number_for_a_loss_and_hardware_only_the_first_time():
    bad, good = np.arange(16, 24), np.arange(24, 32)
    broken = faulty("broken-rank", rank=0)
    assert [math.isnan(broken.loss_factor(bad)) for _ in range(3)] == [True] * 3
    assert broken.loss_factor(good) == faulty("broken-rank", rank=1).loss_factor(bad) == 1.0
    once = faulty("broken-once")
    assert [math.isnan(once.loss_factor(bad)) for _ in range(3)] == [True, False, False]


def test_the_rate_jumps_on_the_named_batch_alone():
    jump = faulty("lr")
    assert [jump.lr_factor(np.arange(k, k + 8)) for k in (8, 16, 24)] == [1.0, LR_JUMP, 1.0]
