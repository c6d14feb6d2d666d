"""`ptool demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptool import units
from ptool.cli import options as opt
from ptool.cli import output


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to work in.")] = Path("ptool-demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep all files, not only the picture and the summary.")] = False,
    steps: Annotated[
        int, typer.Option("--steps", parser=units.parse_count, metavar="N", help="Optimiser steps of the run, from 40.")
    ] = 150,
    dry_run: opt.DryRun = False,
    corpus: Annotated[
        bool, typer.Option("--corpus", help="Only write the documents to stdout, as JSON lines.")
    ] = False,
) -> None:
    """Run the whole pipeline on this machine's own documentation.

    Takes the documentation text inside the installed Python (docstrings of the standard library and of the installed
    packages), filters and deduplicates it, trains a tokenizer, packs, trains a small model on two ranks with ZeRO-2,
    kills the run, resumes it, feeds it a spoilt batch that it rolls back from, evaluates it on held-out documents, and
    estimates what the same would cost at 70B. Every command is printed as you would type it and run as a real process.
    It takes a few minutes on two cores and ends with a summary and a picture of the loss.

    Examples:
        ptool demo
        ptool demo --out /tmp/demo --keep
        ptool demo --corpus | ptool filter --preset gopher-quality -o docs.jsonl.zst
    """
    if corpus:
        _write_corpus()
        return
    from ptool.demo.run import Demo, summary_rows

    screen = output.current()
    demonstration = Demo(out, steps=steps, say=screen.aside)
    if dry_run:
        commands = demonstration.commands()
        screen.json({"folder": str(out), "commands": commands}) if screen.json_mode else screen.text(
            "\n".join(commands)
        )
        return
    summary = demonstration.run()
    if not keep:
        demonstration.clean()
    if screen.json_mode:
        screen.json(summary)
    else:
        width = max(len(name) for name, _ in summary_rows(summary))
        screen.text("\n".join(f"{name:<{width}}  {value}" for name, value in summary_rows(summary)))


def _write_corpus() -> None:
    import sys

    from ptool.demo.corpus import lines

    sys.stdout.buffer.writelines(lines())
    sys.stdout.buffer.flush()
