"""What `ptool train` and `ptool resume` do with a plan: prepare the run folder, start the ranks or be one, report.

A run folder:

    config.toml      every setting, resolved; written before anything is trained
    checkpoints/     step_XXXXXXXX/, `latest` and `best`
    metrics.jsonl    attempts.jsonl  events.jsonl     see history.py
    validation.jsonl layers.jsonl                     see series.py
    tensorboard/     the tokenizer file
    .heartbeat/      signs of life, and the stacks of a hang (heartbeat.py)
    reports/         why steps were refused (spike_report.py)
    manifest.json    only when the run is finished
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ptool import units
from ptool.errors import CheckFailed, InputError, PtoolError, UsageError
from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import MANIFEST, check_files, read_folder_manifest
from ptool.formats.atomic import describing_os_errors, write_bytes
from ptool.formats.manifests import Manifest
from ptool.formats.runs import RunRecord
from ptool.reporting import SILENT, Reporter
from ptool.training import deadlines, heartbeat, history, launch, locks, series, spike_report, trackers, visibility
from ptool.training import tensorboard as curves
from ptool.training.config import RunConfig
from ptool.training.course import Course
from ptool.training.planning import Plan, run_folder
from ptool.training.rank import CONFIG, describe, work
from ptool.training.replay import Replay, replay
from ptool.training.resolving import overlay, settings_table
from ptool.training.settings_text import as_tables, from_toml, to_toml
from ptool.training.signals import StopRequest

_OURS = (
    CONFIG,
    MANIFEST,
    "run.json",
    history.EVENTS,
    history.METRICS,
    history.ATTEMPTS,
    folders.FOLDER,
    curves.FOLDER,
    spike_report.FOLDER,
    heartbeat.FOLDER,
    trackers.IDS,
    *(make(name) for name in (series.VALIDATION, series.LAYERS) for make in (series.file_of, series.undone_file_of)),
)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A finished run. `is_first` is false in the ranks of torchrun or srun that have nothing to say."""

    run: Path
    manifest: Manifest
    up_to_date: bool = False
    is_first: bool = True

    def rows(self) -> list[tuple[str, str]]:
        """The result for people."""
        last = last_record(self.run)
        loss = [] if last is None else [("last loss", f"{last['loss']:.4f}")]
        return [
            ("run", str(self.run)),
            ("steps", units.format_count(self.manifest.details.get("steps", 0))),
            ("tokens", units.format_count(self.manifest.num_tokens or 0)),
            *loss,
        ]


def train(plan: Plan, *, force: bool = False, max_minutes: float | None = None, reporter: Reporter = SILENT) -> Report:
    """Carry out a plan: start, go on, or find it finished; `max_minutes` from now it has saved and stopped.

    Raises StoppedAndSaved after a signal or when the time is over, RunIsBusy when somebody else trains there.
    """
    if plan.standing == "finished":
        reporter.notice(f"{plan.run}: up to date")
        return _finished(plan.run, up_to_date=True)
    trackers.require_installed(plan.config.metrics)
    _check_disk(plan)
    deadlines.set_limit(max_minutes)
    return _run(plan, force=force, reporter=reporter)


def replay_spikes(run: Path, sets: Sequence[str] = ()) -> Replay:
    """Decide a run's spikes again under its own settings changed by `sets` (`spike.loss_z=5`); touches nothing."""
    run = run_folder(run)
    changes = settings_table(sets=sets)
    if changes.keys() - {"spike"}:
        raise UsageError("a replay judges recorded steps: only [spike] can change", hint="--set spike.loss_z=5")
    config = msgspec.convert(overlay(as_tables(from_toml(run / CONFIG)), changes), RunConfig)
    return replay(run, config.spike, course=Course(config.phase))


def last_record(run: Path) -> dict[str, Any] | None:
    """The last accepted step's line of metrics.jsonl."""
    last = None
    for record in history.read_lines(run / history.METRICS):
        last = record
    return last


def _run(plan: Plan, *, force: bool, reporter: Reporter) -> Report:
    external = launch.external_rank()
    if external is not None:
        return _be_a_rank(plan, external, force=force, reporter=reporter)
    with launch.launchpad() as pad:
        with describing_os_errors(plan.run):
            plan.run.mkdir(parents=True, exist_ok=True)
        lock = locks.acquire(plan.run, locks.LAUNCHER, grace=0)
        record = RunRecord()
        try:
            locks.expect_no_ranks(plan.run)
            if plan.standing == "unfinished":
                reporter.notice(f"{plan.run} holds this run, unfinished: resuming it")
            _prepare(plan, force=force)
            launch.launch(plan.run, plan.config.parallel.ranks, pad, reporter)
            record.write(plan.run)
        finally:
            lock.release()
    return _finished(plan.run)


def _be_a_rank(plan: Plan, variables: dict[str, str], *, force: bool, reporter: Reporter) -> Report:
    """A rank of torchrun or srun: rank 0 prepares the folder, all train."""
    os.environ.update(variables)
    launch.follow_launcher()
    stop = StopRequest()
    stop.listen()
    is_first = int(variables["RANK"]) == 0
    stdout = os.dup(1)
    os.dup2(2, 1)  # libraries that print must not mix with the product
    try:
        import torch

        from ptool.training import engine
        from ptool.training.ranks import Ranks

        parallel = plan.config.parallel
        if parallel.device == "cuda" and torch.cuda.device_count() == 1:
            os.environ["LOCAL_RANK"] = (
                "0"  # srun --gpus-per-task=1: each rank sees its own GPU alone; DeepSpeed reads it
            )
        engine.start(parallel.device, parallel.timeout_seconds)
        ranks = Ranks(torch.device(parallel.device))
        ranks.barrier()  # NCCL's group is made without waiting: others may still be looking at the folder as it is
        ranks.together(lambda: _prepare(plan, force=force) if is_first else None)
        settings = ranks.on_first(lambda: (plan.run / CONFIG).read_text(encoding="utf-8"), str)
        ranks.together(lambda: visibility.wait_for(plan.run / CONFIG, settings.encode()))
        work(plan.run, stop, reporter if is_first else SILENT, joined=True)
    except PtoolError:
        raise
    except Exception as error:  # a lost peer, above all: one line instead of torch's own trace
        raise describe(error) from error
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    return _finished(plan.run, is_first=is_first)


def _prepare(plan: Plan, *, force: bool) -> None:
    """Bring the run folder to where the ranks can begin."""
    run = plan.run
    with describing_os_errors(run):
        run.mkdir(parents=True, exist_ok=True)
        if plan.standing == "new" and force:
            for name in _OURS:
                path = run / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (run / folders.FOLDER).mkdir(exist_ok=True)
    if plan.tokenizer is not None and not (run / plan.tokenizer.name).exists():
        write_bytes(run / plan.tokenizer.name, plan.tokenizer.read_bytes())
    if plan.changes:  # in the ledger before the plan: a kill in between says it twice, never not at all
        ledger = history.Ledger(run)
        for change in plan.changes:
            ledger.record("change", **msgspec.to_builtins(change))
        ledger.close()
    text = to_toml(plan.config).encode()
    if not (run / CONFIG).is_file() or (run / CONFIG).read_bytes() != text:
        write_bytes(run / CONFIG, text)
    if plan.standing == "unfinished":  # a finished run that was made longer
        (run / MANIFEST).unlink(missing_ok=True)


def _check_disk(plan: Plan) -> None:
    """Keep + 1 checkpoints must fit before the first step, less what stands there already."""
    present = len(folders.steps_of(plan.run))
    needed = plan.checkpoint_bytes * max(1, plan.config.checkpoint.keep_last + 1 - present)
    if needed > plan.free_bytes:
        raise CheckFailed(
            f"the checkpoints need {units.format_bytes(needed)}, and {units.format_bytes(plan.free_bytes)} are free",
            where=str(plan.run),
            hint="write elsewhere, or keep fewer: --set checkpoint.keep_last=2",
        )


def _finished(run: Path, *, up_to_date: bool = False, is_first: bool = True) -> Report:
    if not is_first:
        visibility.wait_for(run / MANIFEST)
    manifest = read_folder_manifest(run)
    if manifest is None:
        raise InputError("the run ended without its manifest", where=str(run), hint=f"ptool resume {run}")
    if is_first:
        check_files(run, manifest, verify=False)
    return Report(run=run, manifest=manifest, up_to_date=up_to_date, is_first=is_first)
