"""What a training run takes: operations, GPU-hours, days and dollars, each with a low, an expected and a high value.

    operations = 6 * parameters * tokens                              (flops.py)
    GPU-hours  = operations / (dense peak * steady MFU * goodput)     (gpus.toml, efficiency.py)
    dollars    = GPU-hours * price                                    (prices.toml, dated)

The low cost takes the high MFU, the high goodput and the low price together, and so on: a pessimist's and an optimist's
run, not a confidence interval. Memory is not checked here, a model is dense, and precision is bf16.
"""

from __future__ import annotations

import math
from datetime import date
from typing import NamedTuple

from ptool.costing.efficiency import HIGHEST_MFU, USUAL_MFU, USUAL_PRICE, Efficiency, expected_efficiency
from ptool.costing.flops import SECONDS_PER_HOUR, gpu_hours, training_flops
from ptool.costing.tables import Gpu, Price, Run, find_gpu, gpus, prices, runs
from ptool.errors import UsageError
from ptool.units import Band, format_count

DEFAULT_GPU = "h100-sxm"
PRICE_AGE_DAYS = 180  # rental prices of one GPU fall by about a third in a year
DEFAULT_DAYS = 30  # without --gpus: the smallest power of two that ends within a month, from one node of 8 on
NUM_NEIGHBOURS = 3

# Outside these a number is a slip of the keyboard: 20 tokens per parameter is compute-optimal (Hoffmann et al. 2022,
# arXiv 2203.15556), BLOOM had 2, and the smallest models of today tens of thousands.
_TOKENS_PER_PARAM = (1, 100_000)
_LOWEST_MFU = 0.001
_LOWEST_GOODPUT = 0.01
_HIGHEST_PRICE = 1000.0


class Neighbour(NamedTuple):
    """A published run near the asked one, `distance` in factors of ten of parameters and tokens together."""

    run: Run
    distance: float


class Warned(NamedTuple):
    """Something to know before using the figures; `code` is stable."""

    code: str
    message: str


class Asked(NamedTuple):
    """What the caller gave; None: take it from the tables. `mfu` and `goodput` are shares, `price` dollars per hour."""

    params: int
    num_tokens: int
    gpu: str | None = None
    num_gpus: int | None = None
    mfu: Band | None = None
    goodput: Band | None = None
    price: Band | None = None


class Estimate(NamedTuple):
    """The answer. Of hours, seconds, dollars and energy `low` is the cheap side; efficiencies rise as written."""

    asked: Asked
    flops: float
    gpu: Gpu
    num_gpus: int
    efficiency: Efficiency
    price: Price | None  # None: no price is known for this GPU and none was given
    gpu_hours: Band
    wall_seconds: Band
    cost_usd: Band | None
    energy_kwh: Band  # boards at rated power, without hosts, network and cooling
    neighbours: tuple[Neighbour, ...]
    warnings: tuple[Warned, ...]

    @property
    def tokens_per_param(self) -> float:
        """20 is compute-optimal; models meant to be used much are trained on more."""
        return self.asked.num_tokens / self.asked.params

    @property
    def usual_gpu_hours(self) -> float:
        """GPU-hours by the usual arithmetic: 45 % and no losses."""
        return gpu_hours(self.flops, peak_flops=self.gpu.peak_flops, utilisation=USUAL_MFU)

    @property
    def usual_cost_usd(self) -> float:
        """Dollars by the usual arithmetic: $2 per hour."""
        return self.usual_gpu_hours * USUAL_PRICE


def estimate_cost(
    params: int,
    tokens: int,
    *,
    gpu: str | None = None,
    num_gpus: int | None = None,
    mfu: Band | None = None,
    goodput: Band | None = None,
    price: Band | None = None,
    today: date | None = None,
) -> Estimate:
    """Estimate training a dense model of `params` parameters on `tokens` tokens.

    `mfu` and `goodput` are shares of 1, `price` is dollars per GPU-hour; what is None comes from the tables. `num_gpus`
    changes the wall clock only. `today` decides whether the price is old. Raises UsageError for an unknown GPU and for
    figures that cannot be meant: MFU above 65 %, fewer than 1 or more than 100,000 tokens per parameter.
    """
    asked = Asked(params, tokens, gpu, num_gpus, mfu, goodput, price)
    device = find_gpu(gpu or DEFAULT_GPU)
    _check_ranges(asked)
    default = expected_efficiency(device, params=params)
    efficiency = default._replace(mfu=mfu or default.mfu, goodput=goodput or default.goodput)
    hourly = Price(price, None, "--price") if price else prices().get(device.name)

    flops = training_flops(params, tokens)
    hours = _hours(flops, device, efficiency)
    count = num_gpus or _default_count(hours.mid)
    return Estimate(
        asked=asked,
        flops=flops,
        gpu=device,
        num_gpus=count,
        efficiency=efficiency,
        price=hourly,
        gpu_hours=hours,
        wall_seconds=Band(*(value * SECONDS_PER_HOUR / count for value in hours)),
        cost_usd=Band(*(h * dollars for h, dollars in zip(hours, hourly.band, strict=True))) if hourly else None,
        energy_kwh=Band(*(value * device.board_watts / 1000 for value in hours)),
        neighbours=_nearest(params, tokens, device),
        warnings=_warnings(asked, device, hourly, today or date.today()),
    )


def _hours(flops: float, gpu: Gpu, efficiency: Efficiency) -> Band:
    """The low hours come from the high efficiency."""
    return Band(
        *(
            gpu_hours(flops, peak_flops=gpu.peak_flops, utilisation=mfu * goodput)
            for mfu, goodput in zip(reversed(efficiency.mfu), reversed(efficiency.goodput), strict=True)
        )
    )


def _default_count(hours: float) -> int:
    at_least = hours / (DEFAULT_DAYS * 24)
    return max(8, 2 ** math.ceil(math.log2(at_least))) if at_least > 8 else 8


def _check_ranges(asked: Asked) -> None:
    """Refuse what cannot be meant, with the reason."""
    for name, value, example in (
        ("--params", asked.params, "70e9"),
        ("--tokens", asked.num_tokens, "2e12"),
        ("--gpus", 1 if asked.num_gpus is None else asked.num_gpus, "8"),
    ):
        if value < 1:
            raise UsageError(f"{name} must be at least 1", hint=f"for example {name} {example}")
    low, high = _TOKENS_PER_PARAM
    ratio = asked.num_tokens / asked.params
    if not low <= ratio <= high:
        sizes = f"{format_count(asked.num_tokens)} tokens for {format_count(asked.params)} parameters"
        side = f"below {low}" if ratio < low else f"above {high:,}"
        raise UsageError(
            f"{sizes} is {ratio:.3g} tokens per parameter, {side}",
            hint="20 is compute-optimal; are --params and --tokens swapped, or is a unit wrong?",
        )
    no_run = "no published dense bf16 run is above it; was the peak one with sparsity?"
    _check(asked.mfu, "MFU", _LOWEST_MFU, HIGHEST_MFU, no_run)
    _check(asked.goodput, "goodput", _LOWEST_GOODPUT, 1.0, "it is the share of paid time that trains")
    _check(asked.price, "price", 0.0, _HIGHEST_PRICE, "it is dollars for one GPU for one hour", percent=False)


def _check(band: Band | None, name: str, low: float, high: float, reason: str, *, percent: bool = True) -> None:
    if band is None:
        return
    for value in band:
        if not low <= value <= high:
            side, limit = ("below", low) if value < low else ("above", high)
            shown = (f"{value * 100:.4g} %", f"{limit * 100:g} %") if percent else (f"${value:g}", f"${limit:g}")
            raise UsageError(f"{name} {shown[0]} is {side} {shown[1]}", hint=reason)


def _nearest(params: int, tokens: int, gpu: Gpu) -> tuple[Neighbour, ...]:
    """Published runs by distance in active parameters and tokens; another GPU family counts like a factor of three."""

    def distance(run: Run) -> float:
        size = abs(math.log10(params / run.active_params)) + abs(math.log10(tokens / run.num_tokens))
        return size + (0.5 if gpus()[run.gpu].runs != (gpu.runs or "h100") else 0.0)

    ranked = sorted((Neighbour(run, distance(run)) for run in runs()), key=lambda neighbour: neighbour.distance)
    return tuple(ranked[:NUM_NEIGHBOURS])


def _warnings(asked: Asked, gpu: Gpu, price: Price | None, today: date) -> tuple[Warned, ...]:
    found = []
    if gpu.runs is None and (asked.mfu is None or asked.goodput is None):
        text = f"no published run on {gpu.name}: its efficiency is scaled from H100 runs and widened"
        found.append(Warned("uncalibrated-gpu", text))
    if price is None:
        found.append(Warned("no-price", f"no price known for {gpu.name}; give --price LOW:MID:HIGH"))
    elif price.as_of and (age := (today - price.as_of).days) > PRICE_AGE_DAYS:
        text = f"the {gpu.name} price is {age} days old ({price.as_of}); give --price LOW:MID:HIGH"
        found.append(Warned("old-price", text))
    return tuple(found)
