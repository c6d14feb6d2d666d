"""Checkpoints of a run folder, as anybody may read them: RUN/checkpoints/step_XXXXXXXX/, each with a manifest.

A checkpoint is an artefact like the others: its manifest (stage `checkpoint`) was written before the folder got its
name, lists every file with its sha256, and holds the model's shape in `config["model"]` and the trainer's position in
`details`. A folder that does not verify is stepped over, with a word about it. Verifying costs one read of the files.
The weights lie in as many safetensors files as ranks wrote them, and are read with `models/weights.py`. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from ptool.errors import DamagedInput, InputError, PtoolError, UsageError
from ptool.formats.artefacts import check_files, open_artefact
from ptool.formats.manifests import FileEntry, Manifest
from ptool.reporting import SILENT, Reporter

FOLDER = "checkpoints"
STAGE = "checkpoint"
WEIGHTS, MOMENTS = "weights", "moments"
KINDS = (WEIGHTS, MOMENTS)
"""What a rank writes one file of each: fp32 weights by name, and the optimiser's state by name."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A verified checkpoint: the state after `step` optimiser steps on `tokens` tokens."""

    path: Path
    step: int
    tokens: int
    manifest: Manifest

    @property
    def weights(self) -> list[Path]:
        """The files that together hold the whole model's fp32 weights by name."""
        return self.shares(WEIGHTS)

    def shares(self, kind: str) -> list[Path]:
        """The files of one kind, by rank. Raises DamagedInput where the manifest lists none."""
        names = [entry.path for entry in self.manifest.files if entry.path.partition("_")[0].partition(".")[0] == kind]
        if not names:
            raise DamagedInput(f"the checkpoint holds no {kind}", where=str(self.path))
        return [self.path / name for name in sorted(names)]


def name_of(step: int) -> str:
    """The folder name of a step's checkpoint."""
    return f"step_{step:08d}"


def share_name(kind: str, rank: int) -> str:
    """The name of the file of one kind that a rank writes."""
    return f"{kind}_{rank:05d}.safetensors"


def steps_of(run: Path) -> list[int]:
    """Steps for which a published folder is there, rising; whether they verify is another question."""
    found = (path.name.removeprefix("step_") for path in (run / FOLDER).glob("step_*") if path.is_dir())
    return sorted(int(digits) for digits in found if digits.isdecimal())


def open_checkpoint(run: Path, step: int, *, verify: bool = True) -> Checkpoint:
    """The checkpoint of one step, every file compared with its digest (`verify`), or with its size alone.

    Raises InputError, DamagedInput.
    """
    path = run / FOLDER / name_of(step)
    manifest = open_artefact(path, stage=STAGE, verify=verify)
    details = manifest.details
    if details.get("step") != step or not isinstance(details.get("tokens"), int):
        raise DamagedInput(f"the manifest is of step {details.get('step')}", where=str(path))
    return Checkpoint(path=path, step=step, tokens=details["tokens"], manifest=manifest)


def weights_entries(run: Path, step: int) -> list[FileEntry]:
    """What the manifest of one step's checkpoint says of its weights, by their path in the run folder.

    No file is read: every rank digested what it wrote, and one rank alone would take longer than the others wait.
    """
    path = run / FOLDER / name_of(step)
    manifest = open_artefact(path, stage=STAGE)
    entries = {path / entry.path: entry for entry in manifest.files}
    weights = Checkpoint(path=path, step=step, tokens=manifest.num_tokens or 0, manifest=manifest).weights
    return [msgspec.structs.replace(entries[file], path=str(file.relative_to(run))) for file in weights]


def verify_share(run: Path, step: int, *, rank: int, ranks: int) -> None:
    """Compare every `ranks`-th file of a checkpoint with its digest, so that all ranks together compare all.

    Raises InputError, DamagedInput.
    """
    path = run / FOLDER / name_of(step)
    manifest = open_artefact(path, stage=STAGE)
    check_files(path, msgspec.structs.replace(manifest, files=manifest.files[rank::ranks]), verify=True)


def verified(run: Path, *, reporter: Reporter = SILENT) -> Iterator[Checkpoint]:
    """Checkpoints that verify, newest first; broken ones are reported and stepped over."""
    for step in reversed(steps_of(run)):
        try:
            yield open_checkpoint(run, step)
        except (PtoolError, OSError) as error:
            reporter.notice(left_aside(step, error))


def left_aside(step: int, why: object) -> str:
    """What is said of a checkpoint that does not verify."""
    return f"checkpoint of step {step} is broken and is left aside: {why}"


def newest_verified(run: Path, *, reporter: Reporter = SILENT) -> Checkpoint:
    """The newest checkpoint that verifies. Raises InputError where there is none."""
    for checkpoint in verified(run, reporter=reporter):
        return checkpoint
    raise InputError("there is no checkpoint that can be read", where=str(run), hint="is this a run folder?")


def checkpoint_at(run: Path, step: int | None, *, reporter: Reporter = SILENT) -> Checkpoint:
    """The checkpoint of `step`, or the newest that verifies. Raises UsageError naming the steps that have one."""
    if step is None:
        return newest_verified(run, reporter=reporter)
    steps = steps_of(run)
    if step not in steps:
        known = ", ".join(map(str, steps)) or "none"
        raise UsageError(f"there is no checkpoint of step {step}", where=str(run), hint=f"steps with one: {known}")
    return open_checkpoint(run, step)


def bytes_per_parameter(state_numbers: float = 2) -> float:
    """Bytes of a checkpoint per parameter: its fp32 weight, and what the optimiser keeps for it (AdamW: 2 numbers).

    The same for every ZeRO stage, number of ranks and precision: each number is written once.
    """
    return 4 + 4 * state_numbers
