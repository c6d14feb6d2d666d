"""How far the default bands are from what published runs paid, on all runs and on those that they never saw.

The rule that made the bands is here too, so that a test can repeat it on the named two thirds of runs.toml:

    overall = MFU x goodput, which is what GPU-hours reveal; the two are split by the goodput band, which is given
    high    a tenth above the best run of the group, low a tenth below the worst, expected their median
    cap     a dense band is at most 2.6 wide, one for mixtures and small models 4: where the runs spread further the
            band keeps its high end, so that it is the dearest runs that it misses, and those are listed

Medians of few runs are rough: the groups have 6, 8 and 3 runs to fit on. Hours that include more than one pass, fine
tuning or failed starts (Llama 3 8B) are left in: published figures are used as they stand.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from ptool.costing.efficiency import Efficiency, expected_efficiency, group_of
from ptool.costing.tables import Run, gpus, runs
from ptool.units import Band

MARGIN = 0.1
WIDEST = {"a100": 2.6, "h100": 2.6, "h100-small": 4.0}


class Tested(NamedTuple):
    """One run against its band; shares of the peak, MFU times goodput. `error`: expected hours over paid hours - 1."""

    run: Run
    group: str
    band: Band
    inside: bool
    error: float


class Score(NamedTuple):
    """A group of tested runs: how many the band holds, its width (high/low), the median size of the error."""

    name: str
    num_runs: int
    num_inside: int
    width: float
    median_error: float


class Backtest(NamedTuple):
    """All runs, the fitted and the held-out ones apart, and each group of runs."""

    rows: tuple[Tested, ...]
    scores: tuple[Score, ...]

    @property
    def hit_rate(self) -> float:
        """Share of all runs inside their bands."""
        return sum(row.inside for row in self.rows) / len(self.rows)


def backtest() -> Backtest:
    """Every run of runs.toml against the band that `estimate_cost` would have used for it."""
    rows = tuple(map(_test, runs()))
    parts = [
        _score("all runs", rows),
        _score("fitted", [row for row in rows if not row.run.held_out]),
        _score("held out", [row for row in rows if row.run.held_out]),
        *(_score(group, [row for row in rows if row.group == group]) for group in WIDEST),
    ]
    return Backtest(rows, tuple(parts))


def fit_overall(group: str) -> Band:
    """MFU x goodput fitted on the runs of `group` that are not held out; a band of at most the group's width."""
    known = sorted(run.implied_mfu for run in runs() if group_of(run) == group and not run.held_out)
    high = known[-1] * (1 + MARGIN)
    low = max(known[0] * (1 - MARGIN), high / WIDEST[group])
    return Band(low, statistics.median(known), high)


def overall(efficiency: Efficiency) -> Band:
    """The band of MFU x goodput."""
    return Band(*(mfu * goodput for mfu, goodput in zip(efficiency.mfu, efficiency.goodput, strict=True)))


def _test(run: Run) -> Tested:
    band = overall(expected_efficiency(gpus()[run.gpu], params=run.params, is_mixture=run.is_mixture))
    inside = band.low <= run.implied_mfu <= band.high
    return Tested(run, group_of(run, nearest=True), band, inside, run.implied_mfu / band.mid - 1)


def _score(name: str, rows: Sequence[Tested]) -> Score:
    width = math.prod(row.band.high / row.band.low for row in rows) ** (1 / len(rows))
    error = statistics.median(abs(row.error) for row in rows)
    return Score(name, len(rows), sum(row.inside for row in rows), width, error)
