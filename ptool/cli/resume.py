"""ptool resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptool.cli import options as opt
from ptool.cli.train import MaxMinutes, Sets, finish
from ptool.training import planning


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    sets: Sets = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Changes as TOML; its [[phase]]s replace all that is left."),
    ] = None,
    allow_data_change: Annotated[
        bool, typer.Option("--allow-data-change", help="Go on though the packed data changed, and record it.")
    ] = False,
    max_minutes: MaxMinutes = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Go on with a training run.

    Starts from the newest checkpoint that verifies; broken ones are named and stepped over. At the same number of
    ranks, ZeRO stage, device and versions every loss and the final weights are those of a run that was never stopped.
    Steps after that checkpoint move from metrics.jsonl to attempts.jsonl. A finished run prints its line again.

    Settings may change: the steps taken stay what they were, and those after the newest checkpoint follow the new plan.
    Batch, mix, length, learning rate, ranks and ZeRO stage among them; what each change means is printed by --dry-run
    and written to events.jsonl. What would make another run of it (the model's shape, the seed) is refused.

    Examples:
        ptool resume runs/a
        ptool resume runs/a --set batch.tokens=64K --set parallel.ranks=4 --dry-run
        ptool resume runs/a | ptool eval
    """
    plan = planning.plan_resume(run, sets or [], config_file=config, allow_data_change=allow_data_change)
    finish(plan, dry_run=dry_run, max_minutes=max_minutes)
