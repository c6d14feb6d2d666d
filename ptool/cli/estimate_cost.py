"""`ptool estimate-cost`."""

from __future__ import annotations

from typing import Annotated

import typer

from ptool.cli.output import current
from ptool.costing.estimate import estimate_cost as estimate
from ptool.costing.report import as_json, as_text
from ptool.units import Band, parse_band, parse_count

_BAND = "LO:MID:HI"


def estimate_cost(
    params: Annotated[int, typer.Option(parser=parse_count, metavar="N", help="Parameters of the model: 70e9, 7.5B.")],
    tokens: Annotated[int, typer.Option(parser=parse_count, metavar="N", help="Training tokens: 2e12, 15T.")],
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="GPU to rent, by name; a wrong name lists them. Default: h100-sxm."),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            parser=parse_count,
            metavar="N",
            help="GPUs at the same time; sets the wall clock. Default: the power of two that ends within 30 days.",
        ),
    ] = None,
    mfu: Annotated[
        Band | None,
        typer.Option(parser=parse_band, metavar=_BAND, help="Steady MFU (6ND), low:expected:high or one value: 0.45."),
    ] = None,
    goodput: Annotated[
        Band | None,
        typer.Option(parser=parse_band, metavar=_BAND, help="Share of the paid time that trains; one value: 1."),
    ] = None,
    price: Annotated[
        Band | None,
        typer.Option(parser=parse_band, metavar=_BAND, help="Dollars per GPU-hour; wins over the dated table."),
    ] = None,
) -> None:
    """Say what a training run will cost.

    Prints the operations (6 x parameters x tokens), the GPU-hours, the wall clock and the dollars of pretraining a
    dense model in bf16, each with a low, an expected and a high value, and everything that was assumed on the way. It
    needs no GPU, no network and no framework.

    GPU-hours are operations / (dense peak x steady MFU x goodput). Steady MFU is the rate while the run runs, counted
    as 6ND; goodput is the share of the paid time in which it does: restarts, checkpoints and ramps are the rest. The
    defaults were fitted on published runs, whose GPU-hours imply less than the usual "45 %, no losses"; where the two
    differ, one line gives both. GPUs without published runs borrow the H100's bands, widened, with a warning.

    Prices are a dated table, from the long tail of the market to the large clouds. A price older than 180 days is used
    with a warning; --price replaces it. An MFU above 65 %, and fewer than 1 or more than 100,000 tokens per parameter,
    are refused: no published run is there, but typing errors are.

    Memory is not checked, and failed runs, ablations, evaluation, storage, network and staff are not included.

    Examples:
        ptool estimate-cost --params 70e9 --tokens 2e12
        ptool estimate-cost --params 70e9 --tokens 2e12 --mfu 0.45 --goodput 1 --price 2
        ptool estimate-cost --params 7B --tokens 1T --gpu a100-80gb --gpus 256 --json | jq .cost_usd
    """
    out = current()
    found = estimate(params, tokens, gpu=gpu, num_gpus=gpus, mfu=mfu, goodput=goodput, price=price)
    for warned in found.warnings:
        out.notice(warned.message)
    if out.json_mode:
        out.json(as_json(found))
    else:
        out.text(as_text(found))
