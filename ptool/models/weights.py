"""A decoder's weights on disk: one file of named fp32 tensors, read without trusting it.

The file is `torch.save` of a flat dictionary, read with `weights_only=True`, whose unpickler knows tensors and plain
containers and runs nothing. What comes out is then held against the configuration: the same names, the same shapes,
fp32, so a file from another model or a cut-down one is an error and never a half-loaded decoder. Equal weights give
equal bytes.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptool.errors import DamagedInput, InputError, OutputError
from ptool.formats import atomic
from ptool.models.config import ModelConfig
from ptool.models.decoder import Decoder

_SHOWN = 3  # names listed in an error


def save_weights(path: Path, state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Write `state` (names as in `Decoder.state_dict()`, fp32, any device) to `path`, whole or not at all.

    Tensors that are views of a larger buffer, such as ZeRO's flat ones, are written without the rest of it.
    Raises `OutputError` when the state is not that of `config` or cannot be written.
    """
    problem = mismatch(state, config)
    if problem is not None:
        raise OutputError(f"these weights are not those of the model: {problem}", where=str(path))
    compact = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
    with atomic.replacing(path) as file:
        try:
            torch.save(compact, file)
        except RuntimeError as error:
            # torch's writer covers a failed write with one of its own; the disk's word is what a person needs.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_weights(path: Path, config: ModelConfig) -> Decoder:
    """The decoder of `config` with the weights of `path`, on the CPU.

    Raises `InputError` for a missing file, one that holds anything but tensors (nothing in it is run), or tensors of
    another model; `DamagedInput` for a cut or altered file.
    """
    state = _read(path)
    problem = mismatch(state, config)
    if problem is not None:
        raise InputError(
            f"these weights are not those of the model: {problem}",
            where=str(path),
            hint="the checkpoint's manifest and its weights belong to different models",
        )
    with torch.device("meta"):
        decoder = Decoder(config)
    decoder.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, assign=True)
    return decoder


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight, in the order of the module; nothing is allocated."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Decoder(config).state_dict().items()}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", where=str(path)) from error
    with file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(
                "refused: the file holds something other than plain tensors, or is no weights file", where=str(path)
            ) from error
        except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DamagedInput(f"not a readable weights file: {_first_line(error)}", where=str(path)) from error
    if not isinstance(state, dict):
        raise InputError(f"a weights file is a dictionary of tensors, not a {type(state).__name__}", where=str(path))
    return state


def mismatch(state: Mapping[str, Any], config: ModelConfig) -> str | None:
    """What keeps `state` from being the weights of `config`, in one sentence; None when they fit."""
    shapes = weight_shapes(config)
    for text, names in (("missing", shapes.keys() - state.keys()), ("unknown", state.keys() - shapes.keys())):
        if names:
            shown = sorted(map(str, names))
            more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
            return f"{text} {', '.join(shown[:_SHOWN])}{more}"
    for name, shape in shapes.items():
        tensor = state[name]
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            return f"{name} is not a dense tensor"
        if tuple(tensor.shape) != shape:
            return f"{name} has shape {list(tensor.shape)}, the configuration says {list(shape)}"
        if tensor.dtype != torch.float32:
            return f"{name} is {tensor.dtype}, not torch.float32"
    return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
