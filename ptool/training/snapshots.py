"""One step's state of this rank, copied to host memory: to be written while the training goes on, or to go back to.

The copy is the only thing a save costs the training: one pass over 12 bytes a parameter and rank with AdamW (weights
and two moments in fp32), and as much host memory; beside a GPU it is page-locked, which torch rounds up to powers of
two, a third more on the whole. Buffers are used again: memory that was never touched costs as much
again to be handed out. With `folder` the copies lie in files there that are mapped into memory, so that the system can
put them on its disk when memory is short; they have no names and end with the process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import xxhash
from torch import Tensor

from ptool.formats.atomic import describing_os_errors
from ptool.training import random_state

if TYPE_CHECKING:
    from ptool.training.checkpoints import Position
    from ptool.training.engine import Engine

Copies = dict[str, dict[str, Tensor]]


class Snapshot:
    """Where the run stood, and this rank's tensors (`EngineState.held`), generators and loss scale at that moment."""

    def __init__(self, position: Position, engine: Engine, buffers: Buffers | None) -> None:
        """`buffers` None: nothing is copied on a CPU, and the engine must stand still."""
        held = engine.state.held()
        self.position = position
        self.tensors = _on_host(held) if buffers is None else buffers.copy(held)
        self.numbers = engine.state.numbers()
        self.random = random_state.capture()
        self.extra = engine.extra_state()

    @property
    def num_bytes(self) -> int:
        """Host memory that the copies of tensors take."""
        return sum(_memory_of(tensor) for tensors in self.tensors.values() for tensor in tensors.values())

    def digest(self) -> int:
        """Over all tensors: memory is not trusted for hours without asking."""
        state = xxhash.xxh3_64()
        for tensors in self.tensors.values():
            for key, tensor in tensors.items():
                state.update(key)
                state.update(tensor.view(-1).view(torch.uint8).numpy())
        return state.intdigest()

    def put_back(self, engine: Engine) -> None:
        """Make the engine what it was; collective."""
        engine.state.put_back(self.tensors, self.numbers)
        engine.restore_extra_state(self.extra)
        random_state.restore(self.random)


class Buffers:
    """Host memory for copies, given back and used again."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._free: list[Copies] = []

    def copy(self, held: Mapping[str, Mapping[str, Tensor]]) -> Copies:
        """Copies of tensors, in buffers of equal names and shapes where some were given back.

        Raises OutputError where `folder` has no room.
        """
        old = self._free.pop() if self._free else {}
        return {
            kind: {key: self._copy(tensor, old.get(kind, {}).get(key)) for key, tensor in tensors.items()}
            for kind, tensors in held.items()
        }

    def give_back(self, snapshot: Snapshot) -> None:
        """Take the memory of a snapshot that is not needed any more."""
        self._free.append(snapshot.tensors)

    def _copy(self, tensor: Tensor, old: Tensor | None) -> Tensor:
        fits = old is not None and old.shape == tensor.shape and old.dtype == tensor.dtype
        target = old if fits and old is not None else self._new(tensor)
        target.copy_(tensor.detach())
        return target

    def _new(self, tensor: Tensor) -> Tensor:
        if self._folder is None or tensor.numel() == 0:
            return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        with describing_os_errors(self._folder), tempfile.NamedTemporaryFile(dir=self._folder) as file:
            os.posix_fallocate(file.fileno(), 0, tensor.nbytes)  # else a full disk is a SIGBUS at the first touch
            mapped: Tensor = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
        return mapped.view(tensor.shape)


def buffers_in(folder: str) -> Buffers:
    """Buffers in mapped files of a folder, which is made; in host memory where none is named."""
    if not folder:
        return Buffers()
    with describing_os_errors(Path(folder)):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Buffers(Path(folder))


def _memory_of(tensor: Tensor) -> int:
    """Bytes; torch hands out page-locked memory in powers of two (CachingHostAllocator.h)."""
    size: int = tensor.nbytes
    return 1 << (size - 1).bit_length() if size and tensor.is_pinned() else size


def _on_host(held: Mapping[str, Mapping[str, Tensor]]) -> Copies:
    return {kind: {key: tensor.detach().cpu() for key, tensor in tensors.items()} for kind, tensors in held.items()}
