"""Locks where the file system has none (test_history.py has those that hold)."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from ptool.training import locks


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_trained_on_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    assert locks.Lock(tmp_path, "launcher").guards
    monkeypatch.setattr(fcntl, "flock", refused)
    lock = locks.acquire(tmp_path, locks.rank_name(0))
    assert not lock.guards
    assert json.loads((tmp_path / locks.FOLDER / "rank_00000").read_text())["pid"] == os.getpid()
    locks.expect_no_ranks(tmp_path)
    monkeypatch.setattr(fcntl, "flock", lambda *_: os.open(tmp_path / "not" / "there", os.O_RDONLY))
    with pytest.raises(FileNotFoundError):
        locks.acquire(tmp_path, "launcher")
