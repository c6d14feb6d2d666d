"""An estimate as a page for people (80 columns, at most 24 lines, ASCII) and as one JSON object in base units.

The JSON keys are an interface (schema `ptool.estimate-cost/1`): they are added to, never renamed. Both forms end with
the command that reproduces the estimate, every default spelt out, so that a figure on a slide can be traced.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ptool.costing.efficiency import USUAL_MFU, USUAL_PRICE
from ptool.costing.estimate import Estimate
from ptool.costing.tables import GPUS_AS_OF, GPUS_SOURCE, Run
from ptool.units import Band, format_count, format_duration, format_money

SCHEMA = "ptool.estimate-cost/1"
EXCLUDED = ("failed runs", "ablations", "evaluation", "storage", "network", "staff")
CONVENTION = "6nd"


def as_text(estimate: Estimate) -> str:
    """The estimate as lines of at most 80 characters."""
    asked, gpu = estimate.asked, estimate.gpu
    sizes = f"{format_count(asked.params)} parameters on {format_count(asked.num_tokens)} tokens"
    lines = [
        f"{sizes} ({estimate.tokens_per_param:.3g} per parameter), dense model, bf16",
        f"  compute       {_scientific(estimate.flops)} FLOP by 6ND; without attention and recomputation",
        f"  GPU           {gpu.name}, {gpu.peak_flops / 1e12:g} TFLOP/s dense (no sparsity)",
        *_table(estimate),
        *_textbook(estimate),
        "  nearest published runs, and the MFU x goodput that their GPU-hours imply",
        *(_neighbour(neighbour.run) for neighbour in estimate.neighbours),
        "  memory        not checked: whether it fits depends on the layout",
        f"  not included  {', '.join(EXCLUDED)}",
        "  reproduce",
        *(f"    {line}" for line in _wrapped(reproduce(estimate))),
    ]
    return "\n".join(lines)


def as_json(estimate: Estimate) -> dict[str, Any]:
    """The estimate in base units: FLOP, seconds, dollars, bytes, kWh; shares of 1. None where nothing is known."""
    asked, gpu = estimate.asked, estimate.gpu
    return {
        "schema": SCHEMA,
        "inputs": {
            "params": asked.params,
            "active_params": asked.params,
            "tokens": asked.num_tokens,
            "tokens_per_param": estimate.tokens_per_param,
            "arch": None,
            "source": "flags",
        },
        "flops": {
            "total": estimate.flops,
            "linear": estimate.flops,
            "attention": None,
            "recompute": None,
            "convention": CONVENTION,
        },
        "hardware": {
            "gpu": gpu.name,
            "count": estimate.num_gpus,
            "peak_dense_flops": gpu.peak_flops,
            "precision": "bf16",
            "mem_bytes": gpu.memory_bytes,
            "source": GPUS_SOURCE,
            "as_of": GPUS_AS_OF.isoformat(),
        },
        "efficiency": {
            "mfu": {
                **estimate.efficiency.mfu._asdict(),
                "convention": CONVENTION,
                "basis": [] if asked.mfu else list(estimate.efficiency.basis),
            },
            "goodput": {
                **estimate.efficiency.goodput._asdict(),
                "basis": [] if asked.goodput else list(estimate.efficiency.basis),
            },
            "calibrated": estimate.efficiency.calibrated,
        },
        "gpu_hours": estimate.gpu_hours._asdict(),
        "wall_seconds": estimate.wall_seconds._asdict(),
        "cost_usd": _json_cost(estimate),
        "energy_kwh": estimate.energy_kwh._asdict(),
        "memory": None,
        "usual_arithmetic": {
            "mfu": USUAL_MFU,
            "goodput": 1.0,
            "price_usd_per_gpu_hour": USUAL_PRICE,
            "gpu_hours": estimate.usual_gpu_hours,
            "cost_usd": estimate.usual_cost_usd,
        },
        "neighbours": [_json_run(neighbour.run) for neighbour in estimate.neighbours],
        "sensitivity": _sensitivity(estimate),
        "assumptions": _assumptions(estimate),
        "excluded": list(EXCLUDED),
        "warnings": [warned._asdict() for warned in estimate.warnings],
        "reproduce": " ".join(reproduce(estimate)),
    }


def reproduce(estimate: Estimate) -> list[str]:
    """The command with every value spelt out, one option and its value per item."""
    return ["ptool estimate-cost", *(f"--{key} {value}" for key, value in _values(estimate).items())]


def _values(estimate: Estimate) -> dict[str, str]:
    """What determines the figures, by option name, as the option takes it."""
    values = {
        "params": _exact(estimate.asked.params),
        "tokens": _exact(estimate.asked.num_tokens),
        "gpu": estimate.gpu.name,
        "gpus": str(estimate.num_gpus),
        "mfu": _colons(estimate.efficiency.mfu),
        "goodput": _colons(estimate.efficiency.goodput),
    }
    return values | ({"price": _colons(estimate.price.band)} if estimate.price else {})


def _table(estimate: Estimate) -> list[str]:
    """Rows of low, expected and high; one column where every input is a single value."""
    asked, efficiency, price = estimate.asked, estimate.efficiency, estimate.price
    inputs = [efficiency.mfu, efficiency.goodput, *([price.band] if price else [])]
    single = all(band.low == band.high for band in inputs)
    basis = efficiency.label
    rows: list[tuple[str, Band | None, Callable[[float], str], str]] = [
        ("steady MFU, 6ND", _falling(efficiency.mfu), _percent, "given" if asked.mfu else basis),
        ("goodput", _falling(efficiency.goodput), _percent, "given" if asked.goodput else "restarts, saves, ramp"),
        ("GPU-hours", estimate.gpu_hours, _three_digits, ""),
        ("wall clock", estimate.wall_seconds, format_duration, _gpus(estimate)),
    ]
    if price:
        dated = f"prices {price.as_of}" if price.as_of else "given"
        rows += [
            ("price, $/GPU-hour", price.band, "{:.2f}".format, dated),
            ("cost", estimate.cost_usd, format_money, ""),
        ]
    head = "" if single else f"  {'':17}{'low':>12}{'expected':>12}{'high':>12}"
    return ([head] if head else []) + [_row(name, band, show, note, single) for name, band, show, note in rows if band]


def _row(name: str, band: Band, show: Callable[[float], str], note: str, single: bool) -> str:
    cells = "".join(f" {show(value):>11}" for value in (band[1:2] if single else band))
    return f"  {name:17}{cells}  {note}".rstrip()


def _textbook(estimate: Estimate) -> list[str]:
    """One line for the reader who came with the usual figure, where the two differ."""
    asked, ratio = estimate.asked, estimate.gpu_hours.mid / estimate.usual_gpu_hours
    dollars = estimate.price.band.mid if estimate.price else None
    if math.isclose(ratio, 1, rel_tol=0.01) and dollars in (None, USUAL_PRICE):
        return []
    hours, cost = _brief(estimate.usual_gpu_hours), format_money(estimate.usual_cost_usd)
    who = "real runs pay" if asked.mfu is None and asked.goodput is None else "here it is"
    why = f"; {who} {ratio:.1f}x" if abs(ratio - 1) >= 0.05 else ""
    return [f"  textbook      {hours} h, {cost} at 45 %, no losses, $2{why}"]


def _neighbour(run: Run) -> str:
    sizes = f"{format_count(run.num_tokens):>5}  {run.gpu:10}{run.gpu_hours:>12,.0f} GPU-h"
    return f"    {run.name:20}{sizes}  {run.implied_mfu * 100:3.0f} %"


def _gpus(estimate: Estimate) -> str:
    how = "" if estimate.asked.num_gpus else " (assumed)"
    return f"{format_count(estimate.num_gpus)} GPU{'s' if estimate.num_gpus > 1 else ''}{how}"


def _json_cost(estimate: Estimate) -> dict[str, Any] | None:
    if estimate.cost_usd is None or estimate.price is None:
        return None
    as_of = estimate.price.as_of
    return {
        **estimate.cost_usd._asdict(),
        "price_usd_per_gpu_hour": estimate.price.band._asdict(),
        "price_source": estimate.price.source,
        "price_as_of": as_of.isoformat() if as_of else None,
    }


def _json_run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "params": run.params,
        "active_params": run.active_params,
        "tokens": run.num_tokens,
        "gpu": run.gpu,
        "gpu_hours": run.gpu_hours,
        "implied_mfu": run.implied_mfu,
        "url": run.source,
    }


def _sensitivity(estimate: Estimate) -> list[dict[str, Any]]:
    """What each input alone, moved to an end of its band, does to the expected cost; the largest effect first."""
    if estimate.price is None or estimate.cost_usd is None:
        return []
    cost, hours = estimate.cost_usd.mid, estimate.gpu_hours.mid
    found = [
        {"field": field, "delta": end - band.mid, "cost_delta": cost * (band.mid / end - 1)}
        for field, band in (("mfu", estimate.efficiency.mfu), ("goodput", estimate.efficiency.goodput))
        for end in (band.low, band.high)
    ]
    price = estimate.price.band
    found += [
        {"field": "price", "delta": end - price.mid, "cost_delta": hours * (end - price.mid)}
        for end in (price.low, price.high)
    ]
    return sorted(found, key=lambda row: -abs(float(row["cost_delta"])))


def _assumptions(estimate: Estimate) -> list[dict[str, str]]:
    """Every value that entered, and where it came from."""
    asked = estimate.asked
    given = {
        "params": True,
        "tokens": True,
        "gpu": asked.gpu is not None,
        "gpus": asked.num_gpus is not None,
        "mfu": asked.mfu is not None,
        "goodput": asked.goodput is not None,
        "price": asked.price is not None,
    }
    tables = ("mfu", "goodput", "price")
    rows = [
        (key, value, "flag" if given[key] else "reference" if key in tables else "default")
        for key, value in _values(estimate).items()
    ]
    rows += [("model", "dense", "default"), ("precision", "bf16", "default")]
    return [{"key": key, "value": value, "origin": origin} for key, value, origin in rows]


def _falling(band: Band) -> Band:
    """Efficiencies in the order of cost: the low cost has the high efficiency."""
    return Band(*reversed(band))


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _three_digits(value: float) -> str:
    """Three significant digits, with separators: 757,000."""
    if value < 1000:
        return f"{value:.3g}"
    if value >= 1e9:
        return _brief(value)
    return f"{round(value, 2 - int(math.log10(value))):,.0f}"


def _brief(value: float) -> str:
    """At most seven characters: 524,000 or 22.7M."""
    return _three_digits(value) if value < 999_500 else format_count(round(value))


def _scientific(value: float) -> str:
    return f"{value:.2e}".replace("e+", "e")


def _colons(band: Band) -> str:
    """The band as its option takes it; one value where all are equal."""
    values = [f"{value:.6g}" for value in band]
    return values[0] if len(set(values)) == 1 else ":".join(values)


def _exact(count: int) -> str:
    """A count without loss, as short as it is typed: 70e9."""
    exponent = 0
    while count >= 1000 and count % 1000 == 0:
        count, exponent = count // 1000, exponent + 3
    return f"{count}e{exponent}" if exponent else str(count)


def _wrapped(options: list[str], width: int = 74) -> list[str]:
    """A shell command over lines that end in a backslash."""
    lines = [options[0]]
    for option in options[1:]:
        if len(lines[-1]) + 1 + len(option) > width:
            lines[-1] += " \\"
            lines.append(f"  {option}")
        else:
            lines[-1] += f" {option}"
    return lines
