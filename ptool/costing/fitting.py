"""Whether a model fits on the GPUs it is to be trained on, and what would make it fit.

Remedies are tried one at a time in the order of what they cost: a higher ZeRO stage (traffic), a loss in chunks
(nothing, but the code must have it), fewer rows at once (smaller products), recomputing attention, then everything (up
to a third more operations), tensor parallelism within a node, a pipeline, more GPUs, a larger GPU. The first that
suffices alone is the advice; where none does, they are added up in this order until it fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ptool.costing.memory import Layout, Memory, Setting, estimate_memory, usable_bytes
from ptool.costing.refusals import GPUS_PER_NODE
from ptool.costing.shapes import Shape
from ptool.units import format_bytes

if TYPE_CHECKING:
    from ptool.costing.estimate import Asked
    from ptool.costing.tables import Gpu


class Fit(NamedTuple):
    """Memory of the most loaded GPU in one layout. `advice`: steps that make it fit; empty where it does or none do."""

    layout: Layout
    setting: Setting
    memory: Memory
    usable_bytes: int
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether it stays below what a run can count on."""
        return self.memory.total <= self.usable_bytes

    @property
    def headroom_bytes(self) -> int:
        """What is left; negative where it does not fit."""
        return self.usable_bytes - self.memory.total

    def sentence(self) -> str:
        """The answer in one line."""
        sizes = f"{format_bytes(self.memory.total)} of {format_bytes(self.usable_bytes)} usable on a GPU"
        if self.fits:
            return f"fits: {sizes}"
        return (
            f"does not fit: {sizes}; {'would fit with ' + ', '.join(self.advice) if self.advice else 'nothing helps'}"
        )


def fit_memory(asked: Asked, gpu: Gpu, num_gpus: int) -> Fit:
    """The asked layout, or data parallelism at the lowest ZeRO stage that fits. The model must have a shape."""
    shape = asked.model.shape
    assert shape is not None
    usable, setting = usable_bytes(gpu.memory_bytes), asked.setting
    if asked.layout is not None:
        return check_layout(shape, asked.layout, setting, usable)
    stages = [Layout(data=num_gpus, zero=zero) for zero in (range(4) if num_gpus > 1 else (0,))]
    for layout in stages:
        memory = estimate_memory(shape, layout, setting)
        if memory.total <= usable:
            return Fit(layout, setting, memory, usable, ())
    return check_layout(shape, stages[-1], setting, usable)


def check_layout(shape: Shape, layout: Layout, setting: Setting, usable: int) -> Fit:
    """One layout, with advice where it does not fit."""
    memory = estimate_memory(shape, layout, setting)
    advice = () if memory.total <= usable else advise(shape, layout, setting, usable)
    return Fit(layout, setting, memory, usable, advice)


def advise(shape: Shape, layout: Layout, setting: Setting, usable: int) -> tuple[str, ...]:
    """The cheapest single step that makes it fit, else steps added up; empty where nothing does."""

    def fits(layout: Layout, setting: Setting) -> bool:
        return estimate_memory(shape, layout, setting).total <= usable

    for name, changed, altered in _steps(shape, layout, setting):
        if fits(changed, altered):
            return (name,)
    taken: list[str] = []
    while True:
        step = next(_steps(shape, layout, setting), None)
        if step is None:
            return ()
        name, layout, setting = step
        taken = [kept for kept in taken if _kind(kept) != _kind(name)] + [name]
        if fits(layout, setting):
            return tuple(taken)


def _kind(step: str) -> str:
    """`ZeRO-2` and `ZeRO-3` are the same kind, and the later one replaces the earlier."""
    return step.split(maxsplit=1)[0].rstrip("0123456789")


def _steps(shape: Shape, layout: Layout, setting: Setting) -> Iterator[tuple[str, Layout, Setting]]:
    """Every step that is still open, cheapest first; GPUs at work stay as many."""
    highest = 3 if layout.pipeline == 1 else 1
    for zero in range(layout.zero + 1, highest + 1):
        if layout.data > 1:
            yield f"ZeRO-{zero}", layout._replace(zero=zero), setting
    if not setting.chunked_loss:
        yield "--loss chunked", layout, setting._replace(chunked_loss=True)
    if setting.micro_rows > 1:
        yield "--micro-rows 1", layout, setting._replace(micro_rows=1)
    if setting.recompute == "none" and not setting.flash:
        yield "--recompute selective", layout, setting._replace(recompute="selective")
    if setting.recompute != "full":
        yield "--recompute full", layout, setting._replace(recompute="full")
    if setting.engine == "deepspeed":
        return  # ptool's engine has no tensor and no pipeline parallelism
    tensor = layout.tensor
    while (tensor := tensor * 2) <= GPUS_PER_NODE and shape.heads % tensor == 0:
        data = layout.gpus // (tensor * layout.pipeline)
        if data >= 1:
            yield f"--tp {tensor}", layout._replace(tensor=tensor, data=data), setting
    pipeline = layout.pipeline
    while (pipeline := pipeline * 2) <= shape.layers:
        data = layout.gpus // (layout.tensor * pipeline)
        if data >= 1:
            zero = min(layout.zero, 1)
            yield f"--pp {pipeline}", layout._replace(pipeline=pipeline, data=data, zero=zero), setting
