"""What `ptool train` and `ptool resume` do: plan, prepare the run folder, start the ranks or be one, report.

A run folder:

    config.toml      every setting, resolved; written before anything is trained
    checkpoints/     step_XXXXXXXX/ and `latest`
    metrics.jsonl    attempts.jsonl  events.jsonl     see history.py
    tensorboard/     the tokenizer file
    reports/         why steps were refused (spike_report.py)
    manifest.json    only when the run is finished

Planning imports torch only to look for a GPU where a driver is loaded, or to measure bf16.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from ptool import units
from ptool.errors import CheckFailed, InputError, PtoolError, UsageError
from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import MANIFEST, check_files, find_artefact, read_folder_manifest
from ptool.formats.atomic import describing_os_errors, write_bytes
from ptool.formats.manifests import Manifest
from ptool.formats.packed import PackedDataset
from ptool.formats.runs import RunRecord
from ptool.reporting import SILENT, Reporter
from ptool.training import history, launch, locks, machine, spike_report
from ptool.training import tensorboard as curves
from ptool.training.config import RunConfig, Table, as_tables, from_toml, to_toml
from ptool.training.finish import STAGE, identity
from ptool.training.rank import CONFIG, describe, work
from ptool.training.replay import Replay, replay
from ptool.training.resolving import RESUMABLE, DataFacts, MachineFacts, overlay, resolve, settings_table
from ptool.training.signals import StopRequest

Standing = Literal["new", "unfinished", "finished"]
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
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a call would do. `standing` is what stands in the run folder already."""

    run: Path
    config: RunConfig
    standing: Standing
    num_rows: int
    tokenizer: Path | None
    checkpoint_bytes: int
    free_bytes: int

    @property
    def disk_bytes(self) -> int:
        """What the checkpoints need at most: those kept, one a rollback would need, and the one being written."""
        return self.checkpoint_bytes * (self.config.checkpoint.keep_last + 2)

    def rows(self) -> list[tuple[str, str]]:
        """The plan for people."""
        c, count = self.config, units.format_count
        model, parallel = c.model_config, c.parallel
        steps = c.run.max_steps
        return [
            ("run", f"{self.run} ({self.standing})"),
            ("model", f"{count(model.num_parameters())} parameters: {model.layers} layers, hidden {model.hidden}"),
            ("data", f"{c.data.packed}: {count(self.num_rows)} rows of {c.data.seq_len} tokens"),
            ("steps", f"{count(steps)} of {count(c.batch.tokens)} tokens, {_passes(c, self.num_rows)} passes"),
            ("tokens", count(c.run.tokens)),
            ("batch", f"{c.batch.micro_rows} rows x {c.accumulation} x {parallel.ranks} ranks"),
            (
                "engine",
                f"ZeRO-{parallel.zero}, {parallel.device}, {parallel.precision}, {parallel.threads} threads a rank",
            ),
            ("learning rate", f"{c.optimizer.peak_lr:g}, warm-up {count(c.schedule.warmup_steps)} steps, then cosine"),
            (
                "checkpoints",
                f"every {c.checkpoint.every_steps} steps, {units.format_bytes(self.checkpoint_bytes)} each",
            ),
            ("disk", f"{units.format_bytes(self.disk_bytes)} of {units.format_bytes(self.free_bytes)} free"),
        ]

    def as_json(self) -> dict[str, Any]:
        """The plan with stable keys and base units."""
        return {
            "run": str(self.run),
            "standing": self.standing,
            "config": as_tables(self.config),
            "num_parameters": self.config.model_config.num_parameters(),
            "num_rows": self.num_rows,
            "num_steps": self.config.run.max_steps,
            "num_tokens": self.config.run.tokens,
            "accumulation": self.config.accumulation,
            "checkpoint_bytes": self.checkpoint_bytes,
            "disk_bytes": self.disk_bytes,
            "free_bytes": self.free_bytes,
        }


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


def plan_train(packed: str | Path | None, given: Table, run: Path, *, force: bool = False) -> Plan:
    """Resolve a call of `train`; touches nothing.

    Raises UsageError where `run` holds something else (unless `force`), InputError for data that cannot be read.
    """
    dataset = PackedDataset.open(find_artefact(packed))
    external = launch.external_rank()
    if external is not None:
        given = overlay(given, {"parallel": {"ranks": int(external["WORLD_SIZE"])}})
    facts = machine.look(given)
    config, standing = _against(run, given, dataset, facts, force=force)
    return _plan(run, config, standing, dataset)


def train(plan: Plan, *, force: bool = False, reporter: Reporter = SILENT) -> Report:
    """Carry out a plan: start, go on, or find it finished.

    Raises StoppedAndSaved after a signal, RunIsBusy when somebody else trains there.
    """
    if plan.standing == "finished":
        reporter.notice(f"{plan.run}: up to date")
        return _finished(plan.run, up_to_date=True)
    _check_disk(plan)
    return _run(plan, force=force, reporter=reporter)


def plan_resume(run: Path, sets: Sequence[str] = ()) -> Plan:
    """Resolve a call of `resume`; touches nothing. Raises InputError for a folder that is no run."""
    run = run.parent if run.name == MANIFEST else run
    if not (run / CONFIG).is_file():
        raise InputError("no run folder: it has no config.toml", where=str(run), hint="ptool train … -o RUN/ makes one")
    config = from_toml(run / CONFIG)
    changes = settings_table(sets=sets)
    for section, values in changes.items():
        for name in values:
            if section not in RESUMABLE and f"{section}.{name}" not in RESUMABLE:
                message = f"{section}.{name} cannot change in a run that has begun"
                raise UsageError(message, hint=f"can change: {', '.join(RESUMABLE)}")
    config = msgspec.convert(overlay(as_tables(config), changes), RunConfig)
    from ptool.training.finish import open_data

    dataset = open_data(config)
    return _plan(run, config, "finished" if _is_finished(run) else "unfinished", dataset)


def replay_spikes(run: Path, sets: Sequence[str] = ()) -> Replay:
    """Decide a run's spikes again under its own settings changed by `sets` (`spike.loss_z=5`); touches nothing."""
    run = run.parent if run.name == MANIFEST else run
    if not (run / CONFIG).is_file():
        raise InputError("no run folder: it has no config.toml", where=str(run), hint="ptool train … -o RUN/ makes one")
    changes = settings_table(sets=sets)
    if changes.keys() - {"spike"}:
        raise UsageError("a replay judges recorded steps: only [spike] can change", hint="--set spike.loss_z=5")
    config = msgspec.convert(overlay(as_tables(from_toml(run / CONFIG)), changes), RunConfig)
    return replay(run, config.spike, warmup_steps=config.schedule.warmup_steps)


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
        engine.start(parallel.device, parallel.timeout_seconds)
        ranks = Ranks(torch.device(parallel.device))
        ranks.together(lambda: _prepare(plan, force=force) if is_first else None)
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
    text = to_toml(plan.config).encode()
    with suppress(FileNotFoundError):
        if (run / CONFIG).read_bytes() == text:
            return
    write_bytes(run / CONFIG, text)


def _against(
    run: Path, given: Table, dataset: PackedDataset, facts: MachineFacts, *, force: bool
) -> tuple[RunConfig, Standing]:
    """The configuration and what stands in `run` already; what the machine decided there once is kept."""
    if dataset.train.num_rows == 0:
        raise InputError(
            "there are no rows to train on", where=str(dataset.folder), hint="pack more, or a shorter --seq-len"
        )
    data = DataFacts(
        packed=str(dataset.folder.resolve()),
        fingerprint=dataset.fingerprint,
        seq_len=dataset.seq_len,
        vocab_size=dataset.vocab_size,
        num_rows=dataset.train.num_rows,
    )
    if force or not (run / CONFIG).is_file():
        others = [path.name for path in run.iterdir() if path.name != locks.FOLDER] if run.is_dir() else []
        if others and not force:
            raise UsageError("the output is there and holds other files", where=str(run), hint="--force replaces a run")
        if run.exists() and not run.is_dir():
            raise UsageError("the output is a file, and a folder is needed", where=str(run))
        return resolve(given, data, facts), "new"
    there = from_toml(run / CONFIG)
    machine_made = {name: getattr(there.parallel, name) for name in ("device", "precision", "ranks", "threads")}
    config = resolve(overlay({"parallel": machine_made}, given), data, facts)
    if identity(config) != identity(there):
        differing = _differences(identity(config), identity(there))
        raise UsageError(
            f"another run is there: {differing}",
            where=str(run),
            hint="ptool resume goes on with it, --force replaces it",
        )
    return there, "finished" if _is_finished(run) else "unfinished"


def _plan(run: Path, config: RunConfig, standing: Standing, dataset: PackedDataset) -> Plan:
    tokenizer = None if dataset.layout.tokenizer is None else dataset.tokenizer_file
    existing = next(path for path in (run, *run.resolve().parents) if path.exists())
    return Plan(
        run=run,
        config=config,
        standing=standing,
        num_rows=dataset.train.num_rows,
        tokenizer=tokenizer,
        checkpoint_bytes=round(folders.bytes_per_parameter() * config.model_config.num_parameters()),
        free_bytes=shutil.disk_usage(existing).free,
    )


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


def _is_finished(run: Path) -> bool:
    manifest = read_folder_manifest(run)
    return manifest is not None and manifest.stage == STAGE


def _finished(run: Path, *, up_to_date: bool = False, is_first: bool = True) -> Report:
    manifest = read_folder_manifest(run)
    if manifest is None:
        raise InputError("the run ended without its manifest", where=str(run), hint=f"ptool resume {run}")
    check_files(run, manifest, verify=False)
    return Report(run=run, manifest=manifest, up_to_date=up_to_date, is_first=is_first)


def _differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    found = [
        f"{section}.{name} is {old[section].get(name)}, not {value}"
        for section, values in new.items()
        for name, value in values.items()
        if old.get(section, {}).get(name) != value
    ]
    return "; ".join(found[:3])


def _passes(config: RunConfig, num_rows: int) -> str:
    return f"{config.run.max_steps * config.rows_per_step / num_rows:.3g}"
