"""How much of a GPU's peak a long training run turns into useful work: steady MFU and goodput, as two bands.

MFU as papers report it is the rate of a good hour (38-47 %). The GPU-hours that the same teams publish imply 26 %
(median of the H100 runs) and 38 % (A100): restarts, checkpoints, ramps and hangs are paid for too. One "45 %" therefore
under-prices the median run by 1.2 to 1.7 times. The bands here split the two. Their products were fitted on two thirds
of runs.toml by the rule in backtest.py, and `estimate-cost --backtest` shows what they miss.

A GPU without published runs borrows the H100 bands, scaled by how near its best measured matrix multiplication comes to
its peak, and widened: a guess, which the estimate calls uncalibrated. fp8 is another: it speeds a bf16 run up by 1.1 to
1.3 times, and its MFU is still counted against the bf16 peak.
"""

from __future__ import annotations

from typing import NamedTuple

from ptool.costing.flops import Convention
from ptool.costing.tables import Gpu, Run, gpus, runs
from ptool.units import Band

HIGHEST_MFU = 0.65  # above every published dense bf16 run; what lies higher is a sparse peak or a mistake in the hours
USUAL_MFU = 0.45  # the single figure of back-of-envelope estimates, with no losses and $2 per hour
USUAL_PRICE = 2.0

SMALL_MODEL = 6e9  # up to 4B and for mixtures H100 runs are less efficient; no published run lies between 4B and 6.7B

_WIDEN_LOW, _WIDEN_HIGH = 0.8, 1.1  # judgement: without runs, miss the low side by a fifth and the high by a tenth


class Efficiency(NamedTuple):
    """Two bands, both as shares: `mfu` of the peak in one convention, `goodput` of the paid time."""

    mfu: Band
    goodput: Band
    basis: tuple[str, ...]  # ids of the published runs they were fitted on
    label: str
    calibrated: bool


# MFU: backtest.fit_overall over the goodput beside it, rounded to three digits; a test repeats it. Goodput: Llama 3
# reports more than 90 % effective time at best, and ramps and restarts cost a quarter of the paid hours at worst.
_A100 = (Band(0.315, 0.449, 0.547), Band(0.75, 0.88, 0.95))
_H100_LARGE = (Band(0.24, 0.311, 0.469), Band(0.70, 0.82, 0.93))
_H100_SMALL = (Band(0.234, 0.279, 0.423), Band(0.70, 0.82, 0.90))

# fp8 over bf16, tokens per second: torchtitan Llama 3.1 8B on 8 H100s 1.28 (benchmarks/llama3_h100_202412), nanochat
# d26 1.17 (dev/LOG.md); the ends are judgement.
_FP8_GAIN = Band(1.1, 1.2, 1.3)

# A model's operations by convention over its 6ND, median over the runs of runs.toml whose shape is known: what a band
# in one convention is in another.
TYPICAL_RATIO: dict[Convention, float] = {"6nd": 1.0, "causal": 1.06, "full": 1.12}


def expected_efficiency(
    gpu: Gpu, *, params: float, is_mixture: bool = False, precision: str = "bf16", convention: Convention = "6nd"
) -> Efficiency:
    """The bands for a model of `params` parameters on `gpu`, with the runs they rest on."""
    found = _in_bf16(gpu, small=is_mixture or params <= SMALL_MODEL)
    mfu = found.mfu
    if precision == "fp8":
        mfu = Band(*(min(HIGHEST_MFU, value * gain) for value, gain in zip(mfu, _FP8_GAIN, strict=True)))
        found = found._replace(calibrated=False, label="fp8: uncalibrated")
    if convention != "6nd":
        mfu = Band(*(min(HIGHEST_MFU, value * TYPICAL_RATIO[convention]) for value in mfu))
    return found._replace(mfu=Band(*(round(value, 3) for value in mfu)))


def _in_bf16(gpu: Gpu, *, small: bool) -> Efficiency:
    group = "a100" if gpu.runs == "a100" else "h100-small" if small else "h100"
    basis = tuple(run.id for run in runs() if group_of(run) == group and not run.held_out)
    if group == "a100":
        return Efficiency(*_A100, basis, f"{len(basis)} dense A100 runs", calibrated=True)
    mfu, goodput = _H100_SMALL if small else _H100_LARGE
    label = f"{len(basis)} {'MoE/small' if small else 'dense'} H100 runs"
    if gpu.runs:
        return Efficiency(mfu, goodput, basis, label, calibrated=True)
    h100 = gpus()["h100-sxm"].achievable
    scale = gpu.achievable / h100 if gpu.achievable and h100 else 1.0
    mfu = Band(mfu.low * scale * _WIDEN_LOW, mfu.mid * scale, min(HIGHEST_MFU, mfu.high * scale * _WIDEN_HIGH))
    goodput = Band(goodput.low * _WIDEN_LOW, goodput.mid, goodput.high)
    return Efficiency(mfu, Band(*(round(value, 3) for value in goodput)), basis, "uncalibrated", calibrated=False)


def group_of(run: Run, *, nearest: bool = False) -> str:
    """The runs that `run` is fitted with: "a100", "h100", "h100-small"; "a100-small" has one run and no band.

    `nearest`: that one counts to "a100", whose band it gets.
    """
    family = gpus()[run.gpu].runs or "h100"
    small = run.is_mixture or run.params <= SMALL_MODEL
    return f"{family}-small" if small and not (nearest and family == "a100") else family
