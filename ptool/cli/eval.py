"""`ptool eval`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from ptool.cli import options as opt
from ptool.cli.output import current
from ptool.errors import UsageError
from ptool.units import parse_count


def eval_(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run folder; none or - reads the line of `train` on stdin.")
    ] = None,
    stream: Annotated[
        str | None,
        typer.Argument(metavar="[STREAM]", help="A document stream, - for stdin; default: the held-out documents."),
    ] = None,
    checkpoint: Annotated[
        int | None,
        typer.Option(parser=parse_count, metavar="STEP", help="The checkpoint of this step; default: the newest."),
    ] = None,
    packed: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The packed data, where it is not where the run found it.")
    ] = None,
    batch_tokens: Annotated[
        int,
        typer.Option(parser=parse_count, metavar="N", help="Tokens in one forward pass; does not change the result."),
    ] = 4_096,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU where there is one.")
    ] = "auto",
    text_key: opt.TextKey = "text",
    id_key: opt.IdKey = "id",
    source_key: opt.SourceKey = "source",
) -> None:
    """Measure a model's loss, perplexity and bits per byte.

    Evaluates the newest checkpoint of RUN that verifies, on the documents that `pack` held out or on STREAM, which is
    tokenised with the run's own tokenizer. The report is the product: a table when stdout is a terminal, one JSON
    object when it is not or with --json. Nothing is written to disk.

    Loss is in nats per token, weighted by tokens; perplexity is its exponential. Bits per byte counts the UTF-8 bytes
    of the original text, so models with different tokenizers can be compared. All three are given per source and in
    total.

    Every token of a text is predicted exactly once; the first one from the end-of-document token, which itself is not
    scored. Documents longer than the model's maximum length are read in windows without overlap. Where the rows were
    packed without an end-of-document token, the first token is charged as a uniform guess over the vocabulary.

    Examples:
        ptool eval runs/a
        ptool eval runs/a new.jsonl.zst --checkpoint 500 --json
        ptool train packed/ --model 10m -o runs/a | ptool eval | jq .total.bits_per_byte
    """
    from ptool.evaluation.report import HEADER
    from ptool.evaluation.run import EvalConfig, evaluate
    from ptool.formats.artefacts import find_artefact
    from ptool.text.batch import Keys

    folder = find_artefact(_run_input(run, stream))
    keys = Keys(text=text_key, id=id_key, source=source_key)
    config = EvalConfig(checkpoint=checkpoint, packed=packed, device=device, batch_tokens=batch_tokens, keys=keys)
    out = current()
    report = evaluate(folder, stream, config=config, reporter=out.reporter)
    out.finish_progress()
    if out.json_mode or not os.isatty(1):
        out.json({"run": str(folder.resolve()), **report.as_json()})
    else:
        out.notice(report.title())
        out.table(HEADER, report.rows(), descriptor=1)


def _run_input(run: str | None, stream: str | None) -> str | None:
    """RUN as given, after refusing what stdin cannot do: be typed by a person, or be read twice."""
    if stream == "-":
        if run is None or run == "-":
            raise UsageError("stdin can be read once", hint="name the run folder: ptool eval RUN -")
        opt.refuse_terminal_input("a document stream")
    return opt.artefact_input(run)
