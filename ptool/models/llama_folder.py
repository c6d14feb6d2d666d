"""Hugging Face Llama folders: `config.json` and safetensors, read into a decoder and written from its weights.

safetensors is a header of names, types, shapes and offsets before the plain numbers: reading it runs nothing, which is
why pickled `.bin` weights are not read at all. What is in the files is held against `config.json`, name by name and
shape by shape, before a decoder is made of it. Weights become fp32 when read; written as fp32, they keep their bits.

Reading holds the weights once in fp32 and one of their tensors besides; writing holds one file's bytes besides the
weights, at most `SHARD_BYTES` or one tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptool.errors import DamagedInput, InputError
from ptool.formats.artefacts import FolderWriter
from ptool.models.config import ModelConfig
from ptool.models.decoder import Decoder
from ptool.models.execution import Execution
from ptool.models.huggingface import Dtype, config_json, fold_factors, names, read_config
from ptool.models.weights import mismatch

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000  # what transformers wrote for years; hubs refuse files over 50 GB


def folder_config(folder: Path) -> ModelConfig:
    """The shape of the model in a folder; no weights are read. Raises InputError."""
    return read_config(_read_json(folder / CONFIG), where=str(folder / CONFIG))


def load_folder(folder: Path, *, execution: Execution | None = None) -> Decoder:
    """The decoder of a folder, fp32, on the CPU.

    Raises InputError for another architecture, pickled weights or weights that are not those of `config.json`;
    DamagedInput for cut files.
    """
    config = folder_config(folder)
    ours = {theirs: mine for mine, theirs in names(config)}
    state: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}
    for name, tensor in _tensors(folder):
        if name.endswith("rotary_emb.inv_freq"):  # old exports keep what follows from rope_theta
            continue
        if name == "lm_head.weight" and config.tie_embeddings:
            extra[name] = tensor  # some exports write the tied matrix twice
            continue
        if not tensor.is_floating_point():
            raise InputError(f"{name} is {tensor.dtype}: quantised weights are not read", where=str(folder))
        state[ours.get(name, name)] = tensor.float().contiguous()
    problem = mismatch(state, config)
    head = extra.get("lm_head.weight")
    if problem is None and head is not None and not torch.equal(head.float(), state["embedding.weight"]):
        problem = "lm_head.weight differs from the embedding, and the configuration says they are one"
    if problem is not None:
        raise InputError(f"the weights are not those of {CONFIG}: {problem}", where=str(folder))
    with torch.device("meta"):
        decoder = Decoder(config, execution=execution)
    decoder.load_state_dict(state, assign=True)
    return decoder


def write_folder(
    writer: FolderWriter,
    state: Mapping[str, Tensor],
    config: ModelConfig,
    *,
    eos_id: int | None,
    dtype: Dtype = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `config.json`, `generation_config.json` and the safetensors of a decoder's weights.

    Raises UsageError for a variant that no Llama has; nothing is written then.
    """
    from safetensors.torch import save

    table = config_json(config, eos_id=eos_id, dtype=dtype)
    factors = fold_factors(config)
    kind: torch.dtype = getattr(torch, dtype)
    shards = _shards(state, config, kind.itemsize, shard_bytes)
    files: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for mine, theirs in shard:
            factor = factors.get(mine, 1.0)
            tensor = state[mine].detach().cpu()
            tensors[theirs] = (tensor if factor == 1.0 else tensor * factor).to(kind).contiguous()
            files[theirs] = file_name
        with writer.create(file_name) as file:
            file.write(save(tensors, metadata={"format": "pt"}))
    if len(shards) > 1:
        size = sum(state[mine].numel() * kind.itemsize for mine, _ in names(config))
        _write_json(writer, INDEX, {"metadata": {"total_size": size}, "weight_map": files})
    _write_json(writer, CONFIG, table)
    generation = {"bos_token_id": eos_id, "eos_token_id": eos_id, "do_sample": True}
    _write_json(
        writer, "generation_config.json", {key: value for key, value in generation.items() if value is not None}
    )


def _shards(
    state: Mapping[str, Tensor], config: ModelConfig, itemsize: int, shard_bytes: int
) -> list[list[tuple[str, str]]]:
    """Pairs of names for each file: in order, as many as fit, at least one."""
    shards: list[list[tuple[str, str]]] = [[]]
    filled = 0
    for mine, theirs in names(config):
        size = state[mine].numel() * itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((mine, theirs))
        filled += size
    return shards


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the folder's safetensors files, one at a time."""
    from safetensors import SafetensorError, safe_open

    for path, expected in _files(folder):
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                found = list(file.keys())
                for name in found:
                    yield name, file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            if not path.is_file():
                raise InputError("the weights are not there", where=str(path)) from error
            raise DamagedInput(f"not a readable safetensors file: {error}", where=str(path)) from error
        if expected is not None and sorted(found) != sorted(expected):
            raise DamagedInput(f"the file does not hold what {INDEX} says", where=str(path))


def _files(folder: Path) -> list[tuple[Path, list[str] | None]]:
    """The weight files, each with the names that the index says it holds (None without an index)."""
    if (folder / SINGLE).is_file():
        return [(folder / SINGLE, None)]
    if (folder / INDEX).is_file():
        weights = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(weights, dict) or not weights:
            raise DamagedInput("the index names no weights", where=str(folder / INDEX))
        held: dict[str, list[str]] = {}
        for name, file in weights.items():
            if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
                raise InputError(f"the index names a file outside its folder: {file}", where=str(folder / INDEX))
            held.setdefault(file, []).append(name)
        return [(folder / file, held[file]) for file in sorted(held)]
    pickled = sorted(folder.glob("pytorch_model*.bin"))
    hint = "transformers can convert it: save_pretrained(..., safe_serialization=True)" if pickled else None
    message = "only pickled weights are there, which are not read: they can run code" if pickled else f"no {SINGLE}"
    raise InputError(message, where=str(folder), hint=hint)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_bytes())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "a Hugging Face model folder has one" if path.name == CONFIG else None
        raise InputError(f"cannot read: {reason}", where=str(path), hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise DamagedInput(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(table, dict):
        raise InputError("a JSON object is expected", where=str(path))
    return table


def _write_json(writer: FolderWriter, name: str, table: dict[str, Any]) -> None:
    with writer.create(name) as file:
        file.write(json.dumps(table, indent=2, ensure_ascii=False).encode() + b"\n")
