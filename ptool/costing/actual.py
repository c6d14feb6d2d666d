"""The estimate beside what a real run of ours took, and what that says about this machine.

A run folder holds `config.toml` (shape, ranks, precision), `metrics.jsonl` (one line per accepted step with its tokens
per second) and `events.jsonl` (when it started and saved). Steady speed is the median of the steps, so a save or a slow
start does not count; goodput is the time that the accepted steps took at that speed over the time at work, so they do.

On a GPU of the table the speed is an MFU, and the calibration is `--mfu` and `--goodput`. On a CPU there is no peak to
compare with: the operations per second of one rank are given, as `--peak-tflops` at MFU 0.5 would reproduce them.
"""

from __future__ import annotations

import json
import statistics
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from ptool.costing.efficiency import expected_efficiency
from ptool.costing.flops import count_flops, gpu_hours, training_flops
from ptool.costing.shapes import from_table
from ptool.costing.tables import find_gpu
from ptool.errors import InputError
from ptool.units import Band, format_count


class Actual(NamedTuple):
    """What a run measured. `mfu` is 6ND against the GPU's dense peak, None on a CPU."""

    run: str
    params: int
    tokens: int
    steps: int
    ranks: int
    device: str
    tokens_per_second: float  # of all ranks together, median step
    flops_per_second_per_rank: float
    attention_share: float  # causal attention over linear operations
    steady_hours: float  # rank-hours at the median speed
    paid_hours: float  # rank-hours that passed
    goodput: float
    gpu: str | None
    peak_flops: float | None
    mfu: float | None
    estimated_hours: float | None  # from the default bands, expected
    finished: bool


def read_actual(
    run: Path,
    *,
    gpu: str | None = None,
    peak_flops: float | None = None,
    mfu: Band | None = None,
    goodput: Band | None = None,
) -> Actual:
    """Measure the run in `run`, and estimate it: by the bands of `gpu`, or by a peak and bands calibrated elsewhere.

    `gpu` counts only for a run on GPUs. Raises InputError where there is no run, or it has no accepted step yet.
    """
    config = _toml(run / "config.toml")
    steps = _lines(run / "metrics.jsonl")
    try:
        shape = from_table(config["model"], where=str(run / "config.toml"))
        ranks, device = int(config["parallel"]["ranks"]), str(config["parallel"]["device"])
        row = statistics.fmean(map(int, config["data"]["seq_lens"]))  # of each packed folder
        speeds = [float(step["tokens_per_second"]) for step in steps]
        tokens = int(steps[-1]["tokens"])
        passed = _seconds_at_work(_lines(run / "events.jsonl"))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        message = f"not a run with accepted steps: {type(error).__name__} {error}"
        raise InputError(message, where=str(run), hint="give the folder that `ptool train -o` wrote") from error
    if statistics.median(speeds) <= 0:
        raise InputError("no accepted step yet", where=str(run))
    params = shape.num_parameters()
    speed = statistics.median(speeds)
    counted = count_flops(shape, tokens, mean_span=row)
    flops = training_flops(params, tokens)
    steady = tokens / speed * ranks / 3600
    paid = max(passed, tokens / speed) * ranks / 3600
    rate = flops / tokens * speed / ranks
    device_row = find_gpu(gpu) if gpu is not None and device != "cpu" else None
    peak = peak_flops or (device_row.peak_flops if device_row else None)
    estimated = None
    if peak is not None:
        known = expected_efficiency(device_row or find_gpu("h100"), params=params)
        used = (mfu or known.mfu).mid * (goodput or known.goodput).mid
        estimated = gpu_hours(flops, peak_flops=peak, utilisation=used)
    return Actual(
        run=str(run),
        params=params,
        tokens=tokens,
        steps=len(steps),
        ranks=ranks,
        device=device,
        tokens_per_second=speed,
        flops_per_second_per_rank=rate,
        attention_share=counted.attention / counted.linear,
        steady_hours=steady,
        paid_hours=paid,
        goodput=steady / paid,
        gpu=device_row.name if device_row else None,
        peak_flops=peak,
        mfu=rate / peak if peak else None,
        estimated_hours=estimated,
        finished=(run / "manifest.json").is_file(),
    )


def actual_rows(found: Actual) -> list[tuple[str, str]]:
    """For people."""
    state = "finished" if found.finished else "unfinished"
    rows = [
        ("run", f"{found.run} ({state})"),
        (
            "model",
            f"{format_count(found.params)} parameters on {format_count(found.tokens)} tokens, {found.steps:,} steps",
        ),
        ("ranks", f"{found.ranks} on {found.device}"),
        (
            "steady",
            f"{found.tokens_per_second:,.0f} tokens/s, {found.flops_per_second_per_rank / 1e9:,.1f} GFLOP/s a rank",
        ),
        ("goodput", f"{found.goodput:.1%} of the time went into accepted steps"),
        ("paid", f"{found.paid_hours:.4g} rank-hours, of them {found.steady_hours:.4g} steady"),
    ]
    if found.mfu is None or found.peak_flops is None or found.estimated_hours is None:
        peak = found.flops_per_second_per_rank * 2 / 1e12
        rows.append(("calibration", f"--peak-tflops {peak:.4g} --mfu 0.5 --goodput {found.goodput:.4g} (per rank)"))
        return rows
    ratio = found.paid_hours / found.estimated_hours
    peak_option = f"--gpu {found.gpu}" if found.gpu else f"--peak-tflops {found.peak_flops / 1e12:.4g}"
    rows += [
        ("MFU, 6ND", f"{found.mfu:.1%} of {found.gpu or 'the given'} dense peak"),
        ("estimate", f"{found.estimated_hours:.4g} hours expected: the run took {ratio:.2f} times that"),
        ("calibration", f"{peak_option} --mfu {found.mfu:.4g} --goodput {found.goodput:.4g}"),
    ]
    return rows


def actual_json(found: Actual) -> dict[str, Any]:
    """The same, in base units."""
    return {"schema": "ptool.estimate-cost.actual/1", **found._asdict()}


def _seconds_at_work(events: list[dict[str, Any]]) -> float:
    """From each start to the last event before the next one: nobody pays for the night between a stop and a resume."""
    total = first = last = 0.0
    for event in events:
        time = float(event["time"])
        if event["event"] == "start":
            total, first = total + last - first, time
        last = time
    return total + last - first if first else 0.0


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"no run here: {error}", where=str(path)) from error


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may still be growing."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"no run here: {error}", where=str(path)) from error
    try:
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    except json.JSONDecodeError as error:
        raise InputError(f"a line is not JSON: {error}", where=str(path)) from error
