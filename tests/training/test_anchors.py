"""Anchors: states to go back to in memory, which of them are kept, and whose memory they take."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptool.formats import checkpoints as folders
from ptool.training import anchors, checkpoints
from ptool.training.anchors import needed
from ptool.training.config import Checkpoint, RunConfig, Spike
from ptool.training.snapshots import Snapshot
from tests.training.saves import SPIKE, Alone, Engine, Run, position


@given(st.integers(1, 30), st.integers(0, 60), st.integers(2, 12), st.data())
def test_no_anchor_is_let_go_that_a_later_rollback_would_take(every, back_off, raised, data):
    spike = Spike(back_off=back_off, raised_steps=raised, skip_horizon=3)
    kept_ones: list[int] = []
    everything: list[int] = []
    for step in range(0, 8 * every + back_off, every):
        everything.append(step)
        kept_ones = sorted(needed([*kept_ones, step], spike))
        now = data.draw(st.integers(step, step + every - 1)) + 1  # the step that is refused
        onset = now - 1 - data.draw(st.integers(0, max(raised, 3)))
        target = max((kept_one for kept_one in everything if kept_one <= onset - back_off), default=None)
        assert target is None or target in kept_ones
    assert len(kept_ones) <= (back_off + max(raised, 3) + 1) // every + 3


def test_a_rollback_to_an_anchor_brings_everything_back_and_a_spoilt_one_is_not_taken(tmp_path):
    run = Run(tmp_path, every_steps=1000, anchor_steps=10).to(57)
    assert run.saver.anchors.steps == [20, 30, 40, 50]
    assert run.saver.anchors.verified(at_most=40) == [20, 30, 40]
    run.saver.anchors._anchors[40].snapshot.tensors["moments"]["exp_avg/x"][3] += 1
    assert run.saver.anchors.verified(at_most=40) == [20, 30]
    assert run.saver.anchors.cursor_of(30) == 240
    torch.manual_seed(5)
    found = run.saver.go_back_to(30, open_saved=lambda step: pytest.fail("it is in memory"))
    assert found == position(30, scheduled=False)
    assert (float(run.engine.state.step), run.engine.scale) == (30.0, 30.0)
    assert run.engine.state.weight[0, 0] == sum(range(31))
    assert run.saver.anchors.steps == [20, 30], "later ones belong to a history that was undone"
    run.step = 30
    run.to(57)
    assert run.saver.anchors.steps == [20, 30, 40, 50]
    assert run.engine.state.weight[0, 0] == sum(range(58)), "buffers are used again, and hold what they should"
    assert run.saver.anchors.verified(at_most=50) == [20, 30, 40, 50]


def test_a_save_at_the_step_of_an_anchor_writes_the_anchors_copy(tmp_path, slow):
    run = Run(tmp_path, anchor_steps=10).to(15)
    slow.set()
    run.saver.finish()
    checkpoints.load(folders.open_checkpoint(tmp_path, 10), run.engine, Alone())
    assert float(run.engine.state.step) == 10
    assert not run.saver._buffers._free, "no second copy was made"


def test_an_anchor_that_is_let_go_while_it_is_still_being_written_is_not_written_over(tmp_path, slow):
    run = Run(tmp_path, every_steps=100, anchor_steps=10).to(195)
    assert 100 not in run.saver.anchors, "no rollback wants it any more"
    slow.set()
    run.saver.finish()
    checkpoints.load(folders.open_checkpoint(tmp_path, 100), run.engine, Alone())
    assert float(run.engine.state.step) == 100
    assert run.engine.state.weight[0, 0] == sum(range(101))
    in_use = {id(anchor.snapshot.tensors) for anchor in run.saver.anchors._anchors.values()}
    free = [id(copies) for copies in run.saver.anchors.buffers._free]
    assert len(free) == len(set(free) - in_use) == 2, "each memory has one owner, and none is lost"


def test_without_memory_for_anchors_the_run_says_so_once_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(anchors, "free_memory", lambda: 200)
    run = Run(tmp_path, anchor_steps=10).to(35)
    run.saver.finish()
    assert run.saver.anchors.steps == []
    assert ["rollbacks will go to saves" in text for text in run.told] == [True]
    assert run.steps == [10, 20, 30]
    checkpoints.load(folders.open_checkpoint(tmp_path, 10), run.engine, Alone())
    assert float(run.engine.state.step) == 10, "what was saved with it is whole"
    monkeypatch.setattr(anchors, "free_memory", lambda: 3000)
    (tmp_path / "more").mkdir()
    assert Run(tmp_path / "more", anchor_steps=10).to(35).saver.anchors.steps == [10, 20, 30]


def test_anchors_need_memory_for_the_ranks_of_their_own_machine_whoever_started_them(tmp_path, monkeypatch):
    class OneOfMany(Alone):
        """One of 64 ranks that srun started, 2 on each machine."""

        rank, size = 1, 64

        def sum(self, values):
            return [64 * value for value in super().sum(values)]

        def gather(self, value):
            return [f"{value}{rank // 2 or ''}" for rank in range(64)]

    class Taken(Snapshot):
        def __init__(self) -> None:
            self.tensors = {"weights": {"x": torch.zeros(300)}, "moments": {"x": torch.zeros(0), "n": torch.ones(())}}

    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    config = RunConfig(model={"vocab_size": 8}, checkpoint=Checkpoint(anchor_steps=10), spike=SPIKE)
    snapshot, more = Taken(), anchors.Anchors(config, Engine(), OneOfMany())
    assert snapshot.num_bytes == 1204
    monkeypatch.setattr(anchors, "free_memory", lambda: 2 * 4 * 1204)
    assert more._has_room(snapshot.num_bytes), "four are kept at a time"
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: True)
    assert snapshot.num_bytes == 2048 + 4, "torch hands out page-locked memory in powers of two"
    assert not more._has_room(snapshot.num_bytes)


def test_anchors_in_a_folder_leave_nothing_in_it(tmp_path):
    run = Run(tmp_path, every_steps=1000, anchor_steps=10, anchor_folder=str(tmp_path / "an chors")).to(35)
    assert list((tmp_path / "an chors").iterdir()) == []
    assert run.saver.anchors.verified(at_most=30) == [10, 20, 30]
    run.saver.go_back_to(20, open_saved=lambda step: pytest.fail("it is there"))
    assert float(run.engine.state.step) == 20


def test_a_full_disk_below_the_anchors_ends_the_anchors_and_not_the_run(tmp_path, monkeypatch):
    taken = []

    def allocate(descriptor, start, length):
        """A disk with room for two anchors of three tensors."""
        if len(taken) == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken.append(length)

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    run = Run(tmp_path, every_steps=15, anchor_steps=10, anchor_folder=str(tmp_path / "anchors")).to(45)
    run.saver.finish()
    assert taken == [32, 32, 4] * 2, "asked for before the first touch, which would end the process"
    assert run.saver.anchors.steps == [10, 20]
    assert len(run.told) == 1
    assert f"rollbacks will go to saves: {tmp_path / 'anchors'}: cannot write: no space left" in run.told[0]
    assert run.steps == [15, 30, 45]
    run.saver.go_back_to(20, open_saved=lambda step: pytest.fail("it is there"))


def test_what_goes_on_from_a_save_at_the_step_of_an_anchor_has_that_anchor(tmp_path):
    Run(tmp_path, anchor_steps=10).to(30).saver.finish()
    run = Run(tmp_path, anchor_steps=10)
    found = run.saver.go_back_to(30, open_saved=lambda step: folders.open_checkpoint(tmp_path, step))
    assert (found.step, run.saver.anchors.steps, run.saver.last_saved) == (30, [30], 30)
