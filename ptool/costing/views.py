"""Tables over several estimates: GPUs side by side, sizes by tokens, and the published runs against our bands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from ptool.costing.backtest import Backtest
from ptool.costing.estimate import Asked, Estimate, estimate, estimate_cost
from ptool.costing.report import three_digits
from ptool.units import format_count, format_duration, format_money

SIZES = (7 * 10**9, 13 * 10**9, 34 * 10**9, 70 * 10**9, 180 * 10**9, 405 * 10**9)
TOKENS = (10**12, 2 * 10**12, 5 * 10**12, 15 * 10**12)

Rows = list[list[str]]


def compare(asked: Asked, names: Sequence[str], *, today: date | None = None) -> list[Estimate]:
    """The same question on other GPUs, each with its own bands and prices; given MFU and goodput hold for all."""
    return [estimate(asked._replace(gpu=name.strip(), price=None, peak_flops=None), today=today) for name in names]


def compare_rows(found: Sequence[Estimate]) -> tuple[list[str], Rows]:
    """Header and rows for people."""
    header = ["GPU", "GPU-hours", "days", "cost low", "expected", "high", "fits"]
    rows = []
    for one in found:
        cost = [format_money(value) for value in one.cost_usd] if one.cost_usd else ["no price", "", ""]
        name = one.gpu.name if one.efficiency.calibrated else f"{one.gpu.name} (uncalibrated)"
        days = format_duration(one.wall_seconds.mid)
        fits = "-" if one.fit is None else "yes" if one.fit.fits else "no"
        rows.append([name, three_digits(one.gpu_hours.mid), days, *cost, fits])
    return header, rows


def compare_json(found: Sequence[Estimate]) -> list[dict[str, Any]]:
    """One object per GPU."""
    return [
        {
            "gpu": one.gpu.name,
            "gpu_hours": one.gpu_hours._asdict(),
            "wall_seconds": one.wall_seconds._asdict(),
            "cost_usd": one.cost_usd._asdict() if one.cost_usd else None,
            "fits": one.fit.fits if one.fit else None,
            "calibrated": one.efficiency.calibrated,
        }
        for one in found
    ]


def sizes_by_tokens(
    gpu: str | None, sizes: Sequence[int] = SIZES, tokens: Sequence[int] = TOKENS, **given: Any
) -> list[list[Estimate]]:
    """An estimate for every pair; `given` as for `estimate_cost`."""
    return [[estimate_cost(size, count, gpu=gpu, **given) for count in tokens] for size in sizes]


def size_rows(table: Sequence[Sequence[Estimate]]) -> tuple[list[str], Rows]:
    """Header and rows: expected GPU-hours and dollars."""
    header = ["parameters", *(format_count(one.asked.num_tokens) for one in table[0])]
    rows = []
    for line in table:
        cells = [
            f"{format_count(round(one.gpu_hours.mid))} h {format_money(one.cost_usd.mid) if one.cost_usd else '-'}"
            for one in line
        ]
        rows.append([format_count(line[0].asked.params), *cells])
    return header, rows


def size_json(table: Sequence[Sequence[Estimate]]) -> list[dict[str, Any]]:
    """One object per cell."""
    return [
        {
            "params": one.asked.params,
            "tokens": one.asked.num_tokens,
            "gpu_hours": one.gpu_hours._asdict(),
            "cost_usd": one.cost_usd._asdict() if one.cost_usd else None,
        }
        for line in table
        for one in line
    ]


def backtest_rows(found: Backtest) -> tuple[list[str], Rows]:
    """Every run: what its hours imply, the band, how far the expected hours are off."""
    header = ["run", "group", "implied", "band", "inside", "hours off", "fitted on"]
    rows = [
        [
            row.run.name,
            row.group,
            f"{row.run.implied_mfu * 100:.1f} %",
            f"{row.band.low * 100:.1f}-{row.band.high * 100:.1f} %",
            "yes" if row.inside else "NO",
            f"{row.error * 100:+.0f} %",
            "held out" if row.run.held_out else "yes",
        ]
        for row in found.rows
    ]
    return header, rows


def score_rows(found: Backtest) -> tuple[list[str], Rows]:
    """The scores: all, fitted, held out, and each group."""
    header = ["runs", "number", "inside", "hit rate", "width", "median error"]
    rows = [
        [
            score.name,
            str(score.num_runs),
            str(score.num_inside),
            f"{score.num_inside / score.num_runs:.0%}",
            f"{score.width:.2f}",
            f"{score.median_error:.0%}",
        ]
        for score in found.scores
    ]
    return header, rows


def backtest_json(found: Backtest) -> dict[str, Any]:
    """Rows and scores."""
    return {
        "schema": "ptool.estimate-cost.backtest/1",
        "hit_rate": found.hit_rate,
        "scores": [{**score._asdict(), "hit_rate": score.num_inside / score.num_runs} for score in found.scores],
        "runs": [
            {
                "id": row.run.id,
                "group": row.group,
                "implied": row.run.implied_mfu,
                "band": row.band._asdict(),
                "inside": row.inside,
                "error": row.error,
                "held_out": row.run.held_out,
            }
            for row in found.rows
        ],
    }
