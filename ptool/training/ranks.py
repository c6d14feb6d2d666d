"""What the ranks say to one another besides gradients: sums, decisions, errors.

Everything travels as numbers or JSON, never as pickles. A method is collective: all ranks call it in the same order.
On one rank everything is answered locally, by the same calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import torch
import torch.distributed as dist
import xxhash

from ptool import errors
from ptool.errors import PtoolError

T = TypeVar("T")


class Ranks:
    """The process group, seen from one of its ranks."""

    def __init__(self, device: torch.device) -> None:
        self.rank: int = dist.get_rank()
        self.size: int = dist.get_world_size()
        self._device = device

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which decides, reports and publishes."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Elementwise sum over the ranks, in fp64."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def from_first(self, values: Sequence[float]) -> list[float]:
        """Rank 0's values, as many as this rank passes."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.broadcast(tensor, src=0)
        return [float(value) for value in tensor.tolist()]

    def object_from_first(self, value: T | None, kind: type[T]) -> T:
        """Rank 0's value, sent as JSON; all ranks check that they hold the same bytes.

        Raises PtoolError where they do not.
        """
        data = msgspec.json.encode(value) if self.is_first else b""
        size = int(self.from_first([len(data)])[0])
        buffer = torch.frombuffer(bytearray(data or bytes(size)), dtype=torch.uint8).to(self._device)
        dist.broadcast(buffer, src=0)
        received = bytes(buffer.cpu().numpy())
        digest = float(xxhash.xxh32_intdigest(received))  # 32 bits: the sum over two million ranks is exact in fp64
        if self.sum([digest])[0] != digest * self.size:
            raise PtoolError("the ranks hold different decisions", hint="check the network, then resume")
        return msgspec.json.decode(received, type=kind)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank, sent as JSON."""
        data = msgspec.json.encode(value)
        sizes = self._all_gather(torch.tensor([len(data)], dtype=torch.int64, device=self._device))
        longest = max(int(size) for size in sizes)
        padded = torch.frombuffer(bytearray(data.ljust(longest)), dtype=torch.uint8).to(self._device)
        return [
            msgspec.json.decode(bytes(buffer.cpu().numpy())[: int(size)])
            for buffer, size in zip(self._all_gather(padded), sizes, strict=True)
        ]

    def barrier(self) -> None:
        """Wait for all."""
        self.sum([0.0])

    def together(self, work: Callable[[], T]) -> T:
        """Do `work` on every rank; when it fails with a PtoolError anywhere, every rank raises that error.

        `work` must not itself wait for other ranks after a point at which it can fail.
        """
        failure: PtoolError | None = None
        result: T | None = None
        try:
            result = work()
        except PtoolError as error:
            failure = error
        told = self.gather(
            None if failure is None else [type(failure).__name__, failure.message, failure.where, failure.hint]
        )
        if failure is not None:
            raise failure
        for rank, other in enumerate(told):
            if other is not None:
                name, message, where, hint = other
                kind: type[PtoolError] = getattr(errors, name, PtoolError)
                raise kind(f"rank {rank}: {message}", where=where, hint=hint)
        return result  # type: ignore[return-value]

    def on_first(self, work: Callable[[], T], kind: type[T]) -> T:
        """Do `work` on rank 0 only and give its result to all; a PtoolError there is raised on all."""
        result = self.together(lambda: work() if self.is_first else None)
        return self.object_from_first(result, kind)

    def _all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(gathered, tensor)
        return gathered
