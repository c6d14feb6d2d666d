"""Every way to spread a model over a cluster, why each was rejected, and the best of those that were not.

A candidate is tensor x pipeline x data x expert parallelism, a ZeRO stage and the rows of a micro-batch. It is rejected
by the first rule that it breaks, each with a stable code:

    tensor-beyond-node       tensor parallelism sends four times a layer: it stays inside the node
    too-few-gpus             more parts than GPUs
    heads, layers, experts   do not divide evenly
    engine                   the engine asked for cannot run it
    deepspeed-pipeline-zero  DeepSpeed's pipeline refuses ZeRO-2 and 3, and Megatron has no more than ZeRO-1
    batch                    fewer rows in a step than data ranks times micro-batch
    memory                   does not fit, even where all activations are recomputed
    lower-zero-fits          a lower stage of the same layout fits: higher ones only send more
    bubble                   more than a quarter of the pipeline idles: too few micro-batches
    slower                   works, but others are faster

Recomputation is not searched: a layout gets it only where it does not fit without. Data parallelism takes what tensor
and pipeline leave, rounded down, and the GPUs left over idle; the batch is rounded up to a multiple of its rows.
Context parallelism and interleaved pipelines are not searched. A thousand candidates take a tenth of a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from ptool.costing.memory import Layout, Memory, Setting, estimate_memory, usable_bytes
from ptool.costing.shapes import Shape
from ptool.costing.traffic import Cluster, StepTime, step_time
from ptool.units import format_bytes

MICRO_ROWS = (1, 2, 4, 8)
LARGEST_BUBBLE = 0.25
NUM_BEST = 3


class Wanted(NamedTuple):
    """The question. `pinned` holds what the caller fixed: tensor, pipeline, zero, expert, micro_rows."""

    shape: Shape
    cluster: Cluster
    setting: Setting
    batch_tokens: int
    pinned: dict[str, int]
    prefer_micro: int | None = None


class Candidate(NamedTuple):
    """One layout. `code` is None where nothing speaks against it."""

    layout: Layout
    setting: Setting
    code: str | None
    reason: str
    memory: Memory | None = None
    step: StepTime | None = None
    rows: int = 0
    idle_gpus: int = 0

    @property
    def rows_multiple(self) -> int:
        """What the rows of a step must be a multiple of."""
        return self.layout.data * self.setting.micro_rows

    @property
    def on_deepspeed(self) -> bool:
        """Whether DeepSpeed could run it: its pipeline asserts ZeRO < 2."""
        return not (self.layout.pipeline > 1 and self.layout.zero >= 2)


class Planned(NamedTuple):
    """All candidates, and the fastest that work, best first."""

    wanted: Wanted
    candidates: tuple[Candidate, ...]
    best: tuple[Candidate, ...]

    def rejected_by(self) -> dict[str, int]:
        """How many candidates each rule rejected."""
        found: dict[str, int] = {}
        for candidate in self.candidates:
            if candidate.code:
                found[candidate.code] = found.get(candidate.code, 0) + 1
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def plan(wanted: Wanted) -> Planned:
    """Judge every candidate. `best` is empty where none works."""
    judged: list[Candidate] = []
    fitting: set[tuple[Layout, int]] = set()  # with stage 0 in place of theirs; stages come in rising order
    for layout, setting in _candidates(wanted):
        found = _judge(wanted, layout, setting)
        if found.code is None:
            key = (layout._replace(zero=0), setting.micro_rows)
            if key in fitting:
                reason = "a lower ZeRO stage of the same layout fits, and sends no more"
                found = found._replace(code="lower-zero-fits", reason=reason)
            fitting.add(key)
        judged.append(found)
    works = sorted((one for one in judged if one.code is None and one.step), key=_rank)
    best = _distinct(works)
    judged = [_compared(one, best) for one in judged]
    return Planned(wanted, tuple(judged), tuple(best))


def _rank(one: Candidate) -> tuple[float, int, int, int]:
    """Fastest first, in steps of 3 %, which is finer than the model is; within a step the simplest and smallest."""
    assert one.step is not None
    speed = round(math.log(one.step.tokens_per_second) / math.log(1.03))
    return -speed, one.layout.pipeline, one.layout.tensor, one.setting.micro_rows


def _distinct(works: list[Candidate]) -> list[Candidate]:
    """The best three that differ in more than the rows of a micro-batch."""
    best: list[Candidate] = []
    for one in works:
        if all(one.layout != other.layout for other in best):
            best.append(one)
        if len(best) == NUM_BEST:
            break
    return best


def _compared(one: Candidate, best: list[Candidate]) -> Candidate:
    if one.code is not None or one in best or not best or one.step is None or best[0].step is None:
        return one
    share = one.step.tokens_per_second / best[0].step.tokens_per_second
    return one._replace(code="slower", reason=f"works, at {share:.0%} of the speed of the best")


def _candidates(wanted: Wanted) -> Iterator[tuple[Layout, Setting]]:
    shape, cluster, pinned = wanted.shape, wanted.cluster, wanted.pinned
    tensors = [2**k for k in range(12) if 2**k <= 2 * cluster.gpus_per_node]
    pipelines = sorted({2**k for k in range(8)} | {n for n in range(1, 129) if shape.layers % n == 0})
    experts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n == 1 or (shape.experts and n <= shape.experts)]
    for tensor in _pinned(pinned, "tensor", tensors):
        for pipeline in _pinned(pinned, "pipeline", [p for p in pipelines if p <= shape.layers]):
            data = cluster.gpus // (tensor * pipeline)
            for expert in _pinned(pinned, "expert", experts):
                for micro_rows in _pinned(pinned, "micro_rows", list(MICRO_ROWS)):
                    for zero in _pinned(pinned, "zero", [0, 1, 2, 3]):
                        layout = Layout(tensor, pipeline, data, expert, zero)
                        yield layout, wanted.setting._replace(micro_rows=micro_rows)


def _pinned(pinned: dict[str, int], name: str, values: list[int]) -> list[int]:
    return [pinned[name]] if name in pinned else values


def _judge(wanted: Wanted, layout: Layout, setting: Setting) -> Candidate:
    shape, cluster = wanted.shape, wanted.cluster
    idle = max(0, cluster.gpus - layout.gpus)
    rejected = Candidate(layout, setting, "", "", idle_gpus=idle)
    broken = _broken_rule(wanted, layout)
    if broken:
        return rejected._replace(code=broken[0], reason=broken[1])
    multiple = layout.data * setting.micro_rows
    asked = max(1, round(wanted.batch_tokens / setting.seq_len))
    if asked < multiple:
        reason = f"{asked} rows a step do not feed {layout.data} data ranks x {setting.micro_rows} rows"
        return rejected._replace(code="batch", reason=reason)
    rows = -(-asked // multiple) * multiple
    setting = setting._replace(micro_batches=rows // multiple)
    usable = usable_bytes(cluster.gpu.memory_bytes)
    memory = estimate_memory(shape, layout, setting)
    if memory.total > usable and setting.recompute != "full" and setting.engine != "deepspeed":
        setting = setting._replace(recompute="full")
        memory = estimate_memory(shape, layout, setting)
    found = rejected._replace(setting=setting, memory=memory, rows=rows, code=None)
    if memory.total > usable:
        over = f"{format_bytes(memory.total)} of {format_bytes(usable)} usable"
        largest = max(memory._asdict(), key=lambda name: int(memory._asdict()[name]))
        return found._replace(code="memory", reason=f"{over}; most of it {largest}")
    step = step_time(shape, layout, setting, cluster, rows)
    if step.bubble_share > LARGEST_BUBBLE:
        reason = f"bubble {step.bubble_share:.0%}: {setting.micro_batches} micro-batches for {layout.pipeline} stages"
        return found._replace(code="bubble", reason=reason, step=step)
    return found._replace(step=step)


def _broken_rule(wanted: Wanted, layout: Layout) -> tuple[str, str] | None:
    shape, cluster = wanted.shape, wanted.cluster
    t, p = layout.tensor, layout.pipeline
    if t > cluster.gpus_per_node:
        return "tensor-beyond-node", f"tensor parallelism of {t} crosses nodes of {cluster.gpus_per_node}"
    if layout.data < 1:
        return "too-few-gpus", f"{t * p} GPUs are needed, and there are {cluster.gpus}"
    if wanted.setting.engine == "deepspeed" and (t > 1 or p > 1 or layout.expert > 1 or shape.is_mixture):
        return "engine", "ptool train is data parallel: no tensor, pipeline or expert parallelism"
    if shape.heads % t or (shape.kv_heads % t and t % shape.kv_heads) or shape.ffn_hidden % t:
        return "heads", f"{shape.heads} heads, {shape.kv_heads} of keys, width {shape.ffn_hidden} do not divide by {t}"
    if shape.layers % p:
        return "layers", f"{shape.layers} layers do not divide into {p} stages"
    if layout.expert > 1 and (shape.experts % layout.expert or layout.data % layout.expert):
        return "experts", f"{layout.expert} does not divide {shape.experts} experts and {layout.data} data ranks"
    if p > 1 and layout.zero >= 2:
        reason = "DeepSpeed's pipeline asserts ZeRO < 2, and Megatron's optimiser is ZeRO-1"
        return "deepspeed-pipeline-zero", reason
    return None
