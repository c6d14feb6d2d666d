"""What a training run takes: operations, GPU-hours, days and dollars, each with a low, an expected and a high value.

    operations = 6 * active parameters * tokens, or the exact count of a shape     (flops.py)
    GPU-hours  = operations / (dense peak * steady MFU * goodput)                  (gpus.toml, efficiency.py)
    dollars    = GPU-hours * price                                                 (prices.toml, dated)

The low cost takes the high MFU, the high goodput and the low price together, and so on: a pessimist's and an optimist's
run, not a confidence interval. Operations and MFU are counted by one convention, 6ND unless asked otherwise; operations
done twice (recomputation) are shown and not charged, because the published MFUs behind the bands are net of them too.
"""

from __future__ import annotations

import math
from datetime import date
from typing import NamedTuple

from ptool.costing.efficiency import USUAL_MFU, USUAL_PRICE, Efficiency, expected_efficiency
from ptool.costing.fitting import Fit, fit_memory
from ptool.costing.flops import SECONDS_PER_HOUR, Convention, Flops, count_flops, gpu_hours, training_flops
from ptool.costing.inputs import Corpus, Model, typical_spans
from ptool.costing.memory import Layout, Setting
from ptool.costing.recovery import Recovery, recovery
from ptool.costing.refusals import check_asked
from ptool.costing.scaling import ForUse, Optimum, cheapest_for_use, compute_optimal
from ptool.costing.tables import Gpu, Price, Run, find_gpu, gpus, prices, runs
from ptool.errors import UsageError
from ptool.units import Band

DEFAULT_GPU = "h100-sxm"
PRICE_AGE_DAYS = 180  # rental prices of one GPU fall by about a third in a year
DEFAULT_DAYS = 30  # without --gpus: the smallest power of two that ends within a month, from one node of 8 on
NUM_NEIGHBOURS = 3
LONG_ATTENTION = 0.15  # attention's share beyond which no run behind the 6ND bands lies (Llama 3 8B: 0.13)


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

    model: Model
    corpus: Corpus
    gpu: str | None = None
    num_gpus: int | None = None
    mfu: Band | None = None
    goodput: Band | None = None
    price: Price | None = None
    convention: Convention = "6nd"
    peak_flops: float | None = None
    layout: Layout | None = None  # None: data parallel, with the lowest ZeRO stage that fits
    setting: Setting = Setting()
    use_tokens: int = 0
    deadline_seconds: float | None = None
    budget_usd: float | None = None
    gpu_mtbf_seconds: float | None = None
    storage_rate: float | None = None

    @property
    def params(self) -> int:
        """All parameters."""
        return self.model.params

    @property
    def num_tokens(self) -> int:
        """Training tokens."""
        return self.corpus.num_tokens


class Inversion(NamedTuple):
    """What a deadline or a budget allows; a band's `mid` is for the expected efficiency. None: not asked, no price."""

    deadline_gpus: Band | None = None
    budget_flops: Band | None = None
    budget_tokens: Band | None = None  # at the asked size
    budget_params: Band | None = None  # at the asked tokens
    within_budget: str | None = None  # "always", "expected", "only if all goes well", "never"


class Estimate(NamedTuple):
    """The answer. Of hours, seconds, dollars and energy `low` is the cheap side; efficiencies rise as written."""

    asked: Asked
    flops: float  # what hours follow from, by the asked convention
    flops_6nd: float
    parts: Flops | None  # the exact count; None without a shape
    gpu: Gpu
    peak_flops: float  # at the asked precision
    num_gpus: int
    efficiency: Efficiency
    price: Price | None  # None: no price is known for this GPU and none was given
    gpu_hours: Band
    wall_seconds: Band
    cost_usd: Band | None
    energy_kwh: Band  # boards at rated power, without hosts, network and cooling
    fit: Fit | None  # memory; None without a shape
    recovery: Recovery
    optimal: tuple[Optimum, ...]
    for_use: ForUse | None
    inversion: Inversion
    neighbours: tuple[Neighbour, ...]
    warnings: tuple[Warned, ...]

    @property
    def tokens_per_param(self) -> float:
        """20 is compute-optimal; models meant to be used much are trained on more."""
        return self.asked.num_tokens / self.asked.params

    @property
    def usual_gpu_hours(self) -> float:
        """GPU-hours by the usual arithmetic: 45 % and no losses."""
        return gpu_hours(self.flops_6nd, peak_flops=self.peak_flops, utilisation=USUAL_MFU)

    @property
    def usual_cost_usd(self) -> float:
        """Dollars by the usual arithmetic: $2 per hour."""
        return self.usual_gpu_hours * USUAL_PRICE

    def mfu_by(self, convention: Convention) -> float | None:
        """The expected steady MFU as another convention would count it; None without a shape."""
        if convention == self.asked.convention:
            return self.efficiency.mfu.mid
        if self.parts is None:
            return None
        counted = self.flops_6nd if convention == "6nd" else self.parts.by(convention)
        return self.efficiency.mfu.mid * counted / self.flops


def estimate_cost(
    params: int | None = None,
    tokens: int | None = None,
    *,
    model: Model | None = None,
    corpus: Corpus | None = None,
    gpu: str | None = None,
    num_gpus: int | None = None,
    mfu: Band | None = None,
    goodput: Band | None = None,
    price: Band | Price | None = None,
    today: date | None = None,
    **more: object,
) -> Estimate:
    """Estimate training a model of `params` parameters (or `model`) on `tokens` tokens (or `corpus`).

    `mfu` and `goodput` are shares of 1, `price` is dollars per GPU-hour; what is None comes from the tables. `num_gpus`
    changes the wall clock only. `more` are further fields of `Asked`. `today` decides whether the price is old. Raises
    UsageError for an unknown GPU and for figures that cannot be meant: MFU above 65 %, fewer than 1 or more than
    100,000 tokens per parameter.
    """
    if model is None:
        model = Model(_required("params", params), _required("params", params), None, "")
    if corpus is None:
        corpus = Corpus(_required("tokens", tokens))
    quoted = Price(price, None, "--price") if isinstance(price, Band) else price
    asked = Asked(model, corpus, gpu, num_gpus, mfu, goodput, quoted)._replace(**more)  # type: ignore[arg-type]
    return estimate(asked, today=today)


def estimate(asked: Asked, *, today: date | None = None) -> Estimate:
    """The estimate for everything that `asked` holds."""
    device = find_gpu(asked.gpu or DEFAULT_GPU)
    check_asked(asked, device)
    model, corpus = asked.model, asked.corpus
    precision = asked.setting.precision
    peak = asked.peak_flops or device.peak_flops * (0.5 if precision == "fp32" else 1.0)  # TF32 is half as fast
    efficiency = efficiency_of(asked, device)
    hourly = asked.price or prices().get(device.name)
    flops_6nd = training_flops(model.active_params, corpus.num_tokens)
    parts = None
    if model.shape:
        span = corpus.mean_span or typical_spans(model.shape, asked.setting.seq_len)
        parts = count_flops(model.shape, corpus.num_tokens, mean_span=span, recompute=asked.setting.recompute)
    flops = flops_6nd if asked.convention == "6nd" or parts is None else parts.by(asked.convention)
    hours = _hours(flops, peak, efficiency)
    count = asked.num_gpus or _default_count(hours.mid, asked.deadline_seconds)
    fit = fit_memory(asked, device, count) if model.shape else None
    cost = Band(*(h * dollars for h, dollars in zip(hours, hourly.band, strict=True))) if hourly else None
    return Estimate(
        asked=asked,
        flops=flops,
        flops_6nd=flops_6nd,
        parts=parts,
        gpu=device,
        peak_flops=peak,
        num_gpus=count,
        efficiency=efficiency,
        price=hourly,
        gpu_hours=hours,
        wall_seconds=Band(*(value * SECONDS_PER_HOUR / count for value in hours)),
        cost_usd=cost,
        energy_kwh=Band(*(value * device.board_watts / 1000 for value in hours)),
        fit=fit,
        recovery=_recovery(asked, count),
        optimal=compute_optimal(flops_6nd),
        for_use=cheapest_for_use(model.active_params, corpus.num_tokens, asked.use_tokens)
        if asked.use_tokens
        else None,
        inversion=_invert(asked, hours, cost, flops_6nd),
        neighbours=_nearest(asked, device),
        warnings=_warnings(asked, device, hourly, parts, fit, today or date.today()),
    )


def efficiency_of(asked: Asked, gpu: Gpu) -> Efficiency:
    """The bands that hold for what was asked: given ones first."""
    default = expected_efficiency(
        gpu,
        params=asked.params,
        is_mixture=asked.model.active_params < asked.params,
        precision=asked.setting.precision,
        convention=asked.convention,
    )
    return default._replace(mfu=asked.mfu or default.mfu, goodput=asked.goodput or default.goodput)


def _required(name: str, value: int | None) -> int:
    if value is None:
        raise UsageError(f"--{name} is missing", hint="see ptool estimate-cost --help")
    return value


def _hours(flops: float, peak_flops: float, efficiency: Efficiency) -> Band:
    """The low hours come from the high efficiency."""
    return Band(
        *(
            gpu_hours(flops, peak_flops=peak_flops, utilisation=mfu * goodput)
            for mfu, goodput in zip(reversed(efficiency.mfu), reversed(efficiency.goodput), strict=True)
        )
    )


def _default_count(hours: float, deadline_seconds: float | None) -> int:
    if deadline_seconds is not None:
        return max(1, math.ceil(hours * SECONDS_PER_HOUR / deadline_seconds / 8) * 8)
    at_least = hours / (DEFAULT_DAYS * 24)
    return max(8, 2 ** math.ceil(math.log2(at_least))) if at_least > 8 else 8


def _recovery(asked: Asked, count: int) -> Recovery:
    given = {"gpu_mtbf_seconds": asked.gpu_mtbf_seconds, "storage_rate": asked.storage_rate}
    known = {name: value for name, value in given.items() if value is not None}
    setting = asked.setting
    return recovery(asked.params, count, precision=setting.precision, engine=setting.engine, **known)


def _invert(asked: Asked, hours: Band, cost: Band | None, flops: float) -> Inversion:
    """Hours and dollars grow in proportion to 6ND, so each answer is one division."""
    found = Inversion()
    if asked.deadline_seconds is not None:
        days = asked.deadline_seconds / SECONDS_PER_HOUR
        found = found._replace(deadline_gpus=Band(*(math.ceil(value / days) for value in hours)))
    if asked.budget_usd is not None and cost is not None and cost.low > 0:
        shares = [asked.budget_usd / dollars for dollars in reversed(cost)]
        verdicts = zip(("always", "expected", "only if all goes well"), shares, strict=True)
        found = found._replace(
            budget_flops=Band(*(share * flops for share in shares)),
            budget_tokens=Band(*(share * asked.num_tokens for share in shares)),
            budget_params=Band(*(share * asked.params for share in shares)),
            within_budget=next((name for name, share in verdicts if share >= 1), "never"),
        )
    return found


def _nearest(asked: Asked, gpu: Gpu) -> tuple[Neighbour, ...]:
    """Published runs by distance in active parameters and tokens; another GPU family counts like a factor of three."""

    def distance(run: Run) -> float:
        params, tokens = asked.model.active_params, asked.num_tokens
        size = abs(math.log10(params / run.active_params)) + abs(math.log10(tokens / run.num_tokens))
        return size + (0.5 if gpus()[run.gpu].runs != (gpu.runs or "h100") else 0.0)

    ranked = sorted((Neighbour(run, distance(run)) for run in runs()), key=lambda neighbour: neighbour.distance)
    return tuple(ranked[:NUM_NEIGHBOURS])


def _warnings(
    asked: Asked, gpu: Gpu, price: Price | None, parts: Flops | None, fit: Fit | None, today: date
) -> tuple[Warned, ...]:
    found = []
    if asked.model.doubt:
        found.append(Warned("unknown-family", asked.model.doubt))
    if gpu.runs is None and (asked.mfu is None or asked.goodput is None):
        text = f"no published run on {gpu.name}: its efficiency is scaled from H100 runs and widened"
        found.append(Warned("uncalibrated-gpu", text))
    if asked.setting.precision != "bf16" and asked.mfu is None:
        text = f"the bands are of bf16 runs; for {asked.setting.precision} they are a guess: give --mfu"
        found.append(Warned("uncalibrated-precision", text))
    if parts and asked.convention == "6nd" and parts.attention > LONG_ATTENTION * parts.linear:
        share = f"{parts.attention / parts.linear:.0%}"
        text = f"attention adds {share} to the operations, beyond the runs behind the 6ND bands"
        found.append(Warned("long-sequence", f"{text}: --mfu-convention causal counts it"))
    if fit and not fit.fits:
        found.append(Warned("does-not-fit", fit.sentence()))
    if price is None:
        found.append(Warned("no-price", f"no price known for {gpu.name}; give --price LOW:MID:HIGH"))
    elif price.as_of and (age := (today - price.as_of).days) > PRICE_AGE_DAYS:
        text = f"the {gpu.name} price is {age} days old ({price.as_of}); give --price LOW:MID:HIGH"
        found.append(Warned("old-price", text))
    return tuple(found)
