"""What a run was trained on: its packed data and its tokenizer, held against the digests the checkpoint carries.

A checkpoint's manifest names the packed data by digest (`config["data"]["fingerprints"]`). The data is described by its
own manifest: in the history of the finished run, or in the packed folder, which `config.toml` knows the place of. The
tokenizer's file lies in the run folder. So a score is never one of other data, or of ids from another vocabulary, by
accident.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from ptool.errors import DamagedInput, InputError
from ptool.formats.artefacts import file_digest, read_folder_manifest
from ptool.formats.checkpoints import Checkpoint
from ptool.formats.manifests import Manifest, manifest_digest
from ptool.formats.packed import PackedDataset, PackedLayout
from ptool.reporting import SILENT, Reporter
from ptool.tokenizers.loading import Tokenizer, load_tokenizer

_PACKED_HINT = "--packed FOLDER says where the packed data is"


def packed_data(
    run: Path, checkpoint: Checkpoint, given: Path | None, reporter: Reporter = SILENT
) -> list[PackedDataset]:
    """The packed folders of the run; one `given` by hand may hold other rows, but not other tokens.

    Raises `InputError` for a folder that is missing, is no longer the run's, or was tokenised otherwise.
    """
    if given is not None:
        return [_open(run, checkpoint, given, by_hand=True, reporter=reporter)]
    folders = _recorded_folders(run)
    return [_open(run, checkpoint, folder, by_hand=False, reporter=reporter) for folder in folders]


def _open(run: Path, checkpoint: Checkpoint, folder: Path, *, by_hand: bool, reporter: Reporter) -> PackedDataset:
    if not folder.is_dir():
        raise InputError(
            "the packed data is not there" if by_hand else "the packed data of this run is no longer there",
            where=str(folder),
            hint="--packed FOLDER says where it is",
        )
    packed = PackedDataset.open(folder)
    known = _fingerprints(checkpoint)
    if not known or packed.fingerprint in known:
        return packed
    if not by_hand:
        raise InputError(
            "this is no longer the data the run was trained on",
            where=str(folder),
            hint=f"--packed {folder} evaluates on it all the same",
        )
    tokenizer = packed.layout.tokenizer
    if tokenizer is not None and _digest_of(run / Path(tokenizer).name) != packed.layout.tokenizer_fingerprint:
        raise InputError("these rows were made with another tokenizer than the run's", where=str(folder))
    reporter.notice(f"{folder} is not the data this run was trained on; the model may have seen its held-out documents")
    return packed


def run_tokenizer(run: Path, checkpoint: Checkpoint, given: Path | None) -> tuple[Tokenizer, int | None]:
    """The run's own tokenizer, and the id of the EOD its rows were packed with (None: they have none).

    Raises `InputError` where the run has no tokenizer, `DamagedInput` where the file is another one.
    """
    history = _history(run, checkpoint)
    layout = packed_data(run, checkpoint, given)[0].layout if history is None else _layout(history, checkpoint)
    if layout.tokenizer is None:
        raise InputError(
            "this run was trained on rows without a tokenizer file, so text cannot be evaluated",
            where=str(run),
            hint="leave the stream out: the held-out rows are tokens already",
        )
    file = run / Path(layout.tokenizer).name
    tokenizer = load_tokenizer(file)
    if layout.tokenizer_fingerprint not in (None, tokenizer.fingerprint):
        raise DamagedInput("this is not the tokenizer the run was trained with", where=str(file))
    return tokenizer, layout.eod_id


def _fingerprints(checkpoint: Checkpoint) -> list[str]:
    """The digests of the packed data the run was trained on; none where the checkpoint does not say."""
    data = checkpoint.manifest.config.get("data")
    recorded = data.get("fingerprints") if isinstance(data, dict) else None
    return [one for one in recorded or [] if isinstance(one, str)] if isinstance(recorded, list | tuple) else []


def _history(run: Path, checkpoint: Checkpoint) -> Manifest | None:
    """The manifest of the packed data, from the checkpoint or the finished run, if it is that of the fingerprint."""
    for manifest in (checkpoint.manifest, read_folder_manifest(run)):
        found = None if manifest is None else _pack_manifest(manifest)
        if found is not None and manifest_digest(found) in _fingerprints(checkpoint):
            return found
    return None


def _pack_manifest(manifest: Manifest) -> Manifest | None:
    """The nearest manifest of packed data in a manifest's history."""
    for upstream in manifest.upstream:
        found = upstream if upstream.stage == "pack" else _pack_manifest(upstream)
        if found is not None:
            return found
    return None


def _layout(manifest: Manifest, checkpoint: Checkpoint) -> PackedLayout:
    try:
        return msgspec.convert(manifest.details.get("layout"), PackedLayout)
    except msgspec.ValidationError as error:
        raise DamagedInput(f"the history describes no packed rows: {error}", where=str(checkpoint.path)) from error


def _recorded_folders(run: Path) -> list[Path]:
    """The packed folders that `config.toml` names under [data]."""
    path = run / "config.toml"
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return [Path(folder) for folder in table["data"]["packed"]]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"cannot read: {reason}", where=str(path), hint=_PACKED_HINT) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, LookupError, TypeError) as error:
        message = "it does not name the packed data: no [data] packed"
        raise DamagedInput(message, where=str(path), hint=_PACKED_HINT) from error


def _digest_of(path: Path) -> str | None:
    """sha256 as a tokenizer's fingerprint has it; None where there is no such file."""
    return file_digest(path) if path.is_file() else None
