"""ptool resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptool.cli import options as opt
from ptool.cli.train import Sets, finish
from ptool.training import run as runs


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    sets: Sets = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Go on with a training run.

    Starts from the newest checkpoint that verifies; broken ones are named and stepped over. At the same number of
    ranks, ZeRO stage, device and versions every loss and the final weights are those of a run that was never stopped.
    Steps after that checkpoint move from metrics.jsonl to attempts.jsonl. A finished run prints its line again.

    Examples:
        ptool resume runs/a
        ptool resume runs/a --set checkpoint.every_steps=100
        ptool resume runs/a | ptool eval
    """
    finish(runs.plan_resume(run, sets or []), dry_run=dry_run)
