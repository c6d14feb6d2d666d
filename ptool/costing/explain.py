"""Every formula behind an estimate, with its numbers put in and its source: `estimate-cost --explain`."""

from __future__ import annotations

from typing import NamedTuple

from ptool.costing.estimate import Estimate
from ptool.costing.flops import SECONDS_PER_HOUR
from ptool.costing.report import scientific
from ptool.costing.scaling import FITS
from ptool.costing.tables import GPUS_SOURCE
from ptool.units import format_bytes, format_count, format_duration, format_money


class Line(NamedTuple):
    """One quantity: its formula, the formula with numbers, the result, where the formula or the numbers are from."""

    quantity: str
    formula: str
    numbers: str
    result: str
    source: str


def explain(estimate: Estimate) -> list[Line]:
    """The lines, in the order of the calculation."""
    return [*_operations(estimate), *_money(estimate), *_memory(estimate), *_rest(estimate)]


def explain_text(estimate: Estimate) -> str:
    """The lines for people."""
    blocks = [
        f"{line.quantity}\n  {line.formula}\n  = {line.numbers}\n  = {line.result}\n  source: {line.source}"
        for line in explain(estimate)
    ]
    return "\n".join(blocks)


def _operations(estimate: Estimate) -> list[Line]:
    asked, parts = estimate.asked, estimate.parts
    active, tokens = asked.model.active_params, asked.num_tokens
    lines = [
        Line(
            "operations, 6ND",
            "6 * active parameters * tokens",
            f"6 * {active:,} * {tokens:,}",
            f"{scientific(estimate.flops_6nd)} FLOP",
            "Kaplan et al. 2020, arXiv 2001.08361, section 2.1",
        )
    ]
    shape = asked.model.shape
    if parts and shape:
        width = shape.attention_width
        lines += [
            Line(
                "operations, linear",
                "6 * (matrices that a token passes + output head) * tokens",
                f"6 * {shape.matmul_parameters():,} * {tokens:,}",
                f"{scientific(parts.linear)} FLOP",
                "counted from the shape",
            ),
            Line(
                "operations, causal attention",
                "6 * layers * width * mean span * tokens; twice that with the masked half",
                f"6 * {shape.layers} * {width} * {parts.mean_span:,.1f} * {tokens:,}",
                f"{scientific(parts.attention)} FLOP",
                "Megatron-LM, num_floating_point_operations; mean span = sum of squares / sum of document lengths",
            ),
            Line(
                "operations, recomputed",
                {
                    "none": "nothing",
                    "selective": "attention's forward pass: a third of it",
                    "full": "the forward pass: a third of linear and attention",
                }[asked.setting.recompute],
                f"({scientific(parts.linear)} + {scientific(parts.attention)}), recompute {asked.setting.recompute}",
                f"{scientific(parts.recompute)} FLOP, not charged: published MFUs are net of it",
                "Korthikanti et al. 2022, arXiv 2205.05198, section 5",
            ),
        ]
    return lines


def _money(estimate: Estimate) -> list[Line]:
    mfu, goodput = estimate.efficiency.mfu, estimate.efficiency.goodput
    hours = estimate.gpu_hours
    peak = f"{estimate.peak_flops / 1e12:g}e12"
    basis = "given" if estimate.asked.mfu else f"fitted on {', '.join(estimate.efficiency.basis)} (--backtest)"
    lines = [
        Line(
            "GPU-hours",
            "operations / (dense peak * steady MFU * goodput * 3600)",
            f"{scientific(estimate.flops)} / ({peak} * {mfu.mid} * {goodput.mid} * {SECONDS_PER_HOUR})",
            f"{hours.mid:,.0f} ({hours.low:,.0f} to {hours.high:,.0f})",
            f"peak: {GPUS_SOURCE}; efficiency: {basis}",
        ),
        Line(
            "wall clock",
            "GPU-hours / GPUs",
            f"{hours.mid:,.0f} / {estimate.num_gpus}",
            format_duration(estimate.wall_seconds.mid),
            "arithmetic; steady MFU is taken to hold at that many GPUs",
        ),
        Line(
            "energy",
            "GPU-hours * rated watts / 1000",
            f"{hours.mid:,.0f} * {estimate.gpu.board_watts:g} / 1000",
            f"{estimate.energy_kwh.mid:,.0f} kWh",
            "vendor data sheets; without hosts, network and cooling",
        ),
    ]
    if estimate.price and estimate.cost_usd:
        dated = f"{estimate.price.source}, {estimate.price.as_of}" if estimate.price.as_of else "given"
        numbers = f"{hours.mid:,.0f} * {estimate.price.band.mid:g}"
        lines.append(Line("cost", "GPU-hours * price", numbers, format_money(estimate.cost_usd.mid), dated))
    return lines


def _memory(estimate: Estimate) -> list[Line]:
    fit = estimate.fit
    if fit is None:
        return []
    w, g, o = fit.setting.bytes_per_state
    layout, memory = fit.layout, fit.memory
    spread = f"ZeRO-{layout.zero}, TP {layout.tensor}, PP {layout.pipeline}, data {layout.data}"
    return [
        Line(
            "memory, states",
            "ZeRO-0: w + g + o; 1: w + g + o/d; 2: w + (g+o)/d; 3: (w+g+o)/d, times P / (t p)",
            f"w {w}, g {g}, o {o} bytes per parameter; {spread}; engine {fit.setting.engine}",
            format_bytes(memory.states),
            "Rajbhandari et al. 2020, arXiv 1910.02054; deepspeed: measured, tests/soak/memory.py",
        ),
        Line(
            "memory, activations",
            "per layer 34 sbh + 5 a s^2 b (GPT); SwiGLU: its own tensors; recompute full: 2 sbh and one live layer",
            f"s {fit.setting.seq_len}, b {fit.setting.micro_rows}, recompute {fit.setting.recompute}",
            format_bytes(memory.activations),
            "Korthikanti et al. 2022, arXiv 2205.05198, equations 1-6",
        ),
    ]


def _rest(estimate: Estimate) -> list[Line]:
    found = estimate.recovery
    first = estimate.optimal[0]
    fit = FITS[0]
    return [
        Line(
            "checkpoint interval",
            "Young: sqrt(2 * save * MTBF); Daly adds higher terms",
            f"sqrt(2 * {found.save_seconds:.4g} s * {found.mtbf_seconds:.4g} s)",
            f"{format_duration(found.young_seconds)}, by Daly {format_duration(found.daly_seconds)}",
            "Young 1974; Daly 2006; failures: Llama 3, arXiv 2407.21783, section 3.3.4",
        ),
        Line(
            "compute-optimal size",
            "N = G (C/6)^(b/(a+b)), G = (a A / (b B))^(1/(a+b)), D = C / (6 N)",
            f"A {fit.a:g}, B {fit.b:g}, a {fit.alpha:g}, b {fit.beta:g}, C {scientific(estimate.flops_6nd)}",
            f"{format_count(round(first.params))} parameters on {format_count(round(first.tokens))} tokens",
            f"{fit.name}, {fit.source}",
        ),
    ]
