"""Shingle sets on disk: gone when the process is, allocated before use, and never memory in silence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from ptool.dedup.config import DedupConfig
from ptool.dedup.documents import dedup_documents
from ptool.dedup.resolver import Resolver
from ptool.dedup.spool import ShingleSpool, is_in_memory
from ptool.errors import OutputError, PtoolError, UsageError
from tests.dedup.reference import mutated_texts


class Notices:
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, text: str) -> None:
        self.said.append(text)

    def progress(self, done: int, total: int | None, *, unit: str, detail: str = "") -> None:
        pass


def test_values_survive_growing_and_the_folder_stays_empty(tmp_path: Path) -> None:
    spool = ShingleSpool(tmp_path)
    spool.reserve(1, 10)
    spool.values[:10] = np.arange(10)
    spool.ends.array[0, 0] = 10
    spool.reserve(2, 3_000_000)
    spool.values[10:3_000_000] = 7
    assert spool.values[:11].tolist() == [*range(10), 7]
    assert spool.size_of(1) == 10
    assert list(tmp_path.iterdir()) == []  # no name, so nothing to be left behind by any signal
    spool.close()


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(OutputError, match="no space left on device"):
        list(dedup_documents({"text": text} for text in mutated_texts(0, num_families=2, copies=2)))


def test_the_longest_mount_point_above_a_folder_tells_whether_it_is_memory(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 0:1 / / rw - ext4 /dev/a rw\n"
        f"2 1 0:2 / {tmp_path} rw - tmpfs tmpfs rw\n"
        f"3 1 0:3 / {tmp_path}/disk rw - xfs /dev/b rw\n"
    )
    assert is_in_memory(tmp_path / "deep/er", mounts)
    assert not is_in_memory(tmp_path / "disk/x", mounts)
    assert not is_in_memory(Path("/"), mounts)


@pytest.mark.skipif(not is_in_memory(Path("/dev/shm")), reason="no tmpfs here")
def test_a_spool_in_memory_is_said() -> None:
    notices = Notices()
    ShingleSpool(Path("/dev/shm"), reporter=notices).close()
    assert "in memory (tmpfs)" in notices.said[0]


def test_a_missing_folder_is_refused() -> None:
    with pytest.raises(UsageError, match="missing"):
        ShingleSpool(Path("/absent"))


def test_an_index_that_outgrows_its_memory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PtoolError, match="--plan files"):
        Resolver(DedupConfig(), spool_folder=tmp_path, max_memory=1000).resolve(_three())


def _three():  # type: ignore[no-untyped-def]
    from ptool.dedup.signatures import describe
    from ptool.text.batch import Batch

    batch = Batch.from_texts(["a b", "c d", "e"])
    return describe(batch.text, batch.offsets, DedupConfig())
