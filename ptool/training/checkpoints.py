"""Writing, finding and clearing checkpoints, so that a kill at any moment leaves the last good one.

    step_00000500.tmp/   every rank writes its files, brings them to the disk and digests what it writes
                         the digests are gathered; if any rank failed, the folder is removed
                         manifest.json, fsync
    step_00000500/       rename, fsync of the parent: from here on it exists
    latest, best         names, for people; no reader of ours trusts them
                         only now are older ones removed, by renaming first (rotation.py says which)

A checkpoint holds `weights_RRRRR.safetensors` (the fp32 masters, which are the weights), `moments_RRRRR.safetensors`
(the optimiser's state), `random_RRRRR.json` (generators) of every rank R, and in its manifest the position, the loss
scale, the configuration and the versions. Nothing in it is a pickle, nothing is written twice: 12 bytes a parameter
with AdamW. Any number of ranks at any ZeRO stage can go on from it (engine_state.py); the same ones to the bit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from ptool.errors import DamagedInput, PtoolError
from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import MANIFEST, DigestingFile, list_files, read_folder_manifest
from ptool.formats.atomic import describing_os_errors, sync_folder, write_bytes
from ptool.formats.checkpoints import Checkpoint
from ptool.formats.manifests import FileEntry, encode_manifest, new_manifest
from ptool.models.tensor_files import Tensors, write_tensors
from ptool.training import random_state, rotation
from ptool.training.config import RunConfig
from ptool.training.engine import Engine
from ptool.training.ranks import Ranks
from ptool.training.rotation import Saved
from ptool.training.settings_text import as_tables
from ptool.training.snapshots import Snapshot
from ptool.training.spikes import Window

_TRASH = ".trash_"


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands, apart from weights and moments: what a checkpoint's manifest holds in `details`.

    `cursor` is the next sample, `decisions` how many decisions of the ledger were known, `probe_loss` the loss on a
    fixed batch: loading must give it again. `scheduled`: saved because of its step; only then will a rollback go to it,
    since the clock is not the same in two equal runs. `validation_loss` was measured at this very step, or is None.
    """

    step: int
    tokens: int
    cursor: int
    decisions: int
    attempt: int
    loss: float | None
    probe_loss: float
    window: Window
    world_size: int
    zero: int
    versions: dict[str, str]
    epoch: int = 0
    phase: int = 0
    scheduled: bool = True
    validation_loss: float | None = None


def temporary_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is written."""
    return run / folders.FOLDER / f"{folders.name_of(step)}.tmp"


def begin(temporary: Path) -> None:
    """Make the empty folder; on rank 0."""
    with describing_os_errors(temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)


def write_share(temporary: Path, snapshot: Snapshot, rank: int) -> list[FileEntry]:
    """Write one rank's files and bring them to the disk. Raises OutputError."""
    entries = []
    for kind, tensors in snapshot.tensors.items():
        name = folders.share_name(kind, rank)
        with describing_os_errors(temporary / name), (temporary / name).open("wb", buffering=0) as file:
            sink = DigestingFile(file)
            try:
                write_tensors(sink, tensors)
            finally:
                digest, size = sink.finish()
            os.fsync(file.fileno())
        entries.append(FileEntry(path=name, size=size, digest=digest))
    name = _random_name(rank)
    write_bytes(temporary / name, snapshot.random)
    return [*entries, *list_files(temporary, [name])]


def publish(run: Path, snapshot: Snapshot, config: RunConfig, entries: Iterable[FileEntry]) -> None:
    """Give the folder its manifest and its name: all ranks have written. On rank 0; raises OutputError."""
    position = snapshot.position
    temporary = temporary_of(run, position.step)
    final = temporary.with_name(folders.name_of(position.step))
    manifest = new_manifest(
        folders.STAGE,
        as_tables(config),
        num_tokens=position.tokens,
        details={**msgspec.to_builtins(position), "engine": snapshot.extra},
        files=sorted(entries, key=lambda entry: entry.path),
    )
    with describing_os_errors(final):
        write_bytes(temporary / MANIFEST, encode_manifest(manifest) + b"\n")
        sync_folder(temporary)
        if final.exists():  # of a history that was undone, or one that did not verify
            remove(run, [position.step])
        temporary.rename(final)
        sync_folder(final.parent)
        write_bytes(final.parent / "latest", f"{final.name}\n".encode())


def load(checkpoint: Checkpoint, engine: Engine, ranks: Ranks) -> Position:
    """Put weights, moments, loss scale and random numbers back; collective.

    The checkpoint may come from another number of ranks or ZeRO stage. Raises DamagedInput for a folder that does not
    fit, InputError for one of another model.
    """
    position = position_of(checkpoint)
    same_layout = (position.world_size, position.zero) == (ranks.size, engine.spec.zero)

    def read() -> None:
        weights, moments = (Tensors(checkpoint.shares(kind)) for kind in folders.KINDS)
        try:
            engine.state.read(weights, moments, same_layout=same_layout)
        except PtoolError as error:
            error.where = error.where or str(checkpoint.path)
            raise

    ranks.together(read)
    engine.state.make_weights()
    engine.restore_extra_state(checkpoint.manifest.details.get("engine", {}))
    own = checkpoint.path / _random_name(ranks.rank)
    if any(entry.path == own.name for entry in checkpoint.manifest.files):
        try:
            random_state.restore(own.read_bytes())
        except (msgspec.DecodeError, ValueError, RuntimeError) as error:
            raise DamagedInput(f"not the state of random generators: {error}", where=str(own)) from error
    return position


def position_of(checkpoint: Checkpoint) -> Position:
    """What the manifest says of where the run stood."""
    try:
        return msgspec.convert(checkpoint.manifest.details, Position)
    except msgspec.ValidationError as error:
        raise DamagedInput(f"not a position of a run: {error}", where=str(checkpoint.path)) from error


def present(run: Path) -> list[Saved]:
    """The published checkpoints, rising, by what their manifests say; nothing is verified."""
    found = []
    for step in folders.steps_of(run):
        details: dict[str, Any] = {}
        with suppress(PtoolError):
            manifest = read_folder_manifest(run / folders.FOLDER / folders.name_of(step))
            details = {} if manifest is None else manifest.details
        known = {name: details[name] for name in Saved.__struct_fields__ if name in details}
        found.append(msgspec.convert({**known, "step": step}, Saved))
    return found


def rotate(
    run: Path, *, keep_last: int, back_off: int | None, keep_every: int = 0, coming: Saved | None = None
) -> None:
    """Remove all checkpoints but those that `rotation.kept` names, and write down which is the best.

    `coming`: one that is not there yet; what it would push out goes now, to make room.
    """
    there = present(run)
    after = [*there, coming] if coming is not None else there
    keep = rotation.kept(after, keep_last=keep_last, back_off=back_off, keep_every=keep_every)
    best = rotation.best(there)
    if best is not None:
        write_bytes(run / folders.FOLDER / "best", f"{folders.name_of(best.step)}\n".encode())
    remove(run, {saved.step for saved in there} - keep)


def remove(run: Path, steps: Iterable[int]) -> None:
    """Remove the checkpoints of these steps: renamed first, so that none is ever half there.

    What somebody still reads stays behind on a network file system, and is cleared at the next start.
    """
    folder = run / folders.FOLDER
    for step in steps:
        path = folder / folders.name_of(step)
        with describing_os_errors(path):
            free = (folder / f"{_TRASH}{path.name}.{number}" for number in count())
            trash = next(name for name in free if not name.exists())
            path.rename(trash)
            sync_folder(folder)
            shutil.rmtree(trash, ignore_errors=True)


def clear_leftovers(run: Path) -> None:
    """Remove what a killed save or removal left."""
    folder = run / folders.FOLDER
    for path in [*folder.glob("step_*.tmp"), *folder.glob(f"{_TRASH}*")]:
        with suppress(OSError):
            shutil.rmtree(path)


def _random_name(rank: int) -> str:
    return f"random_{rank:05d}.json"
