"""A plan for people, as JSON (`ptool.plan/1`, plan.schema.json), and as the settings of `ptool train`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptool.costing.layouts import Candidate, Planned
from ptool.costing.trainconfig import TrainConfig, train_config
from ptool.units import format_bytes, format_count, format_duration

SCHEMA = "ptool.plan/1"


def layout_name(candidate: Candidate) -> str:
    """`TP8 x PP2 x DP8, ZeRO-1`; expert parallelism where there is one."""
    layout = candidate.layout
    expert = f" x EP{layout.expert}" if layout.expert > 1 else ""
    return f"TP{layout.tensor} x PP{layout.pipeline} x DP{layout.data}{expert}, ZeRO-{layout.zero}"


def configs(planned: Planned, size: str | None) -> list[TrainConfig]:
    """The settings of `train` for each of the best, or why there are none."""
    return [train_config(planned.wanted, candidate, size=size) for candidate in planned.best]


def runnable(planned: Planned, size: str | None) -> tuple[Candidate, TrainConfig] | None:
    """The fastest layout of all candidates that `train` can run."""
    works = [one for one in planned.candidates if one.code in (None, "slower") and one.step]
    works.sort(key=lambda one: -one.step.tokens_per_second if one.step else 0.0)
    for one in works:
        config = train_config(planned.wanted, one, size=size)
        if config.text:
            return one, config
    return None


def as_text(planned: Planned, size: str | None = None) -> str:
    """The best layouts, what each needs to know, and what was rejected by which rule."""
    wanted = planned.wanted
    cluster, shape = wanted.cluster, wanted.shape
    nodes = -(-cluster.gpus // cluster.gpus_per_node)
    size_of = f"{format_count(shape.num_parameters())} parameters"
    where = f"{cluster.gpus:,} x {cluster.gpu.name}, {nodes} node{'s' if nodes > 1 else ''} of {cluster.gpus_per_node}"
    links = f"node {cluster.link / 1e9:g} GB/s, network {cluster.network / 1e9:g} GB/s per GPU, one way"
    lines = [f"{size_of} on {where}", f"  {links}; rows of {wanted.setting.seq_len} tokens"]
    for number, (candidate, config) in enumerate(zip(planned.best, configs(planned, size), strict=True), 1):
        lines += [f"{number}. {layout_name(candidate)}", *(f"     {line}" for line in _facts(candidate))]
        lines.append(f"     train: {'ready, --toml prints it' if config.text else config.reason}")
    if not planned.best:
        lines.append("  no layout works")
        lines += [f"  nearest: {layout_name(one)}: {one.reason}" for one in _nearest(planned)]
    rejected = [f"{count} {code}" for code, count in planned.rejected_by().items()]
    lines.append(f"{len(planned.candidates)} candidates; not chosen: {', '.join(rejected) or 'none'}")
    return "\n".join(lines)


def all_rows(planned: Planned) -> tuple[list[str], list[list[str]]]:
    """Header and rows of every candidate."""
    header = ["layout", "rows", "memory", "bubble", "sending", "tokens/s", "verdict"]
    rows = []
    for one in planned.candidates:
        speed = [
            f"{one.step.bubble_share:.0%}", f"{one.step.communication / one.step.total:.0%}",
            format_count(round(one.step.tokens_per_second)),
        ] if one.step else ["", "", ""]  # fmt: skip
        memory = format_bytes(one.memory.total) if one.memory else ""
        verdict = f"{one.code}: {one.reason}" if one.code else "best"
        rows.append([layout_name(one), str(one.setting.micro_rows), memory, *speed, verdict])
    return header, rows


def as_json(planned: Planned, size: str | None = None) -> dict[str, Any]:
    """Every candidate with its reason, the best with their settings of `train`."""
    wanted = planned.wanted
    cluster = wanted.cluster
    best = []
    for candidate, config in zip(planned.best, configs(planned, size), strict=True):
        best.append({**_candidate(candidate), "train_config": config.text, "train_reason": config.reason})
    return {
        "schema": SCHEMA,
        "inputs": {
            "params": wanted.shape.num_parameters(),
            "gpu": cluster.gpu.name,
            "gpus": cluster.gpus,
            "gpus_per_node": cluster.gpus_per_node,
            "link_bytes_per_second": cluster.link,
            "network_bytes_per_second": cluster.network,
            "batch_tokens": wanted.batch_tokens,
            "seq_len": wanted.setting.seq_len,
            "precision": wanted.setting.precision,
            "engine": wanted.setting.engine,
        },
        "best": best,
        "rejected_by": planned.rejected_by(),
        "candidates": [_candidate(candidate) for candidate in planned.candidates],
    }


def _facts(candidate: Candidate) -> list[str]:
    memory, step, setting = candidate.memory, candidate.step, candidate.setting
    assert memory is not None
    assert step is not None
    batch = format_count(candidate.rows * setting.seq_len)
    recompute = f", recompute {setting.recompute}" if setting.recompute != "none" else ""
    bytes_of = f"states {memory.states / 1e9:.1f} GB, activations {memory.activations / 1e9:.1f} GB"
    shares = f"bubble {step.bubble_share:.1%}, sending {step.communication / step.total:.1%}"
    speed = f"{format_count(round(step.tokens_per_second))} tokens/s, MFU {step.mfu:.0%} (6nd)"
    multiple = f"a multiple of {candidate.rows_multiple} ({candidate.layout.data} ranks x {setting.micro_rows})"
    lines = [
        f"memory {format_bytes(memory.total)}: {bytes_of}{recompute}",
        f"step {format_duration(step.total)}: {shares}, {speed}",
        f"batch {candidate.rows:,} rows = {batch} tokens, {multiple}",
    ]
    if candidate.idle_gpus:
        lines.append(f"{candidate.layout.gpus:,} GPUs work, {candidate.idle_gpus} idle")
    return lines


def _nearest(planned: Planned) -> Sequence[Candidate]:
    """What came nearest: the candidates that lack the least memory, else the first few."""
    short = [one for one in planned.candidates if one.code == "memory" and one.memory]
    short.sort(key=lambda one: one.memory.total if one.memory else 0)
    return short[:3] or planned.candidates[:3]


def _candidate(one: Candidate) -> dict[str, Any]:
    step = one.step
    return {
        "name": layout_name(one),
        "tensor": one.layout.tensor,
        "pipeline": one.layout.pipeline,
        "data": one.layout.data,
        "expert": one.layout.expert,
        "zero": one.layout.zero,
        "micro_rows": one.setting.micro_rows,
        "recompute": one.setting.recompute,
        "gpus": one.layout.gpus,
        "idle_gpus": one.idle_gpus,
        "rows": one.rows,
        "rows_multiple": one.rows_multiple,
        "deepspeed_can": one.on_deepspeed,
        "memory": {**one.memory._asdict(), "states": one.memory.states, "total": one.memory.total}
        if one.memory
        else None,
        "step_seconds": step.total if step else None,
        "communication_seconds": step.communication if step else None,
        "bubble": step.bubble_share if step else None,
        "tokens_per_second": step.tokens_per_second if step else None,
        "mfu": step.mfu if step else None,
        "code": one.code,
        "reason": one.reason,
    }
