"""An estimate as a page for people: 80 columns, ASCII, at most 24 lines for the plain question.

Each further question (a shape, a deadline, a budget, tokens to be produced) adds a line of its own. The page ends with
the command that reproduces it, every default spelt out, so that a figure on a slide can be traced.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ptool.costing.assumptions import reproduce
from ptool.costing.efficiency import USUAL_PRICE
from ptool.costing.estimate import Estimate
from ptool.costing.flops import CONVENTIONS
from ptool.costing.objects import EXCLUDED, as_json
from ptool.costing.scaling import verdict
from ptool.costing.tables import Run
from ptool.units import Band, format_bytes, format_count, format_duration, format_money

__all__ = ["as_json", "as_text"]

PAD = " " * 16
_CONVENTIONS = {"6nd": "6ND", "causal": "causal", "full": "full"}


def as_text(estimate: Estimate) -> str:
    """The estimate as lines of at most 80 characters."""
    asked, gpu = estimate.asked, estimate.gpu
    sizes = f"{format_count(asked.params)} parameters on {format_count(asked.num_tokens)} tokens"
    kind = "dense model" if asked.model.active_params == asked.params else "mixture"
    precision = asked.setting.precision
    peak = f"{estimate.peak_flops / 1e12:g} TFLOP/s dense {'TF32' if precision == 'fp32' else '(no sparsity)'}"
    lines = [
        f"{sizes} ({estimate.tokens_per_param:.3g} per parameter), {kind}, {precision}",
        *_compute(estimate),
        f"  GPU           {gpu.name}, {peak}",
        *_table(estimate),
        *_textbook(estimate),
        *_inverted(estimate),
        f"  scaling       {verdict(estimate.tokens_per_param)}",
        *_use(estimate),
        "  nearest published runs, and the MFU x goodput that their GPU-hours imply",
        *(_neighbour(neighbour.run) for neighbour in estimate.neighbours),
        *_memory(estimate),
        _checkpoint(estimate),
        f"  not included  {', '.join(EXCLUDED)}",
        "  reproduce",
        *(f"    {line}" for line in wrapped(reproduce(estimate))),
    ]
    return "\n".join(lines)


def _compute(estimate: Estimate) -> list[str]:
    parts = estimate.parts
    if parts is None:
        return [f"  compute       {scientific(estimate.flops)} FLOP by 6ND; without attention and recomputation"]
    extra = f" + recompute {scientific(parts.recompute)}" if parts.recompute else ""
    exact = f"linear {scientific(parts.linear)} + causal attention {scientific(parts.attention)}{extra}"
    lines = [f"  compute       {scientific(estimate.flops_6nd)} FLOP by 6ND; exact:", f"{PAD}{exact}"]
    shown = {name: estimate.mfu_by(name) for name in CONVENTIONS}
    same = ", ".join(f"{value * 100:.3g} % {_CONVENTIONS[name]}" for name, value in shown.items() if value)
    return [*lines, f"{PAD}one rate, three names: {same}"]


def _table(estimate: Estimate) -> list[str]:
    """Rows of low, expected and high; one column where every input is a single value."""
    asked, efficiency, price = estimate.asked, estimate.efficiency, estimate.price
    inputs = [efficiency.mfu, efficiency.goodput, *([price.band] if price else [])]
    single = all(band.low == band.high for band in inputs)
    basis = efficiency.label
    mfu = "steady MFU, 6ND" if asked.convention == "6nd" else f"MFU, {asked.convention}"
    rows: list[tuple[str, Band | None, Callable[[float], str], str]] = [
        (mfu, _falling(efficiency.mfu), _percent, "given" if asked.mfu else basis),
        ("goodput", _falling(efficiency.goodput), _percent, "given" if asked.goodput else "restarts, saves, ramp"),
        ("GPU-hours", estimate.gpu_hours, three_digits, ""),
        ("wall clock", estimate.wall_seconds, format_duration, _gpus(estimate)),
        ("energy, MWh", Band(*(kwh / 1000 for kwh in estimate.energy_kwh)), three_digits, "boards only"),
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
    hours, cost = brief(estimate.usual_gpu_hours), format_money(estimate.usual_cost_usd)
    who = "real runs pay" if asked.mfu is None and asked.goodput is None else "here it is"
    why = f"; {who} {ratio:.1f}x" if abs(ratio - 1) >= 0.05 else ""
    return [f"  textbook      {hours} h, {cost} at 45 %, no losses, $2{why}"]


def _inverted(estimate: Estimate) -> list[str]:
    asked, found = estimate.asked, estimate.inversion
    lines = []
    if found.deadline_gpus and asked.deadline_seconds:
        low, mid, high = (format_count(round(value)) for value in found.deadline_gpus)
        lines.append(
            f"  deadline      {format_duration(asked.deadline_seconds)} takes {low} to {high} GPUs, expected {mid}"
        )
    if asked.budget_usd is not None and found.within_budget and found.budget_tokens and found.budget_params:
        money = f"{format_money(asked.budget_usd)} is enough: {found.within_budget}"
        buys = f"it buys {format_count(round(found.budget_tokens.mid))} tokens"
        lines.append(f"  budget        {money}; {buys} at this size")
    if asked.budget_usd is not None and found.budget_flops:
        lines += [
            f"{PAD}best spent on {format_count(round(params))} and {format_count(round(tokens))} tokens ({name})"
            for name, params, tokens in _spent(found.budget_flops.mid)
        ]
    return lines


def _spent(flops: float) -> list[tuple[str, float, float]]:
    from ptool.costing.scaling import compute_optimal

    return [(found.fit, found.params, found.tokens) for found in compute_optimal(flops)]


def _use(estimate: Estimate) -> list[str]:
    found = estimate.for_use
    if found is None:
        return []
    size = f"{format_count(round(found.params))} on {format_count(round(found.tokens))} tokens"
    saving = f"saves {found.saving:.0%} of training and use"
    return [
        f"{PAD}for {format_count(round(found.use_tokens))} tokens of use: {size}",
        _extrapolated(saving, found.fit),
    ]


def _extrapolated(saving: str, fit: str) -> str:
    return f"{PAD}{saving} (extrapolated, {fit})"


def _memory(estimate: Estimate) -> list[str]:
    fit = estimate.fit
    if fit is None:
        return ["  memory        not checked: give --model, --config or --arch"]
    layout, memory = fit.layout, fit.memory
    spread = [f"ZeRO-{layout.zero}", f"data {layout.data}"]
    spread += [f"{name} {value}" for name, value in (("TP", layout.tensor), ("PP", layout.pipeline)) if value > 1]
    verdict_line = "fits" if fit.fits else "does not fit"
    total = f"{format_bytes(memory.total)} of {format_bytes(fit.usable_bytes)} usable"
    parts = f"states {format_bytes(memory.states)}, activations {format_bytes(memory.activations)}"
    rest = format_bytes(memory.logits + memory.buffers + memory.fixed)
    lines = [f"  memory        {verdict_line}: {total}; {', '.join(spread)}", f"{PAD}{parts}, rest {rest}"]
    if not fit.fits:
        advice = ", ".join(fit.advice) or "no single layout found: more or larger GPUs"
        lines.append(f"{PAD}would fit with: {advice}"[:80])
    return lines


def _checkpoint(estimate: Estimate) -> str:
    found = estimate.recovery
    size = f"{format_bytes(found.checkpoint_bytes)} in {format_duration(found.save_seconds)}"
    every = f"every {format_duration(found.daly_seconds)} (Young/Daly)"
    return f"  checkpoint    {size}, {every}; costs {_percent(min(1.0, found.overhead))}"


def _neighbour(run: Run) -> str:
    sizes = f"{format_count(run.num_tokens):>5}  {run.gpu:10}{run.gpu_hours:>12,.0f} GPU-h"
    return f"    {run.name:20}{sizes}  {run.implied_mfu * 100:3.0f} %"


def _gpus(estimate: Estimate) -> str:
    how = "" if estimate.asked.num_gpus else " (assumed)"
    return f"{format_count(estimate.num_gpus)} GPU{'s' if estimate.num_gpus > 1 else ''}{how}"


def _falling(band: Band) -> Band:
    """Efficiencies in the order of cost: the low cost has the high efficiency."""
    return Band(*reversed(band))


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def three_digits(value: float) -> str:
    """Three significant digits, with separators: 757,000."""
    if value < 1000:
        return f"{value:.3g}"
    if value >= 1e9:
        return brief(value)
    return f"{round(value, 2 - int(math.log10(value))):,.0f}"


def brief(value: float) -> str:
    """At most seven characters: 524,000 or 22.7M."""
    return three_digits(value) if value < 999_500 else format_count(round(value))


def scientific(value: float) -> str:
    """8.40e23."""
    return f"{value:.2e}".replace("e+", "e")


def wrapped(options: list[str], width: int = 74) -> list[str]:
    """A shell command over lines that end in a backslash."""
    lines = [options[0]]
    for option in options[1:]:
        if len(lines[-1]) + 1 + len(option) > width:
            lines[-1] += " \\"
            lines.append(f"  {option}")
        else:
            lines[-1] += f" {option}"
    return lines
