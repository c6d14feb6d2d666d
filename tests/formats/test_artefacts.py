"""Folders become artefacts by their manifest, and anything else is refused."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest

from ptool.errors import DamagedInput, InputError, PtoolError, UsageError
from ptool.formats.artefacts import FolderWriter, artefact_line, find_artefact, open_artefact
from ptool.formats.manifests import Manifest, new_manifest


def make(folder: Path, config: dict[str, object] | None = None, *, force: bool = False) -> Manifest:
    settings = config or {"a": 1}
    with FolderWriter(folder, stage="pack", config=settings, force=force) as writer:
        with writer.create("rows.bin") as file:
            file.write(b"rows")
        return writer.commit(new_manifest("pack", settings, num_tokens=4))


def test_a_finished_folder_is_found_by_path_manifest_or_line(tmp_path: Path) -> None:
    folder = tmp_path / "packed 文"
    manifest = make(folder)
    line = artefact_line(folder, manifest)
    assert json.loads(line)["manifest"]["num_tokens"] == 4
    assert line.count(b"\n") == 1
    for given, stdin in ((str(folder), b""), (str(folder / "manifest.json"), b""), (None, line), ("-", line)):
        assert find_artefact(given, stdin=io.BytesIO(stdin)).resolve() == folder
    assert open_artefact(folder, stage="pack", verify=True) == manifest


@pytest.mark.parametrize("line", [b"", b"  \n"])
def test_an_empty_stdin_is_a_failed_upstream(line: bytes) -> None:
    with pytest.raises(DamagedInput, match="upstream failed"):
        find_artefact(None, stdin=io.BytesIO(line))


@pytest.mark.parametrize("line", [b"hello\n", b"[1]\n", b'{"artefact": 3}\n', b'{"artefact": "/no/such"}\n'])
def test_a_line_that_names_no_artefact_is_refused(line: bytes) -> None:
    with pytest.raises(InputError):
        find_artefact(None, stdin=io.BytesIO(line))


def test_a_folder_without_manifest_is_no_artefact(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no finished artefact.*ptool pack"):
        open_artefact(tmp_path, stage="pack")


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "link"])
def test_a_changed_file_is_noticed(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "packed"
    make(folder)
    path = folder / "rows.bin"
    if damage == "cut":
        path.write_bytes(b"row")
    if damage == "flip":
        path.write_bytes(b"rowt")
    if damage in ("missing", "link"):
        path.unlink()
    if damage == "link":
        (tmp_path / "outside").write_bytes(b"rows")
        path.symlink_to(tmp_path / "outside")
    with pytest.raises(DamagedInput):
        open_artefact(folder, stage="pack", verify=damage == "flip")  # the others are seen without reading the files


def test_the_output_of_another_stage_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "packed")
    with pytest.raises(InputError, match="made by pack"):
        open_artefact(tmp_path / "packed", stage="tokenize")


def test_equal_work_is_offered_as_existing_and_other_work_refused(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    manifest = make(folder)
    assert FolderWriter(folder, stage="pack", config={"a": 1}).existing == manifest
    with pytest.raises(UsageError, match="made otherwise"):
        FolderWriter(folder, stage="pack", config={"a": 2})
    assert FolderWriter(folder, stage="pack", config={"a": 2}, force=True).existing is None


def test_other_peoples_files_are_never_touched(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="other files"):
        make(folder)
    make(folder, force=True)
    make(folder, {"a": 2}, force=True)
    assert (folder / "letter.txt").read_text() == "dear"


def test_a_failure_leaves_nothing_and_a_kill_leaves_no_artefact(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    with pytest.raises(RuntimeError), FolderWriter(folder, stage="pack", config={}) as writer:
        with writer.create("rows.bin") as file:
            file.write(b"rows")
        raise RuntimeError
    assert not folder.exists()
    writer = FolderWriter(folder, stage="pack", config={"a": 1})
    writer.__enter__()
    with writer.create("rows.bin") as file:
        file.write(b"row")
    with pytest.raises(PtoolError):
        open_artefact(folder, stage="pack")  # as a kill would leave it
    manifest = make(folder)
    assert open_artefact(folder, stage="pack") == manifest
    assert (folder / "rows.bin").read_bytes() == b"rows"


def test_what_is_digested_while_it_is_written_is_listed_like_any_other_file(tmp_path: Path) -> None:
    pieces = [bytes([number]) * (number * 1000) for number in range(40)]
    with FolderWriter(tmp_path / "p", stage="pack", config={}) as writer:
        for name, create in (("digested", writer.create_digested), ("read again", writer.create)):
            with create(name) as file:
                for piece in pieces:
                    file.write(piece)
        with writer.create_digested("empty"):
            pass
        manifest = writer.commit(new_manifest("pack", {}))
    entries = {entry.path: entry for entry in manifest.files}
    assert entries["digested"].digest == entries["read again"].digest
    assert entries["digested"].digest == f"sha256:{hashlib.sha256(b''.join(pieces)).hexdigest()}"
    assert (entries["digested"].size, entries["empty"].size) == (sum(map(len, pieces)), 0)
    open_artefact(tmp_path / "p", stage="pack", verify=True)


def test_a_digested_file_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), FolderWriter(tmp_path / "p", stage="pack", config={}) as writer:
        with writer.create_digested("whole") as file:
            file.write(b"1")
        with writer.create_digested("half") as file:
            file.write(b"1")
            raise ZeroDivisionError
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("released", [False, True])
def test_what_is_retained_stays_when_the_work_stops_and_is_adopted_by_the_next(tmp_path: Path, released: bool) -> None:
    folder = tmp_path / "p"
    with pytest.raises(KeyboardInterrupt), FolderWriter(folder, stage="pack", config={"a": 1}) as writer:
        for name in ("kept", "lost"):
            with writer.create(name) as file:
                file.write(name.encode())
        writer.retain(["kept"])
        if released:
            writer.release()
        raise KeyboardInterrupt
    if released:
        assert not folder.exists()
        return
    assert sorted(path.name for path in folder.iterdir()) == ["kept", "work.json"]
    with pytest.raises(InputError, match="no finished artefact"):
        open_artefact(folder, stage="pack")
    with pytest.raises(UsageError, match="holds other files"):
        FolderWriter(folder, stage="pack", config={"a": 2})
    with FolderWriter(folder, stage="pack", config={"a": 1}) as writer:
        writer.adopt("kept")
        manifest = writer.commit(new_manifest("pack", {"a": 1}))
    assert [(entry.path, entry.size) for entry in manifest.files] == [("kept", 4)]
    assert sorted(path.name for path in folder.iterdir()) == ["kept", "manifest.json", "run.json"]
    open_artefact(folder, stage="pack", verify=True)
