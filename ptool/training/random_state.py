"""The random numbers of one rank: Python's, NumPy's, torch's and the GPU's generators, as one JSON object.

Nothing of ours draws from them between steps (the seed, the step and the sample say everything), so this is for what a
person adds: a dropout, a callback. A rank that the checkpoint does not know keeps what it has.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import torch


class RandomState(msgspec.Struct, frozen=True, kw_only=True):
    """The generators' states; bytes are base64 in JSON."""

    python: tuple[int, list[int], float | None]
    numpy: tuple[str, list[int], int, int, float]
    torch: bytes
    cuda: bytes | None = None


def capture() -> bytes:
    """The states of all generators of this process."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 (whoever uses it)
    state = RandomState(
        python=(version, list(numbers), gauss),
        numpy=(str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)),
        torch=_bytes(torch.get_rng_state()),
        cuda=_bytes(torch.cuda.get_rng_state()) if torch.cuda.is_available() else None,
    )
    return msgspec.json.encode(state)


def restore(data: bytes) -> None:
    """Put back what `capture` gave. Raises msgspec.DecodeError or ValueError for anything else."""
    state = msgspec.json.decode(data, type=RandomState)
    version, numbers, gauss = state.python
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = state.numpy
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(_tensor(state.torch))
    if state.cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(state.cuda))


def _bytes(state: Any) -> bytes:
    return bytes(state.numpy())


def _tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
