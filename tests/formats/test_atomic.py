"""A file is there whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ptool.errors import OutputError
from ptool.formats import atomic
from ptool.formats.atomic import PendingFile, replacing, temporary_name, write_bytes


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "名 a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OutputError, match="no space left on device"), replacing(tmp_path / "a") as file:
        file.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_several_outputs_are_sealed_before_one_is_published(tmp_path: Path) -> None:
    first, second = PendingFile(tmp_path / "a"), PendingFile(tmp_path / "b")
    first.file.write(b"1")
    first.seal()
    assert not (tmp_path / "a").exists()
    second.discard()
    first.discard()
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_and_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # as root, /dev/null
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder"):
        with pytest.raises(OutputError, match="is no file"):
            write_bytes(tmp_path / name, b"x")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


def test_a_missing_folder_is_named_with_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="mkdir -p") as caught:
        write_bytes(tmp_path / "missing" / "a", b"")
    assert str(tmp_path / "missing" / "a") in str(caught.value)


def test_kill_leaves_the_old_file_and_the_next_writer_clears_up(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    script = (
        "import os, pathlib, signal, sys\n"
        "from ptool.formats.atomic import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'n' * 5_000_000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, path], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    write_bytes(path, b"new")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"new"]


def test_a_folder_is_listed_once_for_all_that_a_process_writes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    scandir = os.scandir

    def listing(folder: str) -> object:
        listed.append(str(folder))
        return scandir(folder)

    monkeypatch.setattr(atomic.os, "scandir", listing)
    other = subprocess.Popen(["sleep", "60"])
    left = tmp_path / f".b7.{atomic._host()}-{other.pid}-01234567.part"
    left.touch()
    for number in range(20):
        write_bytes(tmp_path / f"b{number}", b"x")
    assert left.exists(), "its process lives"
    other.kill()
    other.wait()
    write_bytes(tmp_path / "b7", b"x")
    assert not left.exists()
    assert listed == [str(tmp_path)]
    assert len(list(tmp_path.iterdir())) == 20


def test_a_living_writers_temporary_is_left_alone(tmp_path: Path) -> None:
    other = temporary_name(tmp_path / "a")
    other.write_bytes(b"in the making")
    write_bytes(tmp_path / "a", b"done")
    assert other.exists()
