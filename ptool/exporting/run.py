"""A run's checkpoint as a Hugging Face folder: weights, configuration, tokenizer.

The folder is an artefact like the others (`manifest.json`, made whole or not at all), and at the same time a model
folder that `transformers`, vLLM or llama.cpp's converter load from its path. The tokenizer file of the run is copied;
a SentencePiece model gets a `tokenizer.json` beside it where that gives the same ids (tokenizer_json.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ptool.errors import DamagedInput, InputError, UsageError
from ptool.formats.artefacts import FolderWriter, file_digest, is_whole
from ptool.formats.checkpoints import Checkpoint, checkpoint_at
from ptool.formats.lineage import packed_history
from ptool.formats.manifests import Manifest, manifest_digest, new_manifest
from ptool.formats.packed import PackedLayout
from ptool.models.config import ModelConfig
from ptool.models.huggingface import Dtype, config_json
from ptool.reporting import SILENT, Reporter
from ptool.tokenizers.loading import Tokenizer, load_tokenizer

STAGE = "export"
TOKENIZER_JSON = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """A finished export."""

    manifest: Manifest
    folder: Path
    up_to_date: bool = False

    def rows(self) -> list[tuple[str, str]]:
        """What a person wants to know."""
        details = self.manifest.details
        return [
            ("model", f"{details['architecture']}, {details['num_parameters']:,} parameters, {details['dtype']}"),
            ("checkpoint", f"step {details['step']:,}, {self.manifest.num_tokens:,} tokens"),
            ("tokenizer", ", ".join(details["tokenizer"]) or "none"),
            ("folder", str(self.folder)),
        ]


def export_run(
    run: Path,
    folder: Path,
    *,
    step: int | None = None,
    dtype: Dtype = "float32",
    force: bool = False,
    reporter: Reporter = SILENT,
) -> ExportReport:
    """Write the newest verified checkpoint of `run`, or that of `step`, to `folder`.

    float32 keeps the weights to the bit. Raises UsageError for a model that no Llama folder can hold, a step that is
    not there, or an output that is something else; InputError for a run without a readable checkpoint.
    """
    checkpoint = checkpoint_at(run, step, reporter=reporter)
    config = _model(checkpoint)
    history = packed_history(run, checkpoint)
    if not history:
        message = (
            "what this run was trained on is not to be found, so neither tokenizer nor end of document is exported"
        )
        reporter.notice(message)
    file, tokenizer, eos_id = _tokenizer(run, checkpoint, history)
    table = config_json(config, eos_id=eos_id, dtype=dtype)  # refuses before anything is written
    identity = {"checkpoint": manifest_digest(checkpoint.manifest), "step": checkpoint.step, "dtype": dtype}
    writer = FolderWriter(folder, stage=STAGE, config=identity, force=force)
    if writer.existing is not None and is_whole(folder, writer.existing):
        reporter.notice(f"up to date: {folder}")
        return ExportReport(manifest=writer.existing, folder=folder, up_to_date=True)

    from ptool.models.llama_folder import write_folder
    from ptool.models.weights import load_weights

    decoder = load_weights(checkpoint.weights, config)
    with writer:
        write_folder(writer, decoder.state_dict(), config, eos_id=eos_id, dtype=dtype)
        written = (
            [] if file is None or tokenizer is None else _write_tokenizer(writer, file, tokenizer, config, reporter)
        )
        manifest = new_manifest(
            STAGE,
            identity,
            num_tokens=checkpoint.tokens,
            details={
                "architecture": table["architectures"][0],
                "num_parameters": config.num_parameters(),
                "dtype": dtype,
                "step": checkpoint.step,
                "tokenizer": written,
            },
            upstream=[msgspec.structs.replace(checkpoint.manifest, upstream=checkpoint.manifest.upstream or history)],
        )
        return ExportReport(manifest=writer.commit(manifest), folder=folder)


def _model(checkpoint: Checkpoint) -> ModelConfig:
    table = checkpoint.manifest.config.get("model")
    try:
        return ModelConfig.from_table(table if isinstance(table, dict) else {})
    except UsageError as error:
        message = f"the manifest does not say the model's shape: {error}"
        raise DamagedInput(message, where=str(checkpoint.path)) from error


def _tokenizer(
    run: Path, checkpoint: Checkpoint, history: Sequence[Manifest]
) -> tuple[Path | None, Tokenizer | None, int | None]:
    """The run's tokenizer, and the EOD of its rows. Raises DamagedInput where the file is another one."""
    if not history:
        return None, None, None
    try:
        layout = msgspec.convert(history[0].details.get("layout"), PackedLayout)
    except msgspec.ValidationError as error:
        raise DamagedInput(f"the history describes no packed rows: {error}", where=str(checkpoint.path)) from error
    if layout.tokenizer is None:
        return None, None, layout.eod_id
    file = run / Path(layout.tokenizer).name
    if not file.is_file():
        raise InputError("the run's tokenizer is missing", where=str(file))
    if layout.tokenizer_fingerprint not in (None, file_digest(file)):
        raise DamagedInput("this is not the tokenizer the run was trained with", where=str(file))
    return file, load_tokenizer(file), layout.eod_id


def _write_tokenizer(
    writer: FolderWriter, file: Path, tokenizer: Tokenizer, config: ModelConfig, reporter: Reporter
) -> list[str]:
    """Write the tokenizer's files; their names."""
    data = file.read_bytes()
    converted: bytes | None = None
    if tokenizer.name == "sentencepiece":
        from ptool.exporting.tokenizer_json import tokenizer_json

        converted = tokenizer_json(data, tokenizer)
        written = {SENTENCEPIECE: data}
        if converted is None:
            reporter.notice(f"{file.name} has no equal as tokenizer.json, so only the SentencePiece model is exported")
    elif tokenizer.name == "hf":
        written, converted = {}, data
    else:
        written = {tokenizer.artefact_name: data}
        reporter.notice(f"{file.name} has no equal as tokenizer.json, so transformers cannot load the tokenizer")
    if converted is not None:
        written[TOKENIZER_JSON] = converted
        written["tokenizer_config.json"] = _settings(converted, tokenizer, config)
    for name, content in written.items():
        with writer.create(name) as out:
            out.write(content)
    return sorted(written)


def _settings(converted: bytes, tokenizer: Tokenizer, config: ModelConfig) -> bytes:
    """`tokenizer_config.json`: which class reads the file, and which token ends a document (and begins the next)."""
    table: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_seq_len,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
    }
    added = {token["id"]: token["content"] for token in json.loads(converted).get("added_tokens", [])}
    if tokenizer.eos_id in added:
        table["bos_token"] = table["eos_token"] = added[tokenizer.eos_id]
    return json.dumps(table, indent=2, ensure_ascii=False).encode() + b"\n"
