"""A decoder's weights on disk: named fp32 tensors in one file or in several, read without trusting them.

The files are safetensors (tensor_files.py): reading them runs nothing. What comes out is then held against the
configuration: the same names, the same shapes, fp32, every element once, so a file from another model or a cut-down
one is an error and never a half-loaded decoder. Equal weights give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptool.errors import InputError, OutputError
from ptool.formats import atomic
from ptool.models.config import ModelConfig
from ptool.models.decoder import Decoder
from ptool.models.tensor_files import Tensors, write_tensors

_SHOWN = 3  # names listed in an error


def save_weights(path: Path, state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Write `state` (names as in `Decoder.state_dict()`, fp32, any device) to `path`, whole or not at all.

    Raises `OutputError` when the state is not that of `config` or cannot be written.
    """
    problem = mismatch(state, config)
    if problem is not None:
        raise OutputError(f"these weights are not those of the model: {problem}", where=str(path))
    with atomic.replacing(path) as file:
        write_tensors(file, {name: tensor.detach().to("cpu") for name, tensor in state.items()})


def load_weights(paths: Path | Sequence[Path], config: ModelConfig) -> Decoder:
    """The decoder of `config` with the weights of one file, or of all files of a checkpoint, on the CPU.

    Raises `InputError` for a missing file, one that holds anything but tensors, or tensors of another model;
    `DamagedInput` for a cut or altered file.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    state = _read(files, weight_shapes(config))
    with torch.device("meta"):
        decoder = Decoder(config)
    decoder.load_state_dict(state, assign=True)
    return decoder


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight, in the order of the module; nothing is allocated."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Decoder(config).state_dict().items()}


def _read(files: Sequence[Path], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    where = ", ".join(map(str, files))
    tensors = Tensors(files)
    problem = _differing_names(tensors.names, shapes)
    for name, shape in shapes.items() if problem is None else ():
        count = torch.Size(shape).numel()
        whole = tensors.shape(name)
        if whole not in (None, shape):
            problem = f"{name} has shape {list(whole or ())}, the configuration says {list(shape)}"
        elif tensors.size(name) != count:
            problem = f"{name} has {tensors.size(name):,} elements, the configuration says {count:,}"
    if problem is not None:
        raise InputError(
            f"these weights are not those of the model: {problem}",
            where=where,
            hint="the checkpoint's manifest and its weights belong to different models",
        )
    state = {name: torch.empty(shape) for name, shape in shapes.items()}
    for name, tensor in state.items():
        tensors.fill(name, 0, tensor.view(-1))
    return state


def mismatch(state: Mapping[str, Any], config: ModelConfig) -> str | None:
    """What keeps `state` from being the weights of `config`, in one sentence; None when they fit."""
    shapes = weight_shapes(config)
    problem = _differing_names(state.keys(), shapes)
    if problem is not None:
        return problem
    for name, shape in shapes.items():
        tensor = state[name]
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            return f"{name} is not a dense tensor"
        if tuple(tensor.shape) != shape:
            return f"{name} has shape {list(tensor.shape)}, the configuration says {list(shape)}"
        if tensor.dtype != torch.float32:
            return f"{name} is {tensor.dtype}, not torch.float32"
    return None


def _differing_names(found: AbstractSet[str], shapes: Mapping[str, object]) -> str | None:
    for text, names in (("missing", shapes.keys() - found), ("unknown", found - shapes.keys())):
        if names:
            shown = sorted(map(str, names))
            more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
            return f"{text} {', '.join(shown[:_SHOWN])}{more}"
    return None
