"""What a checkpoint is safe from: foreign pickles, a disk that lies, kills at any touch of it."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from ptool.errors import InputError, OutputError
from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import list_files, read_folder_manifest
from ptool.formats.manifests import encode_manifest
from ptool.training import checkpoints
from tests.training.saves import Alone, Engine, Run


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
