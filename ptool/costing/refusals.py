"""Figures that cannot be meant, refused with a stable code at the end of the message.

mfu-out-of-range        above 65 %: above every published dense bf16 run, so a sparse peak or a slip
tokens-per-param        below 1 or above 100,000
tensor-beyond-node      tensor parallelism over more GPUs than a node has: its traffic needs the node's links
sparse-peak             a peak near twice the GPU's dense one: the figure with 2:4 sparsity
count, goodput, price   below or above what there is
needs-shape             asked for what only a shape answers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptool.costing.efficiency import HIGHEST_MFU
from ptool.errors import UsageError
from ptool.units import Band, format_count

if TYPE_CHECKING:
    from ptool.costing.estimate import Asked
    from ptool.costing.tables import Gpu

# Outside these a number is a slip of the keyboard: 20 tokens per parameter is compute-optimal (Hoffmann et al. 2022,
# arXiv 2203.15556), BLOOM had 2, and the smallest models of today tens of thousands.
TOKENS_PER_PARAM = (1, 100_000)
SPARSE_PEAK = 1.5  # times the table's dense peak: boosted boards stay below, sparsity is 2
GPUS_PER_NODE = 8
_LOWEST_MFU = 0.001
_LOWEST_GOODPUT = 0.01
_HIGHEST_PRICE = 1000.0


class Refused(UsageError):
    """A figure that cannot be meant; `code` is stable."""

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{message} [{code}]", hint=hint)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        """As the parent class: this one's arguments differ."""
        return UsageError, (self.message,)


def check_asked(asked: Asked, gpu: Gpu) -> None:
    """Refuse what cannot be meant, with the reason. Raises UsageError."""
    for name, value, example in (
        ("--params", asked.params, "70e9"),
        ("--tokens", asked.num_tokens, "2e12"),
        ("--gpus", 1 if asked.num_gpus is None else asked.num_gpus, "8"),
        ("--seq", asked.setting.seq_len, "4096"),
        ("--micro-rows", asked.setting.micro_rows, "1"),
    ):
        if value < 1:
            raise Refused("count", f"{name} must be at least 1", hint=f"for example {name} {example}")
    low, high = TOKENS_PER_PARAM
    ratio = asked.num_tokens / asked.params
    if not low <= ratio <= high:
        sizes = f"{format_count(asked.num_tokens)} tokens for {format_count(asked.params)} parameters"
        side = f"below {low}" if ratio < low else f"above {high:,}"
        raise Refused(
            "tokens-per-param",
            f"{sizes} is {ratio:.3g} tokens per parameter, {side}",
            hint="20 is compute-optimal; are --params and --tokens swapped, or is a unit wrong?",
        )
    no_run = "no published dense bf16 run is above it; was the peak one with sparsity?"
    _check(asked.mfu, "MFU", _LOWEST_MFU, HIGHEST_MFU, no_run, "mfu-out-of-range")
    _check(asked.goodput, "goodput", _LOWEST_GOODPUT, 1.0, "it is the share of paid time that trains", "goodput")
    dollars = "it is dollars for one GPU for one hour"
    _check(asked.price.band if asked.price else None, "price", 0.0, _HIGHEST_PRICE, dollars, "price", percent=False)
    check_peak(asked.peak_flops, gpu)
    if asked.convention != "6nd" and asked.model.shape is None:
        hint = "give --model, --config or --arch"
        raise Refused("needs-shape", f"--mfu-convention {asked.convention} needs a shape", hint=hint)
    if asked.layout:
        check_tensor(asked.layout.tensor, GPUS_PER_NODE)
    for name, limit in (
        ("--deadline", asked.deadline_seconds),
        ("--budget", asked.budget_usd),
        ("--gpu-mtbf", asked.gpu_mtbf_seconds),
        ("--storage-rate", asked.storage_rate),
    ):
        if limit is not None and limit <= 0:
            raise Refused("count", f"{name} must be more than nothing")


def check_peak(peak_flops: float | None, gpu: Gpu) -> None:
    """Refuse a peak that counts sparsity."""
    if peak_flops is not None and peak_flops > SPARSE_PEAK * gpu.peak_flops:
        times = peak_flops / gpu.peak_flops
        raise Refused(
            "sparse-peak",
            f"a peak of {peak_flops / 1e12:g} TFLOP/s is {times:.2g} times the dense peak of {gpu.name}",
            hint=f"dense bf16 is {gpu.peak_flops / 1e12:g}; data sheets print it with 2:4 sparsity, which doubles it",
        )
    if peak_flops is not None and peak_flops < 1e9:
        raise Refused("count", f"a peak of {peak_flops / 1e12:g} TFLOP/s", hint="for example --peak-tflops 989.4")


def check_tensor(tensor: int, gpus_per_node: int) -> None:
    """Refuse tensor parallelism across nodes."""
    if tensor > gpus_per_node:
        message = f"tensor parallelism of {tensor} is larger than a node of {gpus_per_node} GPUs"
        raise Refused("tensor-beyond-node", message, hint="its all-reduces run four times per layer: use --pp or ZeRO")


def _check(
    band: Band | None, name: str, low: float, high: float, reason: str, code: str, *, percent: bool = True
) -> None:
    if band is None:
        return
    for value in band:
        if not low <= value <= high:
            side, limit = ("below", low) if value < low else ("above", high)
            shown = (f"{value * 100:.4g} %", f"{limit * 100:g} %") if percent else (f"${value:g}", f"${limit:g}")
            raise Refused(code, f"{name} {shown[0]} is {side} {shown[1]}", hint=reason)
