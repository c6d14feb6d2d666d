"""The ends of a run folder: the data it was trained on, and the manifest that says it is finished."""

from __future__ import annotations

from pathlib import Path

from ptool.errors import InputError
from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import MANIFEST, list_files
from ptool.formats.atomic import write_bytes
from ptool.formats.manifests import Manifest, encode_manifest, new_manifest
from ptool.formats.packed import PackedDataset
from ptool.training.config import RunConfig, as_tables

STAGE = "train"


def open_data(config: RunConfig) -> PackedDataset:
    """The packed data of a run. Raises InputError where it is gone or is not the same any more."""
    packed = Path(config.data.packed)
    if not packed.is_dir():
        raise InputError("the packed data of this run is gone", where=str(packed), hint="bring it back to that place")
    dataset = PackedDataset.open(packed)
    if dataset.fingerprint != config.data.fingerprint:
        message = (
            f"the packed data changed: {dataset.fingerprint}, and the run was started on {config.data.fingerprint}"
        )
        raise InputError(message, where=str(packed), hint="pack the same data again, or train into another folder")
    return dataset


def finish(run: Path, config: RunConfig, dataset: PackedDataset) -> Manifest:
    """Write RUN/manifest.json: the run is finished.

    It lists what is the same in every equal run: the tokenizer and the final weights. The checkpoint's other files are
    listed in its own manifest; metrics hold times.
    """
    step = config.run.max_steps
    names = [str(path.relative_to(run)) for path in folders.weights_of(run, step)]
    if dataset.layout.tokenizer is not None:
        names.append(dataset.layout.tokenizer)
    manifest = new_manifest(
        STAGE,
        identity(config),
        num_tokens=config.run.tokens,
        details={
            "steps": step,
            "checkpoint": folders.name_of(step),
            "parameters": config.model_config.num_parameters(),
        },
        files=list_files(run, names),
        upstream=[dataset.manifest],
    )
    write_bytes(run / MANIFEST, encode_manifest(manifest) + b"\n")
    return manifest


def identity(config: RunConfig) -> dict[str, object]:
    """What makes a run this run: its tables without places, and without what may change while it goes on."""
    tables = as_tables(config)
    tables["data"].pop("packed")
    tables["parallel"].pop("timeout_seconds")
    for section in ("checkpoint", "metrics"):
        tables.pop(section)
    return tables
