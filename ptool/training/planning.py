"""What a call of `train` or `resume` would do: settings resolved against the data, the machine and what is there.

Nothing is written here. Torch is imported only to look for a GPU where a driver is loaded, or to measure bf16.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from ptool import units
from ptool.errors import InputError, UsageError
from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import MANIFEST, find_artefact, read_folder_manifest
from ptool.formats.packed import PackedDataset
from ptool.optimizers.choices import kind_of
from ptool.training import launch, locks, machine
from ptool.training.changing import Change, change_plan, newest_step
from ptool.training.config import Phase, RunConfig, Table
from ptool.training.course import Course
from ptool.training.finish import STAGE, identity
from ptool.training.initial import settings_with_initial
from ptool.training.phases import FolderFacts
from ptool.training.rank import CONFIG
from ptool.training.resolving import DataFacts, MachineFacts, overlay, resolve, settings_table
from ptool.training.settings_text import as_tables, from_toml

Standing = Literal["new", "unfinished", "finished"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a call would do. `standing` is what stands in the run folder already."""

    run: Path
    config: RunConfig
    standing: Standing
    num_rows: tuple[int, ...]
    num_tokens: tuple[int, ...]
    tokenizer: Path | None
    checkpoint_bytes: int
    free_bytes: int
    changes: tuple[Change, ...] = ()

    @property
    def disk_bytes(self) -> int:
        """What the checkpoints need at most: those kept (see rotation.py), and the one being written."""
        config, settings = self.config, self.config.checkpoint
        count = settings.keep_last + 2 + (settings.every_minutes > 0)
        if settings.keep_every_steps:
            count += config.run.max_steps // settings.keep_every_steps
        if config.validation.every_steps:
            count += len(config.phase)
        return self.checkpoint_bytes * min(count, 1 + config.run.max_steps)

    def rows(self) -> list[tuple[str, str]]:
        """The plan for people."""
        c, count = self.config, units.format_count
        model, parallel, first = c.model_config, c.parallel, c.phase[0]
        return [
            ("run", f"{self.run} ({self.standing})"),
            ("model", f"{count(model.num_parameters())} parameters: {model.layers} layers, hidden {model.hidden}"),
            *(
                ("data", f"{packed}: {count(rows)} rows of {seq_len} tokens")
                for packed, rows, seq_len in zip(c.data.packed, self.num_rows, c.data.seq_lens, strict=True)
            ),
            ("steps", f"{count(c.run.max_steps)}, {self._passes()}"),
            ("tokens", count(c.run.tokens)),
            ("batch", f"{first.micro_rows} rows x {first.accumulation(parallel.ranks)} x {parallel.ranks} ranks"),
            (
                "engine",
                f"ZeRO-{parallel.zero}, {parallel.device}, {parallel.precision}, {parallel.threads} threads a rank",
            ),
            *((f"phase {phase.name}", self._describe(phase)) for phase in c.phase),
            (
                "checkpoints",
                f"every {c.checkpoint.every_steps} steps, {units.format_bytes(self.checkpoint_bytes)} each",
            ),
            ("disk", f"{units.format_bytes(self.disk_bytes)} of {units.format_bytes(self.free_bytes)} free"),
            *(("change", change.meaning) for change in self.changes),
        ]

    def as_json(self) -> dict[str, Any]:
        """The plan with stable keys and base units."""
        return {
            "run": str(self.run),
            "standing": self.standing,
            "config": as_tables(self.config),
            "num_parameters": self.config.model_config.num_parameters(),
            "num_rows": sum(self.num_rows),
            "num_steps": self.config.run.max_steps,
            "num_tokens": self.config.run.tokens,
            "changes": [change.meaning for change in self.changes],
            "checkpoint_bytes": self.checkpoint_bytes,
            "disk_bytes": self.disk_bytes,
            "free_bytes": self.free_bytes,
        }

    def _passes(self) -> str:
        passes = Course(self.config.phase).passes(self.num_rows, self.num_tokens)
        return f"{', '.join(f'{one:.3g}' for one in passes)} passes"

    def _describe(self, phase: Phase) -> str:
        count = units.format_count
        names = [Path(packed).name for packed in self.config.data.packed]
        total = sum(phase.weights)
        mix = ", ".join(f"{name} {weight / total:.0%}" for name, weight in zip(names, phase.weights, strict=False))
        rate = f"learning rate {phase.peak_lr:g}"
        if phase.shape != "constant":
            rate += f" to {phase.end_lr:g} ({phase.shape})"
        warmup = f", warm-up over {count(phase.warmup_tokens)} tokens" if phase.curve_start == 0 else ""
        return f"{count(phase.steps)} steps of {count(phase.batch_tokens)} tokens, {mix}, {rate}{warmup}"


def plan_train(packed: Sequence[str | Path | None], given: Table, run: Path, *, force: bool = False) -> Plan:
    """Resolve a call of `train`; touches nothing.

    Raises UsageError where `run` holds something else (unless `force`), InputError for data that cannot be read.
    """
    datasets = [PackedDataset.open(find_artefact(one)) for one in packed or [None]]
    given = _with_external_ranks(given)
    facts = machine.look(given)
    config, standing = _against(run, given, datasets, facts, force=force)
    return _plan(run, config, standing, datasets)


def plan_resume(
    run: Path, sets: Sequence[str] = (), *, config_file: Path | None = None, allow_data_change: bool = False
) -> Plan:
    """Resolve a call of `resume`; touches nothing.

    Raises InputError for a folder that is no run, or whose data changed (unless allowed), UsageError for a change that
    cannot be made in a run that has begun.
    """
    run = run_folder(run)
    there = from_toml(run / CONFIG)
    asked = settings_table(config_file, sets=sets)
    config = there
    changes: list[Change] = []
    standing: Standing = "finished" if is_finished(run) else "unfinished"
    if asked or standing == "unfinished":  # the last job of a chain finds nothing to do, however many ranks it has
        asked = _with_external_ranks(asked)
    datasets = [_open(packed) for packed in asked.get("data", {}).get("packed", there.data.packed)]
    if asked or allow_data_change:
        facts = _data_facts(datasets)
        config, changes = change_plan(
            there, asked, facts, newest_step(run), finished=standing == "finished", allow_data_change=allow_data_change
        )
        if standing == "finished" and config.run.max_steps > there.run.max_steps:
            standing = "unfinished"
    expect_data(config, datasets)
    if changes and not config.data.allow_repeats:
        _expect_no_repeats(config, datasets)
    return msgspec.structs.replace(_plan(run, config, standing, datasets), changes=tuple(changes))


def run_folder(given: Path) -> Path:
    """The run folder, given by its path or its manifest's. Raises InputError for a folder that is no run."""
    run = given.parent if given.name == MANIFEST else given
    if not (run / CONFIG).is_file():
        raise InputError("no run folder: it has no config.toml", where=str(run), hint="ptool train … -o RUN/ makes one")
    return run


def expect_data(config: RunConfig, datasets: Sequence[PackedDataset]) -> None:
    """Raise InputError where the data is not what the run was started on."""
    for dataset, fingerprint in zip(datasets, config.data.fingerprints, strict=True):
        if dataset.fingerprint != fingerprint:
            raise InputError(
                f"the packed data changed: {dataset.fingerprint}, and the run was started on {fingerprint}",
                where=str(dataset.folder),
                hint="pack the same data again, or --allow-data-change goes on with what is there and records it",
            )


def is_finished(run: Path) -> bool:
    """Whether the run's manifest is there, which is written last."""
    manifest = read_folder_manifest(run)
    return manifest is not None and manifest.stage == STAGE


def _open(packed: str) -> PackedDataset:
    if not Path(packed).is_dir():
        raise InputError("the packed data of this run is gone", where=packed, hint="bring it back to that place")
    return PackedDataset.open(Path(packed))


def _with_external_ranks(given: Table) -> Table:
    """Under torchrun or srun the number of ranks is decided already."""
    external = launch.external_rank()
    return given if external is None else overlay(given, {"parallel": {"ranks": int(external["WORLD_SIZE"])}})


def _data_facts(datasets: Sequence[PackedDataset]) -> DataFacts:
    """Raises InputError for a folder without rows, and for tokens of different tokenizers."""
    for dataset in datasets:
        if dataset.train.num_rows == 0:
            hint = "pack more, or a shorter --seq-len"
            raise InputError("there are no rows to train on", where=str(dataset.folder), hint=hint)
    tokenizers = {dataset.layout.tokenizer_fingerprint: str(dataset.folder) for dataset in datasets}
    if len(tokenizers) > 1:
        where = " and ".join(tokenizers.values())
        raise InputError("these rows were made by different tokenizers", where=where, hint="tokenize all with one")
    return DataFacts(
        folders=tuple(
            FolderFacts(
                packed=str(dataset.folder.resolve()),
                fingerprint=dataset.fingerprint,
                seq_len=dataset.seq_len,
                num_rows=dataset.train.num_rows,
                num_tokens=dataset.train.num_tokens,
            )
            for dataset in datasets
        ),
        vocab_size=max(dataset.vocab_size for dataset in datasets),
    )


def _expect_no_repeats(config: RunConfig, datasets: Sequence[PackedDataset]) -> None:
    """A document may stand in the folders of one phase only: it would be seen again, unnoticed, in a later one."""
    phases_of = [
        {phase.name for phase in config.phase if folder < len(phase.weights) and phase.weights[folder]}
        for folder in range(len(datasets))
    ]
    for folder, passes in enumerate(_passes(config, datasets)):
        if len(phases_of[folder]) > 1 and passes > 1:
            names = " and ".join(sorted(phases_of[folder]))
            raise InputError(
                f"the rows are taken {passes:.2f} times over the phases {names}",
                where=str(datasets[folder].folder),
                hint="shorten them, or --set data.allow_repeats=true",
            )
    drawn_in = [
        {at for at, phase in enumerate(config.phase) if folder < len(phase.weights) and phase.weights[folder]}
        for folder in range(len(datasets))
    ]  # by number: what a resume cuts a phase into has the same name, and can have another mix
    for a, b in combinations(range(len(datasets)), 2):
        if drawn_in[a] == drawn_in[b] or not (drawn_in[a] and drawn_in[b]):
            continue
        shared = np.intersect1d(datasets[a].train.text_hashes, datasets[b].train.text_hashes)
        if len(shared):
            raise InputError(
                f"{len(shared):,} documents stand in the folders of two phases",
                where=f"{datasets[a].folder} and {datasets[b].folder}",
                hint="ptool dedup them together, or --set data.allow_repeats=true",
            )


def _passes(config: RunConfig, datasets: Sequence[PackedDataset]) -> list[float]:
    splits = [dataset.train for dataset in datasets]
    return Course(config.phase).passes([split.num_rows for split in splits], [split.num_tokens for split in splits])


def _against(
    run: Path, given: Table, datasets: Sequence[PackedDataset], facts: MachineFacts, *, force: bool
) -> tuple[RunConfig, Standing]:
    """The configuration and what stands in `run` already; what the machine decided there once is kept."""
    data = _data_facts(datasets)
    given = settings_with_initial(given, seq_len=data.seq_len, vocab_size=data.vocab_size)
    if force or not (run / CONFIG).is_file():
        others = [path.name for path in run.iterdir() if path.name != locks.FOLDER] if run.is_dir() else []
        if others and not force:
            raise UsageError("the output is there and holds other files", where=str(run), hint="--force replaces a run")
        if run.exists() and not run.is_dir():
            raise UsageError("the output is a file, and a folder is needed", where=str(run))
        config = resolve(given, data, facts)
        if not config.data.allow_repeats:
            _expect_no_repeats(config, datasets)
        return config, "new"
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
    return there, "finished" if is_finished(run) else "unfinished"


def _plan(run: Path, config: RunConfig, standing: Standing, datasets: Sequence[PackedDataset]) -> Plan:
    tokenizer = None if datasets[0].layout.tokenizer is None else datasets[0].tokenizer_file
    existing = next(path for path in (run, *run.resolve().parents) if path.exists())
    bytes_each = folders.bytes_per_parameter(kind_of(config.optimizer.name).state_numbers)
    return Plan(
        run=run,
        config=config,
        standing=standing,
        num_rows=tuple(dataset.train.num_rows for dataset in datasets),
        num_tokens=tuple(dataset.train.num_tokens for dataset in datasets),
        tokenizer=tokenizer,
        checkpoint_bytes=round(bytes_each * config.model_config.num_parameters()),
        free_bytes=shutil.disk_usage(existing).free,
    )


def _differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    """The first settings that differ; the phases only where nothing else does, since they follow from the rest."""
    found = [
        f"{section}.{name} is {old[section].get(name)}, not {value}"
        for section, values in new.items()
        if isinstance(values, Mapping)
        for name, value in values.items()
        if old.get(section, {}).get(name) != value
    ]
    return "; ".join(found[:3]) or "its phases differ"
