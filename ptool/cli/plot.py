"""`ptool plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ptool.cli import options as opt
from ptool.cli import output

Runs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RUN]...", help="Run folders; none or - reads the line of `ptool train` on stdin."),
]


def plot(
    runs: Runs = None,
    picture: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A .png or .svg file; default: PNG on stdout.")
    ] = None,
    x: Annotated[Literal["step", "tokens"], typer.Option("--x", help="What the runs are drawn over.")] = "step",
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="Above the picture; default the name.")] = "",
    dry_run: opt.DryRun = False,
) -> None:
    """Draw training runs: loss, learning rate, gradient norm, throughput.

    Reads metrics.jsonl, attempts.jsonl and events.jsonl of the run folders, which may still be training. One run shows
    its accepted steps, those that a kill or a rollback undid, those that were refused before their update, and where
    it skipped a batch, rolled back or resumed. Several runs are drawn over each other, one colour each. The same
    folders give the same bytes.

    Examples:
        ptool plot runs/a -o loss.png
        ptool plot runs/a runs/b --x tokens -o both.svg
        ptool train packed/ --model 10m -o runs/a | ptool plot -o loss.png
    """
    from ptool.training.picture import plot as draw

    given = runs or ["-"]
    if "-" in given:
        opt.artefact_input(None)
    drawn = draw(given, None if str(picture) == "-" else picture, x=x, title=title, dry_run=dry_run)
    if dry_run:
        out = output.current()
        facts = [(run.name, len(run.steps), len(run.undone), len(run.refused), len(run.marks)) for run in drawn]
        names = ("run", "steps", "undone", "refused", "marks")
        if out.json_mode:
            out.json({"runs": [dict(zip(names, fact, strict=True)) for fact in facts]})
        else:
            out.table(names, [[str(value) for value in fact] for fact in facts], descriptor=1)
