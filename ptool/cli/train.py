"""ptool train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ptool import units
from ptool.cli import options as opt
from ptool.cli import output
from ptool.cli.peaks import peak_tflops
from ptool.errors import UsageError
from ptool.training import planning
from ptool.training import run as runs
from ptool.training.replay import Replay
from ptool.training.resolving import overlay, settings_table

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Any setting of the table; may be repeated."),
]

MaxMinutes = Annotated[
    float | None,
    typer.Option(
        "--max-minutes", parser=units.parse_number, metavar="N", help="Save and end with status 75 within N minutes."
    ),
]


def train(
    packed: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PACKED/]...", help="Packed folders, or -; default the folder named on stdin."),
    ] = None,
    output_folder: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER/", help="The run folder to write.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings as TOML: [model] layers, hidden, …")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="SIZE", help="A named size; default 10m.")] = None,
    zero: Annotated[int | None, typer.Option("--zero", min=0, max=3, help="ZeRO stage; default 2.")] = None,
    ranks: Annotated[
        int | None,
        typer.Option("--ranks", parser=units.parse_count, metavar="N", help="Processes; default one per GPU, else 2."),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(
            "--max-steps", parser=units.parse_count, metavar="N", help="Steps; default one pass over the data."
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option("--init", metavar="FOLDER", help="Begin with these weights: a Llama folder, a run, a checkpoint."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", parser=units.parse_count, metavar="N", help="Tokens to train on.")
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option("--checkpoint-every", parser=units.parse_count, metavar="N", help="Steps; default 500."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", parser=units.parse_count, metavar="N", help="Of the weights and the data order; default 0."
        ),
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option("--deterministic", help="Kernels that give the same bits each time, where GPUs have faster ones."),
    ] = None,
    max_minutes: MaxMinutes = None,
    sets: Sets = None,
    force: opt.Force = False,
    dry_run: opt.DryRun = False,
    print_sbatch: Annotated[
        bool, typer.Option("--print-sbatch", help="Print the Slurm batch script of this run, and do nothing else.")
    ] = False,
    nodes: Annotated[
        int, typer.Option("--nodes", parser=units.parse_count, metavar="N", help="With --print-sbatch: nodes.")
    ] = 1,
    gpus_per_node: Annotated[
        int,
        typer.Option(
            "--gpus-per-node",
            parser=units.parse_count,
            metavar="N",
            help="With --print-sbatch: GPUs, and ranks, of a node; 0: CPU ranks, as many as --ranks.",
        ),
    ] = 8,
    replay_spikes: Annotated[
        Path | None,
        typer.Option(
            "--replay-spikes", metavar="RUN/", help="Judge a run's steps again, by --set spike.…; nothing is trained."
        ),
    ] = None,
) -> None:
    """Train a model on packed rows.

    Trains a decoder (RMSNorm, RoPE and SwiGLU, or what [model] says) under DeepSpeed, on the GPUs of this machine or on
    two CPU processes, and writes a run folder: config.toml, metrics.jsonl, attempts.jsonl, events.jsonl, TensorBoard
    files, checkpoints. Under torchrun or srun every process is one rank. Ctrl-C, SIGTERM and SIGUSR1 save and end with
    status 75; the same command, or `ptool resume`, goes on bit for bit. A step whose loss or gradient norm is out of
    line is refused before it is applied, then skipped or undone by going back to a checkpoint.

    With --max-minutes, and in a Slurm job before its time is over, the run saves and ends with status 75. RUN/ also has
    the loss of every source on held-out rows (validation.jsonl) and what goes on in every layer (layers.jsonl). A rank
    that hangs or is slow is named; the stacks of a hang are in RUN/.heartbeat.

    --init begins with the weights and the shape of a Hugging Face Llama folder, a run or a checkpoint; step, data and
    optimiser begin anew.

    --print-sbatch prints the same command as a batch script for Slurm: one rank per GPU, saved before the time limit
    and on preemption, requeued until the run is finished. Redirect it to a file and hand that to sbatch.

    --replay-spikes judges every step of a run again, with the run's settings changed by --set spike.…, and prints what
    would have been refused, and how often the rule of thumb "mean + 2 sigma" would have warned.

    Examples:
        ptool train packed/ --model 10m -o runs/a
        ptool pack tok/ --seq-len 512 -o packed/ | ptool train --tokens 10M --zero 2 -o runs/a | ptool eval
        ptool train packed/ --config run.toml --set optimizer.peak_lr=6e-4 -o runs/b --dry-run
    """
    if replay_spikes is not None:
        return show_replay(runs.replay_spikes(replay_spikes, sets or []))
    if output_folder is None:
        raise UsageError("missing option '--output' / '-o'", hint="ptool train PACKED/ -o RUN/")
    if print_sbatch:
        from ptool.training.sbatch import script

        output.current().text(
            script(sys.argv[2:], packed, output_folder, nodes=nodes, gpus_per_node=gpus_per_node, ranks=ranks)
        )
        return None
    flags: dict[str, dict[str, object | None]] = {
        "model": {"size": model},
        "parallel": {"zero": zero, "ranks": ranks, "deterministic": deterministic},
        "run": {"max_steps": max_steps, "tokens": tokens, "seed": seed, "init": init and str(init)},
        "checkpoint": {"every_steps": checkpoint_every},
    }
    given = settings_table(config, flags, sets or [])
    if peak := peak_tflops():
        given = overlay({"metrics": {"peak_tflops": peak}}, given)
    plan = planning.plan_train(opt.artefact_inputs(packed), given, output_folder, force=force)
    return finish(plan, dry_run=dry_run, force=force, max_minutes=max_minutes)


def show_replay(found: Replay) -> None:
    """Print what other thresholds would have decided."""
    out = output.current()
    if out.json_mode:
        out.json(found)
        return
    decided = [
        (f"{one.decision.step + 1:,}", one.decision.action, "yes" if one.refused else "no", one.decision.reason)
        for one in found.outcomes
    ]
    table = output.plain_table(("step", "decision", "refused then", "reason"), decided) if decided else ""
    out.text(table + output.plain_table(("", ""), found.rows()).lstrip("\n"))


def manual() -> str:
    """The manual's tables of every setting, from the same declarations that the run reads."""
    from ptool.training.phases import PhaseGiven
    from ptool.training.settings_text import meanings, settings

    phase = "\n".join(f"{field.name} :: {text[:1].upper()}{text[1:]}." for field, text in meanings(PhaseGiven))

    rows = "\n".join(
        f"{name} = {default} :: {meaning[:1].upper()}{meaning[1:]}." for name, default, meaning in settings()
    )
    return (
        "SETTINGS\n\n"
        "Every setting can stand in the file of --config, as TOML tables, or be given with --set. --set wins over the "
        "other options, they win over the file, and the file over these defaults. What a run uses is all in its "
        "config.toml.\n\n"
        f"{rows}\n\n"
        "PHASES\n\n"
        "A settings file can divide the run into stages, each a table that begins with [[phase]]: another mix of the "
        "packed folders, another batch, rows of another length, another learning rate. A phase that gives neither "
        "shape, peak_lr nor end_lr follows the one curve of the whole run. The best checkpoint of each phase, by "
        "held-out loss, is kept. A document may stand in the folders of one phase only, unless data.allow_repeats. "
        "`--config annealing` is a recipe of four phases that is shipped: look at it with --dry-run.\n\n"
        f"{phase}"
    )


def finish(plan: planning.Plan, *, dry_run: bool, force: bool = False, max_minutes: float | None = None) -> None:
    """Print the plan, or carry it out and print the run's line."""
    out = output.current()
    if dry_run:
        out.json(plan.as_json()) if out.json_mode else out.text(output.plain_table(("plan", ""), plan.rows()))
        return
    report = runs.train(plan, force=force, max_minutes=max_minutes, reporter=out)
    if report.is_first:
        out.artefact(report.run, report.manifest, report.rows())
