"""What ranks say to one another, in one process: a group whose members hold the same, added up one after another."""

from __future__ import annotations

import pytest
import torch

from ptool.errors import PtoolError
from ptool.training import ranks
from ptool.training.ranks import Ranks


class Group:
    """Stands for torch.distributed: sums go round in a ring, each addition rounded, as NCCL's and gloo's do."""

    def __init__(self, size: int) -> None:
        self.size = size

    def get_rank(self) -> int:
        return 0

    def get_world_size(self) -> int:
        return self.size

    def broadcast(self, tensor: torch.Tensor, src: int) -> None: ...

    def all_reduce(self, tensor: torch.Tensor) -> None:
        own = tensor.clone()
        for _ in range(self.size - 1):
            tensor += own


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 24, 1000, 4099])
def test_a_decision_that_all_ranks_hold_is_taken_for_one_by_any_number_of_them(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(ranks, "dist", Group(size))
    group = Ranks(torch.device("cpu"))
    for number in range(200):
        value = f"decision {number}"
        assert group.object_from_first(value, str) == value


def test_a_rank_that_holds_another_decision_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Torn(Group):
        def all_reduce(self, tensor: torch.Tensor) -> None:
            tensor *= self.size
            tensor += 1  # one other rank's digest differs by one

    monkeypatch.setattr(ranks, "dist", Torn(3))
    with pytest.raises(PtoolError, match="the ranks hold different decisions"):
        Ranks(torch.device("cpu")).object_from_first("decision", str)
