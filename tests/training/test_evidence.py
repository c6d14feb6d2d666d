"""What ranks know of a refused step, with ranks that stand in for two processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from ptool.training import evidence
from ptool.training.evidence import Evidence, Finding


class OtherRank:
    """Rank 0 of two; the other one's answers are given."""

    rank, size = 0, 2

    def __init__(self, *gathered: Any, sums: float = 0.0) -> None:
        self._gathered = gathered
        self._sums = sums

    def sum(self, values: Sequence[float]) -> list[float]:
        return [value + self._sums for value in values]

    def gather(self, value: Any) -> list[Any]:
        return [msgspec.json.decode(msgspec.json.encode(one)) for one in (value, *self._gathered)]


def collect(other: Any, losses: Any, first: float | None = 2.0, again: float | None = 2.0) -> Evidence:
    rows = SimpleNamespace(targets=np.array([[5, 6, -100, 7]]))
    sources = np.array([[1, 1, 1, 0]])
    return evidence.collect(
        other,
        finding=None,
        first=first,
        again=again,
        rows=[(rows, sources)],  # type: ignore[list-item]
        names=["-", "web"],
        token_losses=lambda batch: np.array([losses]),
    )


def test_the_loss_of_every_source_the_first_nan_and_the_rank_that_differs_come_together() -> None:
    finding = Finding(
        rank=1, host="b", micro_batch=0, pass_="loss", module="m", num_nan=1, num_inf=0, num_values=1, because="so"
    )
    other = OtherRank([finding, {"rank": 1, "host": "b", "first": 3.0, "again": 3.5}, None])
    found = collect(other, [1.0, 3.0, 9.0, 5.0])
    assert found.loss_by_source is not None
    assert {name: (one.loss, one.num_targets) for name, one in found.loss_by_source.items()} == {
        "-": (5.0, 1),
        "web": (2.0, 2),
    }
    assert found.not_finite == "1 NaN of 1 in the loss of m (rank 1 on b, micro-batch 1): so"
    assert found.guilty_ranks() == "rank 1 on host b"
    assert len(found.hardware) == 1, "one rank a host looks"


def test_losses_that_are_not_finite_are_null_and_no_rank_is_blamed_for_nan_twice() -> None:
    other = OtherRank([None, {"rank": 1, "host": "b", "first": None, "again": None}, None])
    found = collect(other, [math.nan] * 4, first=math.nan, again=math.nan)
    assert found.loss_by_source is None
    assert found.guilty_ranks() == ""
