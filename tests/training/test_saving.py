"""Saves beside the training, full disks, the clock, and which checkpoints are kept."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import OutputError
from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import list_files
from ptool.training import checkpoints, saving
from ptool.training.rotation import Saved, best, kept
from tests.training.saves import Alone, Engine, Run, position


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


def test_a_finished_run_lists_the_weights_as_they_were_written_and_reads_none_of_them(tmp_path):
    Run(tmp_path).to(10).saver.finish()
    name = f"checkpoints/step_00000010/{folders.share_name('weights', 0)}"
    listed = folders.weights_entries(tmp_path, 10)
    assert listed == list_files(tmp_path, [name])
    (tmp_path / name).write_bytes(bytes(listed[0].size))
    assert folders.weights_entries(tmp_path, 10) == listed
