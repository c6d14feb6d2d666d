"""How much of a GPU's peak a long training run turns into useful work: steady MFU and goodput, as two bands.

MFU as papers report it is the rate of a good hour (38-47 %). The GPU-hours that the same teams publish imply 26 %
(median of the H100 runs) and 38 % (A100): restarts, checkpoints, ramps and hangs are paid for too. One "45 %" therefore
under-prices the median run by 1.2 to 1.7 times. The bands here split the two, and their products cover the runs of
runs.toml, on which they were fitted: 22 of its 25 lie inside (Llama 3 8B, Llama 3.1 8B and TinyLlama do not).

A GPU without published runs borrows the H100 bands, scaled by how near its best measured matrix multiplication comes to
its peak, and widened: a guess, which the estimate calls uncalibrated.
"""

from __future__ import annotations

from typing import NamedTuple

from ptool.costing.tables import Gpu, Run, gpus, runs
from ptool.units import Band

HIGHEST_MFU = 0.65  # above every published dense bf16 run; what lies higher is a sparse peak or a mistake in the hours
USUAL_MFU = 0.45  # the single figure of back-of-envelope estimates, with no losses and $2 per hour
USUAL_PRICE = 2.0

SMALL_MODEL = 6e9  # up to 4B and for mixtures H100 runs are less efficient; no published run lies between 4B and 6.7B

_WIDEN_LOW, _WIDEN_HIGH = 0.8, 1.1  # judgement: without runs, miss the low side by a fifth and the high by a tenth


class Efficiency(NamedTuple):
    """Two bands, both as shares: `mfu` in the 6ND convention, `goodput` of the paid time."""

    mfu: Band
    goodput: Band
    basis: tuple[str, ...]  # ids of the published runs behind them
    label: str
    calibrated: bool


_A100 = (Band(0.33, 0.42, 0.50), Band(0.75, 0.88, 0.95))
_H100_LARGE = (Band(0.30, 0.38, 0.45), Band(0.70, 0.82, 0.93))
_H100_SMALL = (Band(0.21, 0.31, 0.40), Band(0.70, 0.82, 0.90))


def expected_efficiency(gpu: Gpu, *, params: float, is_mixture: bool = False) -> Efficiency:
    """The bands for a model of `params` parameters on `gpu`, with the runs they rest on."""
    group = gpu.runs or "h100"
    small = is_mixture or params <= SMALL_MODEL
    alike = [run for run in runs() if gpus()[run.gpu].runs == group]
    basis = tuple(run.id for run in alike if group == "a100" or _small(run) == small)
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
    rounded = Band(*(round(value, 3) for value in mfu))
    return Efficiency(rounded, Band(*(round(value, 3) for value in goodput)), basis, "uncalibrated", calibrated=False)


def _small(run: Run) -> bool:
    return run.is_mixture or run.params <= SMALL_MODEL
