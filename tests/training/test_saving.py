"""Saves beside the training, anchors in memory, full disks and foreign files, on one rank without DeepSpeed."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import sys
import threading
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import InputError, OutputError
from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import list_files, read_folder_manifest
from ptool.formats.manifests import encode_manifest
from ptool.models.tensor_files import Tensors
from ptool.training import anchors, checkpoints, saving
from ptool.training.anchors import needed
from ptool.training.checkpoints import Position
from ptool.training.config import Checkpoint, RunConfig, Spike
from ptool.training.history import Ledger, read_lines
from ptool.training.rotation import Saved, best, kept
from ptool.training.snapshots import Snapshot
from ptool.training.spikes import Window


class Alone:
    """One rank's view of itself."""

    is_first, rank, size = True, 0, 1

    def sum(self, values):
        return [float(value) for value in values]

    def gather(self, value):
        return [msgspec.json.decode(msgspec.json.encode(value))]

    def together(self, work):
        return work()

    def object_from_first(self, value, kind):
        return msgspec.json.decode(msgspec.json.encode(value), type=kind)

    def on_first(self, work, kind):
        return self.object_from_first(work(), kind)

    def barrier(self) -> None: ...


class Held:
    """The state of an engine: one weight of which a part lies here, its moment, its step."""

    def __init__(self) -> None:
        self.weight, self.moment, self.step = torch.zeros(4, 2), torch.zeros(8), torch.tensor(0.0)
        self.made = 0

    def held(self):
        return {"weights": {"x": self.weight}, "moments": {"exp_avg/x": self.moment, "step/x": self.step}}

    def read(self, weights: Tensors, moments: Tensors, *, same_layout: bool) -> None:
        weights.fill("x", 0, self.weight.view(-1))
        moments.fill("exp_avg/x", 0, self.moment)
        self.step.copy_(moments.whole("step/x"))

    def numbers(self):
        return {"step/0": self.step.clone()}

    def put_back(self, tensors, numbers) -> None:
        assert float(numbers["step/0"]) == float(tensors["moments"]["step/x"])
        self.read(Tensors(tensors["weights"]), Tensors(tensors["moments"]), same_layout=True)

    def make_weights(self) -> None:
        self.made += 1


class Engine:
    """What checkpoints ask of an engine."""

    def __init__(self) -> None:
        self.state = Held()
        self.spec = type("Spec", (), {"zero": 2})()
        self.scale = 1.0

    def extra_state(self):
        return {"loss_scale": self.scale}

    def restore_extra_state(self, state) -> None:
        self.scale = state["loss_scale"]

    def train(self, step: int) -> None:
        self.state.weight += step
        self.state.moment += 1
        self.state.step += 1
        self.scale = float(step)


class Timeline:
    """The ledger of a run."""

    def __init__(self, run: Path) -> None:
        self._ledger = Ledger(run)
        self.record = self._ledger.record

    def sync(self) -> None: ...


def position(step: int, *, scheduled: bool = True, **more: object) -> Position:
    return Position(
        step=step,
        tokens=step * 256,
        cursor=step * 8,
        decisions=0,
        attempt=1,
        loss=2.0,
        probe_loss=2.0,
        window=Window(),
        world_size=1,
        zero=2,
        versions={},
        scheduled=scheduled,
        **more,
    )


class Run:
    """A run that adds numbers."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        (folder / folders.FOLDER).mkdir(exist_ok=True)
        settings = {"every_steps": 10, "keep_last": 2, "every_minutes": 0.0, "anchor_steps": 0} | settings
        self.config = RunConfig(model={"vocab_size": 8}, checkpoint=Checkpoint(**settings), spike=SPIKE)
        self.engine = Engine()
        self.told: list[str] = []
        self.saver = saving.Saver(
            folder, self.config, self.engine, Alone(), Timeline(folder), last_step=1000, notice=self.told.append
        )
        self.step = 0

    def to(self, last: int, *, by_clock: bool = False) -> Run:
        while self.step < last:
            self.step += 1
            self.engine.train(self.step)
            make = lambda scheduled: position(self.step, scheduled=scheduled)  # noqa: E731
            self.saver.after_step(self.step, make, by_clock=by_clock and self.step == last)
        return self

    @property
    def steps(self) -> list[int]:
        return folders.steps_of(self.folder)

    def events(self) -> list[dict[str, object]]:
        return list(read_lines(self.folder / "events.jsonl"))


SPIKE = Spike(back_off=20, raised_steps=4, skip_horizon=3)


@pytest.fixture
def slow(monkeypatch):
    """Writing waits until it is let go."""
    gate = threading.Event()
    write = checkpoints.write_share

    def waiting(*arguments):
        assert gate.wait(20)
        return write(*arguments)

    monkeypatch.setattr(checkpoints, "write_share", waiting)
    return gate


def test_the_training_goes_on_while_a_save_is_written_and_what_is_written_is_the_step_it_is_named_after(tmp_path, slow):
    run = Run(tmp_path).to(14)
    assert run.steps == [], "still writing"
    assert [event["event"] for event in run.events()] == ["saving"]
    slow.set()
    run.saver.finish()
    assert run.steps == [10]
    saved = folders.open_checkpoint(tmp_path, 10)
    other = Engine()
    found = checkpoints.load(saved, other, Alone())
    assert (found, other.scale, other.state.made) == (position(10), 10.0, 1)
    assert torch.equal(other.state.weight, torch.full((4, 2), 55.0))
    assert (other.state.moment.tolist(), float(other.state.step)) == ([10.0] * 8, 10.0)
    event = run.events()[-1]
    assert (event["event"], event["step"]) == ("save", 10)
    assert 0 < event["stall_seconds"] <= event["seconds"]
    weights, moments = (path.stat().st_size for path in (saved.shares("weights")[0], saved.shares("moments")[0]))
    assert event["bytes"] > weights + moments
    assert run.to(16).steps == [10]


def test_the_next_save_waits_for_the_one_before(tmp_path, slow):
    run = Run(tmp_path).to(19)
    threading.Timer(0.2, slow.set).start()
    run.to(20)
    run.saver.finish()
    assert run.steps == [10, 20]
    assert [event["event"] for event in run.events()] == ["saving", "save"] * 2


def test_a_save_that_waits_leaves_nothing_to_wait_for(tmp_path):
    assert Run(tmp_path, asynchronous=False).to(10).steps == [10]
    run = Run(tmp_path).to(13)
    for _ in range(2):
        run.saver.save_now(13, lambda scheduled: position(13, scheduled=scheduled))
    assert [event["step"] for event in run.events() if event["event"] == "saving"] == [10, 10, 13]


def failing(monkeypatch, times: int) -> list[list[int]]:
    write, asked = checkpoints.write_share, []

    def full(temporary, snapshot, rank):
        asked.append(folders.steps_of(temporary.parents[1]))
        if len(asked) <= times:
            (temporary / "begun").write_bytes(b"x")
            raise OutputError("cannot write: no space left on device", where=str(temporary))
        return write(temporary, snapshot, rank)

    monkeypatch.setattr(checkpoints, "write_share", full)
    return asked


def test_a_full_disk_is_made_room_on_and_tried_once_more(tmp_path, monkeypatch):
    run = Run(tmp_path).to(39)
    run.saver.finish()
    assert run.steps == [10, 20, 30]
    asked = failing(monkeypatch, times=1)
    run.to(40).saver.finish()
    assert asked == [[10, 20, 30], [20, 30]], "what the new one pushes out went before the second try"
    assert "trying again: " in run.told[0]
    assert "no space left" in run.told[0]
    failed = next(event for event in run.events() if event["event"] == "save failed")
    assert (failed["step"], failed["tries"]) == (40, 1)
    assert run.steps == [20, 30, 40]
    checkpoints.load(folders.open_checkpoint(tmp_path, 40), run.engine, Alone())
    assert float(run.engine.state.step) == 40, "what was written the second time is the same step"


def test_a_disk_that_stays_full_ends_the_run_with_the_last_good_one_kept(tmp_path, monkeypatch):
    run = Run(tmp_path).to(39)
    run.saver.finish()
    failing(monkeypatch, times=2)
    with pytest.raises(OutputError, match="no space left"):
        run.to(40).saver.finish()
    assert run.steps[-1] == 30
    assert not list((tmp_path / folders.FOLDER).glob("*.tmp"))
    assert folders.newest_verified(tmp_path).step == 30


def test_a_checkpoint_that_somebody_reads_on_a_network_disk_is_replaced_and_removed_all_the_same(tmp_path, monkeypatch):
    def held_open(path, ignore_errors=False):
        """NFS keeps an open file as .nfs…, so its folder cannot be removed."""
        if path.exists() and not ignore_errors:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    run = Run(tmp_path).to(20)
    run.saver.finish()
    monkeypatch.setattr(shutil, "rmtree", held_open)
    for _ in range(2):
        run.step = 10  # as after a rollback
        run.to(20)
        run.saver.finish()
    checkpoints.remove(tmp_path, [20])
    assert run.steps == [10]
    assert not any(event["event"] == "save failed" for event in run.events())
    monkeypatch.undo()
    assert len(list((tmp_path / folders.FOLDER).glob(".trash_*"))) == 3
    checkpoints.clear_leftovers(tmp_path)
    assert not list((tmp_path / folders.FOLDER).glob(".trash_*"))


def test_a_folder_that_cannot_be_made_is_a_failed_save(tmp_path, monkeypatch):
    run = Run(tmp_path).to(10)
    run.saver.finish()
    begin = checkpoints.begin
    calls: list[Path] = []

    def refused(temporary):
        calls.append(temporary)
        if len(calls) == 1:
            raise OutputError("cannot write: read-only file system", where=str(temporary))
        begin(temporary)

    monkeypatch.setattr(checkpoints, "begin", refused)
    run.to(20).saver.finish()
    assert run.steps == [10, 20]


def test_the_clock_saves_in_between_and_what_it_saved_goes_with_the_next(tmp_path, monkeypatch):
    run = Run(tmp_path, every_minutes=1.0).to(13)
    run.saver.finish()
    assert not run.saver.is_late()
    later = saving.time.monotonic() + 61
    monkeypatch.setattr(saving.time, "monotonic", lambda: later)
    assert run.saver.is_late()
    run.to(14, by_clock=True).saver.finish()
    assert not run.saver.is_late()
    assert run.steps == [10, 14]
    assert not checkpoints.position_of(folders.open_checkpoint(tmp_path, 14)).scheduled
    run.to(20).saver.finish()
    assert run.steps == [10, 20]


STEPS = st.lists(st.integers(0, 300), min_size=1, unique=True)


@given(STEPS, st.sets(st.integers(0, 300)), st.integers(2, 4), st.integers(0, 120), st.sampled_from([0, 30]))
def test_the_clock_changes_nothing_of_what_is_kept_of_the_schedule(steps, unscheduled, last, back_off, every):
    present = [Saved(step=step) for step in steps]
    more = [Saved(step=step, scheduled=False) for step in unscheduled - set(steps)]
    keep = kept(present, keep_last=last, back_off=back_off, keep_every=every)
    both = kept([*more, *present], keep_last=last, back_off=back_off, keep_every=every)
    assert both & set(steps) == keep
    assert both - keep <= {max(saved.step for saved in [*more, *present])}
    rising = sorted(steps)
    assert set(rising[-last:]) <= keep
    assert {step for step in steps if every and step and step % every == 0} <= keep
    far = [step for step in rising if step <= rising[-1] - back_off]
    assert (far[-1:] or rising[:1])[0] in keep
    assert kept(present, keep_last=last, back_off=None) <= keep


def test_the_best_of_all_and_of_each_phase_are_kept():
    losses = {10: (3.0, 0), 20: (2.0, 0), 30: (2.0, 0), 40: (None, 1), 50: (4.0, 1), 60: (5.0, 1), 70: (6.0, 1)}
    present = [Saved(step=step, validation_loss=loss, phase=phase) for step, (loss, phase) in losses.items()]
    assert kept(present, keep_last=2, back_off=None) == {20, 50, 60, 70}
    assert best(present) == present[1]
    assert best(present[3:4]) is None
    assert kept([], keep_last=2, back_off=5) == set()


def test_the_best_checkpoint_is_named(tmp_path):
    run = Run(tmp_path)
    for step, loss in ((10, 3.0), (20, 2.5), (30, 2.6), (40, 2.7), (50, 2.8)):
        run.saver.save_now(step, lambda _, step=step, loss=loss: position(step, validation_loss=loss))
    assert (tmp_path / folders.FOLDER / "best").read_text() == "step_00000020\n"
    assert 20 in run.steps


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


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self):
        return os.mkdir, (str(self.sprung),)


@pytest.mark.parametrize("name", ["weights_00000.safetensors", "moments_00000.safetensors", "random_00000.json"])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_pickle_in_a_checkpoint_with_a_fitting_manifest_is_refused_and_runs_nothing(tmp_path, name, form):
    Run(tmp_path).to(10).saver.finish()
    saved = tmp_path / folders.FOLDER / folders.name_of(10)
    trap = Trap(tmp_path / "sprung")
    if form == "bare":
        (saved / name).write_bytes(pickle.dumps(trap, protocol=2))
    else:
        torch.save({"x": trap}, saved / name, _use_new_zipfile_serialization=form == "zip")
    manifest = read_folder_manifest(saved)
    fitting = msgspec.structs.replace(manifest, files=list_files(saved, [entry.path for entry in manifest.files]))
    (saved / "manifest.json").write_bytes(encode_manifest(fitting))
    found = folders.newest_verified(tmp_path)
    with pytest.raises(InputError):
        checkpoints.load(found, Engine(), Alone())
    assert not (tmp_path / "sprung").exists()
    if form == "bare":
        pickle.loads((saved / name).read_bytes())
        assert (tmp_path / "sprung").exists(), "the file was able to"


def test_random_numbers_go_on_where_they_were(tmp_path):
    import random

    import numpy as np

    def draw() -> tuple[object, ...]:
        return random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), torch.rand(3).tolist()  # noqa: NPY002

    draw()
    Run(tmp_path).to(10).saver.finish()
    expected = draw()
    checkpoints.load(folders.open_checkpoint(tmp_path, 10), Engine(), Alone())
    assert draw() == expected


def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch):
    def full(sink, tensors):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = Run(tmp_path)
    monkeypatch.setattr(checkpoints, "write_tensors", full)
    with pytest.raises(OutputError, match=r"weights_00000\.safetensors: cannot write: no space left"):
        run.to(10).saver.finish()


def test_what_a_name_is_given_to_is_on_the_disk_and_the_name_is_too(tmp_path, monkeypatch):
    done: list[tuple[str, str]] = []
    sync, rename = os.fsync, os.rename

    def synced(descriptor):
        done.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        sync(descriptor)

    def renamed(source, target):
        done.append(("rename", Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    Run(tmp_path).to(10).saver.finish()
    before, after = done[: done.index(("rename", "step_00000010"))], done[done.index(("rename", "step_00000010")) + 1 :]
    written = {name for what, name in before if what == "sync"}
    assert {"weights_00000.safetensors", "moments_00000.safetensors", "step_00000010.tmp"} <= written
    assert any("random_00000" in name for name in written)
    assert any("manifest" in name for name in written)
    assert before[-1] == ("sync", "step_00000010.tmp")
    assert after[0] == ("sync", folders.FOLDER)


def killed_at(operation: int, folder: Path, first: int, last: int) -> bool:
    """Train on in a process that ends, as `kill -9` would, before its n-th touch of the checkpoints; whether it did."""
    child = os.fork()
    if child == 0:
        left = operation

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in TOUCHES and any(folders.FOLDER in str(argument) for argument in arguments):
                left -= 1
                if left < 0:
                    os._exit(9)

        os.fsync = lambda descriptor: count("os.fsync", (folders.FOLDER,))
        sys.addaudithook(count)
        try:
            run = Run(folder)
            run.saver.go_back_to(first, open_saved=lambda step: folders.open_checkpoint(folder, step))
            run.step = first
            run.to(last).saver.finish()
        except BaseException:  # noqa: BLE001 (a child of the test must not go on as the test)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


TOUCHES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.fsync"}


def test_a_kill_before_any_touch_of_the_disk_during_a_save_leaves_a_good_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill leaves the system's memory as it is
    before = tmp_path / "before"
    before.mkdir()
    Run(before).to(30).saver.finish()
    assert folders.steps_of(before) == [10, 20, 30]
    reached = set()
    operation = 0
    while True:
        folder = tmp_path / "killed"
        shutil.copytree(before, folder)
        killed = killed_at(operation, folder, 30, 40)
        checkpoints.clear_leftovers(folder)
        assert not [path for path in (folder / folders.FOLDER).iterdir() if path.suffix == ".tmp"]
        newest = folders.newest_verified(folder)
        reached.add(newest.step)
        run = Run(folder)
        run.saver.go_back_to(newest.step, open_saved=lambda step, folder=folder: folders.open_checkpoint(folder, step))
        assert run.engine.state.weight[1, 1] == sum(range(newest.step + 1))
        run.step = newest.step
        run.to(50).saver.finish()
        assert run.engine.state.weight[1, 1] == sum(range(51))
        assert folders.steps_of(folder) == [30, 40, 50]
        assert all(folders.open_checkpoint(folder, step) for step in folders.steps_of(folder))
        shutil.rmtree(folder)
        if not killed:
            break
        operation += 1
    assert reached == {30, 40}
    assert operation > 40, "opening, writing, syncing, naming, publishing and rotating"
