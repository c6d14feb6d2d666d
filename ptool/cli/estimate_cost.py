"""`ptool estimate-cost`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ptool.cli.output import Out, current, plain_table
from ptool.costing.estimate import Asked, Estimate
from ptool.costing.estimate import estimate as estimate_asked
from ptool.costing.flops import Convention, Recompute
from ptool.costing.memory import Engine, Precision
from ptool.costing.report import as_json, as_text
from ptool.costing.request import build_request, parse_money
from ptool.units import Band, parse_band, parse_bytes, parse_count, parse_duration, parse_number

_BAND = "LO:MID:HI"

Params = Annotated[
    int | None, typer.Option(parser=parse_count, metavar="N", help="Parameters of the model: 70e9, 7.5B.")
]
Model = Annotated[str | None, typer.Option(metavar="SIZE", help="A named size, as for train: 7b.")]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A shape: [model] of a TOML, or a Hugging Face config.json.")
]
Arch = Annotated[
    str | None, typer.Option(metavar="KEY=N,...", help="A shape: layers=32,hidden=4096,heads=32,kv_heads=8,...")
]
Packed = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Packed data: its tokens and document lengths; - reads pack's line on stdin."),
]
Gpu = Annotated[
    str | None, typer.Option(metavar="NAME", help="GPU to rent, by name; a wrong name lists them. Default: h100-sxm.")
]
Seq = Annotated[
    int | None, typer.Option(parser=parse_count, metavar="N", help="Tokens in a row. Default: the data's, or 4096.")
]
PrecisionOption = Annotated[Precision | None, typer.Option("--precision", help="Arithmetic. Default: bf16.")]
EngineOption = Annotated[
    Engine | None, typer.Option("--engine", help="Whose copies count: megatron's or, as train runs, deepspeed's.")
]
RecomputeOption = Annotated[Recompute | None, typer.Option("--recompute", help="Activations to compute twice.")]
Fp32Gradients = Annotated[bool, typer.Option("--fp32-gradients", help="Accumulate in fp32: 18 bytes, not 16.")]
NoFlash = Annotated[bool, typer.Option("--no-flash", help="Attention that keeps its scores.")]
Loss = Annotated[
    str | None, typer.Option(metavar="plain|chunked", help="Whether all logits are there at once. Default: by engine.")
]


def estimate_cost(
    params: Params = None,
    tokens: Annotated[
        int | None, typer.Option(parser=parse_count, metavar="N", help="Training tokens: 2e12, 15T.")
    ] = None,
    active_params: Annotated[
        int | None, typer.Option(parser=parse_count, metavar="N", help="Parameters that a token passes (mixtures).")
    ] = None,
    model: Model = None,
    config: Config = None,
    arch: Arch = None,
    packed: Packed = None,
    gpu: Gpu = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            parser=parse_count,
            metavar="N",
            help="GPUs at the same time; sets the wall clock. Default: the power of two that ends within 30 days.",
        ),
    ] = None,
    precision: PrecisionOption = None,
    seq: Seq = None,
    mfu: Annotated[
        Band | None,
        typer.Option(parser=parse_band, metavar=_BAND, help="Steady MFU, low:expected:high or one value: 0.45."),
    ] = None,
    mfu_convention: Annotated[Convention | None, typer.Option(help="What MFU counts. Default: 6nd.")] = None,
    goodput: Annotated[
        Band | None,
        typer.Option(parser=parse_band, metavar=_BAND, help="Share of the paid time that trains; one value: 1."),
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(metavar=f"{_BAND}|FILE", help="Dollars per GPU-hour, or a TOML price list; wins over the table."),
    ] = None,
    peak_tflops: Annotated[
        float | None,
        typer.Option(parser=parse_number, metavar="X", help="Dense peak of a GPU, in place of the table's."),
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(parser=parse_duration, metavar="TIME", help="How many GPUs end it by then: 30d.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(parser=parse_money, metavar="DOLLARS", help="What this buys: 2M; see below.")
    ] = None,
    inference_tokens: Annotated[
        int | None, typer.Option(parser=parse_count, metavar="N", help="Tokens to be produced with the model.")
    ] = None,
    tp: Annotated[int | None, typer.Option(parser=parse_count, metavar="N", help="Tensor parallelism.")] = None,
    pp: Annotated[int | None, typer.Option(parser=parse_count, metavar="N", help="Pipeline stages.")] = None,
    ep: Annotated[int | None, typer.Option(parser=parse_count, metavar="N", help="Expert parallelism.")] = None,
    zero: Annotated[int | None, typer.Option(min=0, max=3, help="ZeRO stage. Default: the lowest that fits.")] = None,
    micro_rows: Annotated[
        int | None, typer.Option(parser=parse_count, metavar="N", help="Rows of one forward pass. Default: 1.")
    ] = None,
    recompute: RecomputeOption = None,
    engine: EngineOption = None,
    fp32_gradients: Fp32Gradients = False,
    no_flash: NoFlash = False,
    loss: Loss = None,
    gpu_mtbf: Annotated[
        float | None,
        typer.Option(parser=parse_duration, metavar="TIME", help="Between failures of one GPU. Default: Llama 3's."),
    ] = None,
    storage_rate: Annotated[
        int | None, typer.Option(parser=parse_bytes, metavar="BYTES", help="Of checkpoints, a second. Default: 20GB.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="GPU,...", help="The same question on these GPUs, side by side.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Sizes by tokens; no other question is needed.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Every formula with its numbers and its source.")] = False,
    fail_if: Annotated[
        list[str] | None, typer.Option(metavar="CONDITION", help="Exit 4 where true: 'cost.high>3e6'; repeatable.")
    ] = None,
    backtest: Annotated[
        bool, typer.Option("--backtest", help="The default bands against every published run.")
    ] = False,
    actual: Annotated[
        Path | None, typer.Option(metavar="RUN/", help="What a run of ours took, beside what is expected of --gpu.")
    ] = None,
) -> None:
    """Say what a training run will cost.

    Prints the operations, the GPU-hours, the wall clock and the dollars of pretraining, each with a low, an expected
    and a high value, and everything that was assumed on the way. It needs no GPU, no network and no framework.

    GPU-hours are operations / (dense peak x steady MFU x goodput). Operations are 6 x active parameters x tokens. Where
    a shape is given (--model, --config, --arch) the exact count stands beside it: linear layers, attention (causal half
    or full square, over the real document lengths of packed data), recomputation; and MFU can be counted that way
    (--mfu-convention). Steady MFU is the rate while the run runs; goodput is the share of the paid time in which it
    does. The defaults were fitted on two thirds of the published runs (--backtest shows all of them); where they
    differ from the usual "45 %, no losses, $2", one line gives both.

    With a shape, memory is checked: states, activations, logits, buffers, for the layout given by --tp, --pp, --ep,
    --zero, or for data parallelism with the lowest ZeRO stage that fits; where nothing fits, what would make it fit.
    `ptool plan` chooses the layout. Checkpoints: their size, time, and how often (Young, Daly).

    --budget says how far the money goes, and stands in for --tokens or for the model: what is left out is what it buys,
    the compute-optimal model where both are. --deadline gives the number of GPUs. --inference-tokens asks for the model
    of equal predicted loss that is cheapest to train and use together; losses are extrapolation and say so.

    Prices are a dated table, from the long tail of the market to the large clouds. A price older than 180 days is used
    with a warning; --price replaces it. Refused, with a code: an MFU above 65 %, fewer than 1 or more than 100,000
    tokens per parameter, tensor parallelism beyond a node, a peak that counts sparsity.

    --fail-if takes a key of the --json output (cost, hours, wall, fits are short forms), a comparison and a number, and
    ends with status 4 where it holds: a gate for job scripts. --actual reads a run folder of train and says what it
    measured; with --gpu, or --peak-tflops --mfu --goodput calibrated on another run, also what was to be expected.

    Not included: failed runs, ablations, evaluation, storage, network and staff.

    Examples:
        ptool estimate-cost --params 70e9 --tokens 2e12
        ptool estimate-cost --model 7b --tokens 2T --gpus 256 --deadline 14d --fail-if 'cost.high>3e6'
        ptool estimate-cost --params 7B --tokens 1T --gpu a100-80gb --gpus 256 --json | jq .cost_usd
    """
    given = dict(locals())
    out = current()
    if backtest:
        return _backtest(out)
    if actual is not None:
        return _actual(out, actual, given)
    if table:
        return _table(out, given)
    asked = build_request(given)
    found = estimate_asked(asked)
    for warned in found.warnings:
        out.notice(warned.message)
    return _print(out, asked, found, given)


def _print(out: Out, asked: Asked, found: Estimate, given: dict[str, Any]) -> None:
    from ptool.costing.checks import failed_check

    as_object = as_json(found)
    failed = failed_check(given["fail_if"] or (), as_object)
    side_by_side = []
    if given["compare"]:
        from ptool.costing.views import compare, compare_json, compare_rows

        side_by_side = compare(asked, given["compare"].split(","))
    if out.json_mode:
        if given["explain"]:
            from ptool.costing.explain import explain

            as_object["explanation"] = [line._asdict() for line in explain(found)]
        if side_by_side:
            as_object["compare"] = compare_json(side_by_side)
        out.json(as_object)
    else:
        out.text(as_text(found))
        if side_by_side:
            out.table(*compare_rows(side_by_side), descriptor=1)
        if given["explain"]:
            from ptool.costing.explain import explain_text

            out.text(explain_text(found))
    if failed:
        raise failed


def _backtest(out: Out) -> None:
    from ptool.costing.backtest import backtest
    from ptool.costing.views import backtest_json, backtest_rows, score_rows

    found = backtest()
    if out.json_mode:
        return out.json(backtest_json(found))
    return out.text(plain_table(*backtest_rows(found)) + "\n" + plain_table(*score_rows(found)))


def _actual(out: Out, run: Path, given: dict[str, Any]) -> None:
    from ptool.costing.actual import actual_json, actual_rows, read_actual

    peak = given["peak_tflops"]
    found = read_actual(
        run,
        gpu=given["gpu"],
        peak_flops=None if peak is None else peak * 1e12,
        mfu=given["mfu"],
        goodput=given["goodput"],
    )
    if out.json_mode:
        return out.json(actual_json(found))
    return out.text("".join(f"{name:<12}{value}\n" for name, value in actual_rows(found)))


def _table(out: Out, given: dict[str, Any]) -> None:
    from ptool.costing.inputs import read_price
    from ptool.costing.views import size_json, size_rows, sizes_by_tokens

    price = read_price(given["price"], given["gpu"] or "h100-sxm") if given["price"] else None
    found = sizes_by_tokens(given["gpu"], mfu=given["mfu"], goodput=given["goodput"], price=price)
    if out.json_mode:
        return out.json({"schema": "ptool.estimate-cost.table/1", "cells": size_json(found)})
    first = found[0][0]
    head = f"expected GPU-hours and cost, {first.gpu.name}, {first.efficiency.label}\n"
    return out.text(head + plain_table(*size_rows(found)))
