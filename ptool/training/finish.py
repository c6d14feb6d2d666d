"""The end of a run folder: the manifest that says it is finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import MANIFEST, list_files
from ptool.formats.atomic import write_bytes
from ptool.formats.manifests import Manifest, encode_manifest, new_manifest
from ptool.formats.packed import PackedDataset
from ptool.training.config import RunConfig
from ptool.training.settings_text import as_tables

STAGE = "train"


def finish(run: Path, config: RunConfig, datasets: Sequence[PackedDataset]) -> Manifest:
    """Write RUN/manifest.json: the run is finished.

    It lists what is the same in every equal run: the tokenizer and the final weights. The checkpoint's other files are
    listed in its own manifest; metrics hold times.
    """
    step = config.run.max_steps
    tokenizer = datasets[0].layout.tokenizer
    files = folders.weights_entries(run, step) + list_files(run, [] if tokenizer is None else [tokenizer])
    manifest = new_manifest(
        STAGE,
        identity(config),
        num_tokens=config.run.tokens,
        details={
            "steps": step,
            "checkpoint": folders.name_of(step),
            "parameters": config.model_config.num_parameters(),
        },
        files=sorted(files, key=lambda entry: entry.path),
        upstream=[dataset.manifest for dataset in datasets],
    )
    write_bytes(run / MANIFEST, encode_manifest(manifest) + b"\n")
    return manifest


def identity(config: RunConfig) -> dict[str, object]:
    """What makes a run this run: its tables without places, and without what may change while it goes on."""
    tables = as_tables(config)
    tables["data"].pop("packed")
    tables["run"].pop("init")  # its digest stays
    for name in ("timeout_seconds", "hang_seconds", "heartbeat_seconds"):
        tables["parallel"].pop(name)
    for section in ("checkpoint", "metrics", "validation"):
        tables.pop(section)
    return tables
