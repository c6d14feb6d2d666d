"""Writing, finding and clearing checkpoints, so that a kill at any moment leaves the last good one.

    step_00000500.tmp/   every rank writes its files, brings them to the disk and digests what it wrote
                         the digests are gathered; if any rank failed, the folder is removed and the run stops
                         manifest.json, fsync
    step_00000500/       rename, fsync of the parent: from here on it exists
    latest               its name, for people; no reader of ours trusts it
                         only now are older ones removed, by renaming first

Kept are the newest `keep_last` and, while the run lasts, the newest that a rollback could go back to. Cost per save:
16 to 20 bytes per parameter, one read for the digests, one fsync per file.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from ptool.errors import DamagedInput, OutputError
from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import list_files
from ptool.formats.atomic import describing_os_errors, sync_folder, write_bytes
from ptool.formats.checkpoints import Checkpoint
from ptool.formats.manifests import FileEntry, encode_manifest, new_manifest
from ptool.models.weights import save_weights
from ptool.training.config import RunConfig, as_tables
from ptool.training.engine import ENGINE_FOLDER, Engine, read_tensors
from ptool.training.ranks import Ranks
from ptool.training.spikes import Window

_TRASH = ".trash_"


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands, apart from weights and moments: what a checkpoint's manifest holds in `details`.

    `cursor` is the next sample, `decisions` how many decisions of the ledger were known, `probe_loss` the loss on a
    fixed batch: loading must give it again.
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


def save(run: Path, position: Position, config: RunConfig, engine: Engine, ranks: Ranks) -> None:
    """Write and publish the checkpoint of `position`; collective.

    Raises OutputError on every rank, with nothing left behind, when it cannot be written anywhere.
    """
    final = run / folders.FOLDER / folders.name_of(position.step)
    temporary = final.with_name(final.name + ".tmp")
    try:
        ranks.together(lambda: _begin(temporary, ranks))
        engine.save(temporary)
        weights = engine.weights()
        entries = ranks.gather(ranks.together(lambda: _write_own(temporary, weights, config, engine, ranks)))
        ranks.together(lambda: _publish(temporary, final, position, config, entries) if ranks.is_first else None)
    except OutputError:
        if ranks.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def load(checkpoint: Checkpoint, engine: Engine, ranks: Ranks) -> Position:
    """Put weights, moments and random numbers back; collective. Raises DamagedInput for a folder that does not fit."""
    position = position_of(checkpoint)
    if (position.world_size, position.zero) != (ranks.size, engine.spec.zero):
        message = f"it was written by {position.world_size} ranks at ZeRO {position.zero}, not {ranks.size} at "
        raise DamagedInput(f"{message}{engine.spec.zero}", where=str(checkpoint.path))
    for path in sorted((checkpoint.path / ENGINE_FOLDER).iterdir()):
        if path.name not in {Path(entry.path).name for entry in checkpoint.manifest.files}:
            raise DamagedInput("the manifest does not know this file", where=str(path))
    engine.load(checkpoint.path)
    _restore_random_state(read_tensors(checkpoint.path / _random_file(ranks.rank)))
    return position


def position_of(checkpoint: Checkpoint) -> Position:
    """What the manifest says of where the run stood."""
    try:
        return msgspec.convert(checkpoint.manifest.details, Position)
    except msgspec.ValidationError as error:
        raise DamagedInput(f"not a position of a run: {error}", where=str(checkpoint.path)) from error


def rotate(run: Path, *, keep_last: int, back_off: int | None) -> None:
    """Remove all but the newest `keep_last` and, with `back_off`, the newest at least that many steps older."""
    steps = folders.steps_of(run)
    keep = set(steps[-keep_last:])
    if back_off is not None and steps:
        anchors = [step for step in steps if step <= steps[-1] - back_off] or steps[:1]
        keep.add(anchors[-1])
    remove(run, set(steps) - keep)


def remove(run: Path, steps: Iterable[int]) -> None:
    """Remove the checkpoints of these steps: renamed first, so that none is ever half there."""
    folder = run / folders.FOLDER
    for step in steps:
        path = folder / folders.name_of(step)
        with describing_os_errors(path):
            trash = folder / f"{_TRASH}{path.name}"
            shutil.rmtree(trash, ignore_errors=True)
            path.rename(trash)
            sync_folder(folder)
            shutil.rmtree(trash, ignore_errors=True)


def clear_leftovers(run: Path) -> None:
    """Remove what a killed save or removal left."""
    folder = run / folders.FOLDER
    for path in [*folder.glob("step_*.tmp"), *folder.glob(f"{_TRASH}*")]:
        with suppress(OSError):
            shutil.rmtree(path)


def _begin(temporary: Path, ranks: Ranks) -> None:
    if ranks.is_first:
        with describing_os_errors(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)


def _write_own(
    temporary: Path, weights: dict[str, torch.Tensor] | None, config: RunConfig, engine: Engine, ranks: Ranks
) -> list[FileEntry]:
    engine.raise_save_error()
    names = [str(Path(path).relative_to(temporary)) for path in engine.files_written]
    if weights is not None:
        save_weights(temporary / folders.WEIGHTS, weights, config.model_config)
        names.append(folders.WEIGHTS)
    with describing_os_errors(temporary):
        random_file = _random_file(ranks.rank)
        with (temporary / random_file).open("wb") as file:
            torch.save(_random_state(), file)
            file.flush()
            os.fsync(file.fileno())
        names.append(random_file)
        return list_files(temporary, names)


def _publish(
    temporary: Path, final: Path, position: Position, config: RunConfig, entries: list[list[dict[str, Any]]]
) -> None:
    files = [msgspec.convert(entry, FileEntry) for part in entries for entry in part]
    manifest = new_manifest(
        folders.STAGE,
        as_tables(config),
        num_tokens=position.tokens,
        details=msgspec.to_builtins(position),
        files=sorted(files, key=lambda entry: entry.path),
    )
    with describing_os_errors(final):
        write_bytes(temporary / "manifest.json", encode_manifest(manifest) + b"\n")
        sync_folder(temporary / ENGINE_FOLDER)
        sync_folder(temporary)
        if final.exists():  # an older one of the same step that did not verify
            shutil.rmtree(final)
        temporary.rename(final)
        sync_folder(final.parent)
        write_bytes(final.parent / "latest", f"{final.name}\n".encode())


def _random_file(rank: int) -> str:
    return f"random_{rank:05d}.pt"


def _random_state() -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 (whoever uses it)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    legacy = (kind, keys.numpy().astype(np.uint32), position, has_gauss, cached)
    np.random.set_state(legacy)  # noqa: NPY002
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
