"""Named tensors in files that hold nothing else: safetensors, of which one file may hold only parts of a tensor.

    layers.0.norm.weight             the whole tensor, in its shape
    embedding.weight@4096            the elements from 4,096 on, of the flattened tensor

Every safetensors reader opens such a file. Parts are how the ranks of a sharded run write one set of tensors, each its
own file, without sending anything (training/engine_state.py); `Tensors` puts any stretch of any tensor together again
from all files, and reads only that stretch: files are mapped, not loaded.

Written in order of names, in one pass that also digests; equal tensors give equal bytes. Reading runs no code and
trusts no number: the library checks every offset against the file, and what is missing or doubled is an error here.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import torch
from torch import Tensor

from ptool.errors import DamagedInput, InputError

_NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.int8: "I8",
}
_PIECE = 16 << 20  # bytes handed on at a time: the digest of one piece is taken while the next is written


class Sink(Protocol):
    """What tensors are written to: a file, or one that digests."""

    def write(self, data: memoryview, /) -> Any:
        """Append `data`."""


class Part(NamedTuple):
    """Where some elements of a flattened tensor lie: `length` of them from `start` on; `read` maps them."""

    start: int
    length: int
    origin: str
    read: Callable[[], Tensor]


def key_of(name: str, start: int | None = None) -> str:
    """The key of a whole tensor, or of the part that starts at element `start`."""
    return name if start is None else f"{name}@{start}"


def write_tensors(sink: Sink, tensors: Mapping[str, Tensor]) -> None:
    """Write CPU tensors as one safetensors file. They must not change until the sink has been finished."""
    entries: dict[str, Any] = {}
    offset = 0
    # Wide numbers first, so that every tensor is aligned to its own width, as the library's own writer has it.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    for key, tensor in ordered:
        end = offset + tensor.numel() * tensor.element_size()
        entries[key] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    header = msgspec.json.encode(entries)
    header += b" " * (-len(header) % 8)
    sink.write(memoryview(len(header).to_bytes(8, "little") + header))
    for _, tensor in ordered:
        data = _bytes_of(tensor)
        for start in range(0, len(data), _PIECE):
            sink.write(data[start : start + _PIECE])


class Tensors:
    """The tensors of one set of files, or of a mapping with the same keys, found by name, in any stretch."""

    def __init__(self, source: Iterable[Path] | Mapping[str, Tensor]) -> None:
        """Raises InputError for what is no safetensors file, DamagedInput for one that is cut or changed."""
        self._parts: dict[str, list[Part]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        if isinstance(source, Mapping):
            for key, tensor in source.items():
                self._add(key, tuple(tensor.shape), "memory", partial(_itself, tensor))
            paths: list[Path] = []
        else:
            paths = list(source)
        for path in paths:
            opened = _open(path)
            for key in opened.keys():  # noqa: SIM118 (no mapping)
                shape = tuple(opened.get_slice(key).get_shape())
                self._add(key, shape, str(path), partial(opened.get_tensor, key))
        self._origins = ", ".join(map(str, paths)) or "memory"
        for parts in self._parts.values():
            parts.sort(key=lambda part: part.start)

    @property
    def names(self) -> set[str]:
        """Names of all tensors, whole or in parts."""
        return set(self._parts)

    def size(self, name: str) -> int:
        """Elements of a tensor, as far as its parts reach."""
        return max(part.start + part.length for part in self._parts[name])

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor that lies whole in one file, else None."""
        return self._shapes.get(name)

    def dtype(self, name: str) -> torch.dtype:
        """The kind of number a tensor is made of."""
        return self._parts[name][0].read().dtype

    def whole(self, name: str) -> Tensor:
        """A tensor that lies whole in one file, in its shape; a view of the mapped file."""
        parts = self._parts.get(name, [])
        if len(parts) != 1 or name not in self._shapes:
            raise DamagedInput(f"{name} is not there once and whole", where=self._origins)
        return parts[0].read()

    def fill(self, name: str, start: int, target: Tensor) -> None:
        """Copy the elements from `start` on into the flat tensor `target`.

        Raises DamagedInput where an element is missing or is there twice, or its kind of number is another one.
        """
        end = start + target.numel()
        parts = self._parts.get(name, [])
        stretches = [(max(start, part.start), min(end, part.start + part.length)) for part in parts]
        edges = [start, *(edge for first, last in stretches if first < last for edge in (first, last)), end]
        if target.numel() and any(a != b for a, b in zip(edges[::2], edges[1::2], strict=True)):
            raise DamagedInput(f"elements of {name} are missing or doubled", where=self._origins)
        for part, (first, last) in zip(parts, stretches, strict=True):
            if first >= last:
                continue
            source = part.read().view(-1)
            if source.dtype != target.dtype:
                raise DamagedInput(f"{name} holds {source.dtype}, not {target.dtype}", where=part.origin)
            target[first - start : last - start].copy_(source[first - part.start : last - part.start])

    def _add(self, key: str, shape: tuple[int, ...], origin: str, read: Callable[[], Tensor]) -> None:
        name, at, start = key.partition("@")
        if at and not (start.isdecimal() and len(shape) == 1):
            raise DamagedInput(f"{key} is no part of a tensor", where=origin)
        self._parts.setdefault(name, []).append(Part(int(start or 0), math.prod(shape), origin, read))
        if not at:
            self._shapes[name] = shape


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _open(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size == 0 or not path.is_file():
            raise DamagedInput("not a tensor file", where=str(path))
        with path.open("rb"):  # the library's own error does not say what is wrong
            pass
        return safe_open(path, framework="pt", device="cpu")
    except OSError as error:
        raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", where=str(path)) from error
    except SafetensorError as error:
        raise DamagedInput(f"refused: not a file of plain tensors ({error})", where=str(path)) from error


def _bytes_of(tensor: Tensor) -> memoryview:
    if sys.byteorder != "little":
        raise DamagedInput("tensor files are little-endian, and this machine is not", where=os.uname().machine)
    flat = tensor.detach().contiguous().view(-1)
    if flat.numel() == 0:
        return memoryview(b"")
    return memoryview(flat.view(torch.uint8).numpy())
