"""`ptool plan`."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from ptool.cli.estimate_cost import (
    Arch,
    Config,
    EngineOption,
    Fp32Gradients,
    Gpu,
    Loss,
    Model,
    NoFlash,
    PrecisionOption,
    RecomputeOption,
    Seq,
)
from ptool.cli.output import Out, current
from ptool.errors import CheckFailed
from ptool.units import parse_bytes, parse_count, parse_duration

Count = int | None


def plan(
    model: Model = None,
    config: Config = None,
    arch: Arch = None,
    gpus: Annotated[Count, typer.Option(parser=parse_count, metavar="N", help="GPUs there are.")] = None,
    gpu: Gpu = None,
    gpus_per_node: Annotated[
        Count, typer.Option(parser=parse_count, metavar="N", help="GPUs that share fast links. Default: 8.")
    ] = None,
    link: Annotated[
        Count,
        typer.Option(parser=parse_bytes, metavar="BYTES", help="In the node, a second, one way. Default: by GPU."),
    ] = None,
    network: Annotated[
        Count, typer.Option(parser=parse_bytes, metavar="BYTES", help="To other nodes, per GPU. Default: by GPU.")
    ] = None,
    seq: Seq = None,
    batch_tokens: Annotated[
        Count, typer.Option(parser=parse_count, metavar="N", help="Tokens of a step. Default: the size's own, or 4M.")
    ] = None,
    tp: Annotated[Count, typer.Option(parser=parse_count, metavar="N", help="Tensor parallelism, fixed.")] = None,
    pp: Annotated[Count, typer.Option(parser=parse_count, metavar="N", help="Pipeline stages, fixed.")] = None,
    ep: Annotated[Count, typer.Option(parser=parse_count, metavar="N", help="Expert parallelism, fixed.")] = None,
    zero: Annotated[Count, typer.Option(min=0, max=3, help="ZeRO stage, fixed.")] = None,
    micro_rows: Annotated[Count, typer.Option(parser=parse_count, metavar="N", help="Rows at once, fixed.")] = None,
    precision: PrecisionOption = None,
    recompute: RecomputeOption = None,
    engine: EngineOption = None,
    fp32_gradients: Fp32Gradients = False,
    no_flash: NoFlash = False,
    loss: Loss = None,
    list_all: Annotated[bool, typer.Option("--all", help="Every candidate with its reason.")] = False,
    toml: Annotated[
        bool, typer.Option("--toml", help="The fastest layout that train can run, as its settings.")
    ] = False,
    guide: Annotated[bool, typer.Option("--guide", help="Six questions, from deployment to recovery.")] = False,
    budget: Annotated[
        str | None, typer.Option(metavar="DOLLARS", help="Answer for --guide: what the run may cost.")
    ] = None,
    tokens: Annotated[
        Count, typer.Option(parser=parse_count, metavar="N", help="Answer for --guide: tokens to train on.")
    ] = None,
    unique_tokens: Annotated[
        Count, typer.Option(parser=parse_count, metavar="N", help="Answer for --guide: tokens after filtering.")
    ] = None,
    deduplicated: Annotated[
        bool | None, typer.Option("--deduplicated/--not-deduplicated", help="Answer for --guide: the data's state.")
    ] = None,
    storage_rate: Annotated[
        Count, typer.Option(parser=parse_bytes, metavar="BYTES", help="Answer for --guide: storage, a second.")
    ] = None,
    gpu_mtbf: Annotated[
        float | None, typer.Option(parser=parse_duration, metavar="TIME", help="Answer for --guide: between failures.")
    ] = None,
) -> None:
    """Choose how to spread a model over GPUs.

    Judges every layout of tensor, pipeline, data and expert parallelism, ZeRO stage and micro-batch: whether it fits,
    how large the pipeline's bubble is, how long it sends, how fast it would be. What sends most often stays inside
    the node; of stages that fit the lowest wins; recomputation is used only where a layout does not fit without. The
    best three are printed with their memory, their batch (a multiple of the rows of all ranks) and the GPUs that idle;
    --all and --json give every candidate with the reason why it was not chosen. Layouts that DeepSpeed cannot run (a
    pipeline with ZeRO-2 or 3) are marked so.

    ptool train is data parallel. Where one of the best is that too, and fits with the engine's own copies, its settings
    are ready; --toml prints those of the fastest layout that train can run, for train --config.

    --guide asks and answers six questions in order: deployment, budget and data, interconnect, memory, data quality,
    recovery. Options answer in advance; nobody is asked unless both stdin and stderr are terminals.

    Ends with status 4 where no layout works. Speeds rank layouts, they are no promise: hours and dollars come from
    `ptool estimate-cost`.

    Examples:
        ptool plan --model 70b --gpus 1000 --tp 8 --pp 4
        ptool plan --guide --gpus 64 --budget 200K --tokens 1T
        ptool plan --model 7b --gpus 64 --json | jq '.best[0].name'
    """
    given = dict(locals())
    out = current()
    if guide:
        return _guide(out, given)
    from ptool.costing.planning import build_plan

    planned, size = build_plan(given)
    return _print(out, planned, size, list_all=list_all, toml=toml)


def _print(out: Out, planned: Any, size: str | None, *, list_all: bool, toml: bool) -> None:
    from ptool.costing import planreport

    if toml:
        found = planreport.runnable(planned, size)
        if found is None:
            raise CheckFailed(
                "no layout that ptool train can run", hint="more GPUs, or --engine deepspeed says why not"
            )
        return out.text(found[1].text or "")
    if out.json_mode:
        out.json(planreport.as_json(planned, size))
    else:
        out.text(planreport.as_text(planned, size))
        if list_all:
            out.table(*planreport.all_rows(planned), descriptor=1)
    if not planned.best:
        raise CheckFailed(
            "no layout works", hint="more GPUs, a larger GPU, or fewer parameters; --all gives each reason"
        )
    return None


def _guide(out: Out, given: dict[str, Any]) -> None:
    from ptool.costing.guide import as_text, guide
    from ptool.costing.planreport import as_json
    from ptool.costing.request import parse_money

    budget = given["budget"]
    given["budget"] = None if budget is None else parse_money(budget)
    asking = os.isatty(0) and os.isatty(2)
    found = guide(given, _ask if asking else None)
    if out.json_mode:
        answers = [answer._asdict() for answer in found.answers]
        return out.json({**as_json(found.planned, found.size), "guide": answers})
    out.text(as_text(found))
    return _print(out, found.planned, found.size, list_all=given["list_all"], toml=given["toml"])


def _ask(question: str, default: str) -> str:
    """One line from the person; the question goes to stderr."""
    sys.stderr.write(f"{question}{f' [{default}]' if default else ''}: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip()
