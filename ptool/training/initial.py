"""Weights to begin with: a Hugging Face Llama folder, a run, or one of its checkpoints (`ptool train --init`).

The folder's model becomes the run's: its shape is written into config.toml, and what [model] says besides may only
touch what no weight depends on. A digest of the weights is recorded, so that a run that was stopped before its first
checkpoint cannot begin again from others; from then on the folder is not needed any more. Optimiser moments start at
zero, and so do the step and the data: to go on with a run, `ptool resume` it.

Cost: planning reads the weights once for their digest, each rank once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import xxhash

from ptool.errors import InputError, UsageError
from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import MANIFEST, open_artefact
from ptool.formats.checkpoints import Checkpoint
from ptool.formats.manifests import manifest_digest
from ptool.models.config import ModelConfig
from ptool.training import history
from ptool.training.config import RunConfig, Table
from ptool.training.resolving import overlay

if TYPE_CHECKING:
    from ptool.models.decoder import Decoder
    from ptool.models.execution import Execution

FREE = (
    "z_loss",
    "document_mask",
    "max_seq_len",
    "rope_theta",
    "norm_eps",
    "embedding_scale",
    "mup_base_hidden",
    "mup_base_head_dim",
    "init",
    "init_std",
)
"""Parts of [model] that leave the weights' names and shapes alone; `max_seq_len` only where positions are rotary."""

_READ = 1 << 24


class Found(NamedTuple):
    """The weights in a folder: of a checkpoint, or of a Hugging Face folder where `checkpoint` is None."""

    folder: Path
    model: ModelConfig
    digest: str
    checkpoint: Checkpoint | None


def find(folder: Path) -> Found:
    """The weights in `folder`. Raises InputError or DamagedInput; UsageError where there are none."""
    folder = folder.parent if folder.name == MANIFEST else folder
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder))
    if (folder / "config.json").is_file():
        from ptool.models.llama_folder import folder_config

        return Found(folder, folder_config(folder), _digest_of_files(folder), None)
    checkpoint = _checkpoint(folder)
    model = ModelConfig.from_table(checkpoint.manifest.config["model"], where=str(checkpoint.path))
    return Found(folder, model, manifest_digest(checkpoint.manifest), checkpoint)


def settings_with_initial(given: Table, *, seq_len: int, vocab_size: int) -> Table:
    """`given` with the model of its `run.init`, if it has one, for rows of `seq_len` tokens.

    Raises UsageError where [model] asks for another shape, or the data for a larger vocabulary or longer rows.
    """
    name = given.get("run", {}).get("init")
    if not name:
        return given
    found = find(Path(name))
    model, asked = found.model, given.get("model", {})
    if "size" in asked:
        raise UsageError(f"the weights in {name} bring their shape: no --model beside --init")
    rotary = model.positions == "rope"
    for key, value in asked.items():
        has = getattr(model, key)
        if value != has and (key not in FREE or (key == "max_seq_len" and not rotary)):
            raise UsageError(f"model.{key} is {value}, and the weights have {has}", where=name)
    if vocab_size > model.vocab_size:
        message = f"the packed tokens need a vocabulary of {vocab_size}, and the weights have {model.vocab_size}"
        raise UsageError(message, where=name, hint="tokenize with the tokenizer of these weights")
    table = {**model.as_table(), **asked}
    if rotary and "max_seq_len" not in asked:
        table["max_seq_len"] = max(model.max_seq_len, seq_len)
    init = {"init": str(found.folder.resolve()), "init_digest": found.digest}
    return overlay(given, {"model": table, "run": init})


def load(config: RunConfig, *, execution: Execution) -> Decoder:
    """The decoder of `config` with the weights of its `run.init`, fp32, on the CPU.

    Raises InputError where the folder is gone or holds other weights than the run was planned with.
    """
    import torch

    from ptool.models.decoder import Decoder

    found = find(Path(config.run.init))
    if found.digest != config.run.init_digest:
        message = f"the weights to begin with changed: {found.digest}, and the run was planned with "
        raise InputError(message + config.run.init_digest, where=str(found.folder), hint="--force plans anew")
    weights = _weights(found)
    with torch.device("meta"):
        decoder = Decoder(config.model_config, execution=execution)
    decoder.load_state_dict(weights, assign=True)
    return decoder


def has_begun(run: Path) -> bool:
    """Whether a checkpoint was ever saved in `run`: its weights are then to be had from checkpoints alone."""
    return any(event.get("event") == "save" for event in history.read_lines(run / history.EVENTS))


def _weights(found: Found) -> Mapping[str, Any]:
    if found.checkpoint is None:
        from ptool.models.llama_folder import load_folder

        decoder = load_folder(found.folder)
    else:
        from ptool.models.weights import load_weights

        decoder = load_weights(found.checkpoint.weights, found.model)
    state: Mapping[str, Any] = decoder.state_dict()
    return state


def _checkpoint(folder: Path) -> Checkpoint:
    if (folder / folders.FOLDER).is_dir():
        return folders.newest_verified(folder)
    if not (folder / MANIFEST).is_file():
        raise InputError(
            "no weights to begin with are there",
            where=str(folder),
            hint="a Hugging Face Llama folder, a run folder, or RUN/checkpoints/step_…/",
        )
    manifest = open_artefact(folder, stage=folders.STAGE, verify=True)
    step, tokens = (int(manifest.details.get(name, 0)) for name in ("step", "tokens"))
    return Checkpoint(path=folder, step=step, tokens=tokens, manifest=manifest)


def _digest_of_files(folder: Path) -> str:
    """Of config.json and every safetensors file and index, with their names."""
    digest = xxhash.xxh3_128()
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors*"))]:
        digest.update(msgspec.json.encode([path.name, path.stat().st_size]))
        with path.open("rb") as file:
            while piece := file.read(_READ):
                digest.update(piece)
    return f"xxh3-128:{digest.hexdigest()}"
