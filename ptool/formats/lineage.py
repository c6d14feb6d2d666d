"""The packed data that a checkpoint's run was trained on, as manifests.

A checkpoint names its data by digest alone (`config["data"]["fingerprints"]`). What the digests stand for is looked for
where it may be: in the checkpoint's own history (by other writers), in the manifest of the finished run, and in the
packed folders, at the places that the checkpoint's settings have. Only a manifest with one of the digests counts, so a
folder that was packed anew is never taken for the run's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptool.errors import PtoolError
from ptool.formats.artefacts import read_folder_manifest
from ptool.formats.checkpoints import Checkpoint
from ptool.formats.manifests import Manifest, manifest_digest


def packed_history(run: Path, checkpoint: Checkpoint) -> list[Manifest]:
    """The manifests of the packed data, in the order in which the run names it; empty where none is to be found."""
    own = list(_packed(checkpoint.manifest))
    if own:
        return own
    data: Any = checkpoint.manifest.config.get("data")
    wanted = _texts(data, "fingerprints")
    found: dict[str, Manifest] = {}
    for manifest in _candidates(run, _texts(data, "packed")):
        found.setdefault(manifest_digest(manifest), manifest)
        if found.keys() >= set(wanted):
            break
    return [found[digest] for digest in wanted if digest in found]


def _candidates(run: Path, folders: list[str]) -> Iterator[Manifest]:
    for folder in (run, *map(Path, folders)):
        try:
            manifest = read_folder_manifest(folder)
        except PtoolError:  # gone to somebody else, or damaged: then it is not the run's
            continue
        if manifest is not None:
            yield from [manifest] if manifest.stage == "pack" else _packed(manifest)


def _packed(manifest: Manifest) -> Iterator[Manifest]:
    """The nearest manifests of packed data in a manifest's history."""
    for upstream in manifest.upstream:
        yield from [upstream] if upstream.stage == "pack" else _packed(upstream)


def _texts(table: Any, key: str) -> list[str]:
    values = table.get(key) if isinstance(table, dict) else None
    return [one for one in values if isinstance(one, str)] if isinstance(values, list | tuple) else []
