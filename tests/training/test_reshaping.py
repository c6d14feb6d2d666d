"""A run's state on other ranks and at another ZeRO stage: the same weights, the same moments, the same next losses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ptool.errors import InputError
from ptool.formats.checkpoints import MOMENTS, WEIGHTS
from ptool.models.tensor_files import Tensors
from ptool.training.engine_state import EngineState, Partition, Stretch
from tests.training import tiny

CHAIN = [(1, 3), (2, 2), (4, 3), (2, 0)]  # (ranks, ZeRO stage) after two ranks at stage 1; 4 do not divide the sizes


def engine(ranks: int, zero: int, do: list[list[object]], **more: object) -> list[float]:
    """The losses of one engine that does as it is told."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**tiny.environment(), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), common.get("PYTHONPATH")]))
    command = [sys.executable, str(Path(__file__).with_name("reshaping.py"))]
    command.append(json.dumps({"zero": zero, "do": do, **more}))
    processes = [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    told = [process.communicate(timeout=120) for process in processes]
    for process, (_, complaints) in zip(processes, told, strict=True):
        assert process.returncode == 0, complaints[-3000:]
    losses: list[float] = json.loads(next(line for line in told[0][0].splitlines() if line.startswith("[")))
    return losses


def everything(folder: Path) -> dict[str, torch.Tensor]:
    """All weights and moments in a folder, put together from all its files."""
    found = {}
    for kind in (WEIGHTS, MOMENTS):
        tensors = Tensors(sorted(folder.glob(f"{kind}_*")))
        for name in tensors.names:
            whole = torch.empty(tensors.size(name), dtype=tensors.dtype(name))
            tensors.fill(name, 0, whole)
            found[name] = whole
    return found


def written_once(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_other_ranks_and_other_stages_go_on_as_if_nothing_had_changed(tmp_path):
    start = str(tmp_path / "2-1")
    empty = str(tmp_path / "empty")
    do = [["write", empty], ["step", 3], ["write", start], ["step", 4], ["read", start], ["at", 4], ["step", 4]]
    reference = engine(2, 1, [*do, ["read", empty], ["at", 1], ["step", 3]])
    assert reference[3:7] == reference[7:11], "the same engine again: the same bits"
    assert reference[:3] == reference[11:], "and from before its first step, when there were no moments"
    previous, at = start, 4
    for ranks, zero in CHAIN:
        loaded, following = (str(tmp_path / f"{ranks}-{zero}{when}") for when in ("loaded", ""))
        do = [["read", previous], ["write", loaded], ["at", at], ["step", 1], ["write", following]]
        do += [["keep", 0], ["step", 2], ["back", 0], ["at", at + 1], ["step", 2]]
        loss, *more = engine(ranks, zero, do, seed=9)
        assert loss == pytest.approx(reference[at - 1], rel=1e-6)
        assert more[:2] == more[2:], "back from a copy in memory: the same bits"
        before, after = everything(Path(previous)), everything(Path(loaded))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before), "weights, moments and steps"
        previous, at = following, at + 1
    numbers = sum(tensor.numel() for name, tensor in before.items() if name.startswith(("exp_avg", "layers", "emb")))
    assert {name.partition("/")[0] for name in before if "/" in name} == {"exp_avg", "exp_avg_sq", "step"}
    for folder in (start, previous):
        assert written_once(Path(folder)) == pytest.approx(4 * numbers, rel=0.3), "each element once, no padding"


def test_a_rank_that_holds_padding_alone_goes_back_with_the_others(tmp_path):
    small = {"vocab_size": 2, "layers": 1, "hidden": 2, "heads": 1, "ffn_hidden": 6}
    folder = str(tmp_path / "saved")
    do = [["step", 1], ["write", folder], ["keep", 0], ["step", 2], ["back", 0], ["at", 2], ["step", 2]]
    _, *losses = engine(4, 1, [*do, ["read", folder], ["at", 2], ["step", 2]], shape=small)
    shares = [Tensors([path]).names for path in sorted(Path(folder).glob(f"{WEIGHTS}_*"))]
    assert not any(name.startswith("embedding") or "norm" in name for name in shares[3]), "its part of them is empty"
    assert losses[:2] == losses[2:4] == losses[4:]


def test_a_partition_too_small_for_blocks_of_eight_bits_comes_back_beside_one_that_has_them():
    large, small = torch.zeros(8192), torch.zeros(100)
    optimizer = torch.optim.SGD([large, small])
    optimizer.state[large] = {"step": 3, "state1": torch.full((8192,), 7, dtype=torch.uint8), "absmax1": torch.ones(32)}
    optimizer.state[small] = {"step": 3, "state1": torch.full((100,), 0.5)}  # below 4,096 bitsandbytes keeps fp32
    state = EngineState.__new__(EngineState)
    state._optimizer, state._zero, state._rank, state._ranks, state._mine = optimizer, 2, 0, 2, {0, 1}
    state._shapes = {"large": torch.Size([8192]), "small": torch.Size([100])}
    state._partitions = [
        Partition(tensor, [Stretch(name, 0, 0, tensor.numel())], fused=False)
        for name, tensor in (("large", large), ("small", small))
    ]
    held = {kind: {key: value.clone() for key, value in some.items()} for kind, some in state.held().items()}
    for tensor in (large, small):
        optimizer.state[tensor]["state1"].zero_()
    state.read(Tensors(held[WEIGHTS]), Tensors(held[MOMENTS]), same_layout=True)
    assert optimizer.state[large]["state1"].unique().tolist() == [7]
    assert optimizer.state[large]["absmax1"].tolist() == [1.0] * 32
    assert optimizer.state[small].keys() == {"step", "state1"}
    assert optimizer.state[small]["state1"].unique().tolist() == [0.5]
    with pytest.raises(InputError, match="made for the parts of another number of ranks"):
        state.read(Tensors(held[WEIGHTS]), Tensors(held[MOMENTS]), same_layout=False)
