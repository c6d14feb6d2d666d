"""Folders that a stage leaves behind: files, and one `manifest.json` that is written last and makes them an artefact.

A folder without its manifest is work that was not finished, and no command reads it. The manifest lists every file with
size and sha256; paths in it are relative and cannot leave the folder. What goes down a pipe is one JSON line,
`{"artefact": "<absolute path>", "manifest": {…}}`, so that the next command finds the folder and knows its history.

Writing in place rather than renaming a whole folder lets a killed run go on with what is missing; `work.json` says
whose unfinished work a folder holds, so that other people's files are never taken for it.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from ptool.errors import DamagedInput, InputError, UsageError
from ptool.formats.atomic import PendingFile, describing_os_errors, is_temporary, sync_file, sync_folder, write_bytes
from ptool.formats.manifests import FileEntry, Manifest, decode_manifest, encode_manifest
from ptool.formats.runs import RunRecord

MANIFEST = "manifest.json"
WORK = "work.json"
_OWN = {MANIFEST, WORK, "run.json"}


def find_artefact(given: str | Path | None, *, stdin: BinaryIO | None = None) -> Path:
    """The folder meant by a path to it, a path to its manifest, or (None, "-") the artefact line on stdin."""
    if given is None or str(given) == "-":
        return _from_line(stdin)
    path = Path(given)
    if path.name == MANIFEST and path.is_file():
        return path.parent
    if not path.is_dir():
        raise InputError("no such folder", where=str(path))
    return path


def open_artefact(folder: Path, *, stage: str, verify: bool = False) -> Manifest:
    """The manifest of a finished artefact of `stage`.

    Checks that every file it lists is there with its size; `verify` also compares the sha256 of each.
    Raises InputError for a folder that is no such artefact, DamagedInput for one that was changed.
    """
    manifest = read_folder_manifest(folder)
    if manifest is None:
        raise InputError("no finished artefact: it has no manifest.json", where=str(folder), hint=f"run ptool {stage}")
    if manifest.stage != stage:
        raise InputError(f"this was made by {manifest.stage}, and the output of {stage} is needed", where=str(folder))
    check_files(folder, manifest, verify=verify)
    return manifest


def read_folder_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None where it has none."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", where=str(path)) from error
    return decode_manifest(data, where=str(path))


def check_files(folder: Path, manifest: Manifest, *, verify: bool) -> None:
    """Raise DamagedInput when a listed file is missing, has another size, or (`verify`) another digest."""
    for entry in manifest.files:
        path = folder / entry.path
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise DamagedInput("the file is a link that leaves its folder", where=str(path))
        if not path.is_file():
            raise DamagedInput("the file is missing", where=str(path), hint="the manifest lists it; make it again")
        size = path.stat().st_size
        if size != entry.size:
            raise DamagedInput(f"the file has {size:,} bytes, the manifest says {entry.size:,}", where=str(path))
        if verify and file_digest(path) != entry.digest:
            raise DamagedInput("the file is not the one the manifest tells of", where=str(path))


def is_whole(folder: Path, manifest: Manifest) -> bool:
    """Whether every file that the manifest lists is there with its size."""
    try:
        check_files(folder, manifest, verify=False)
    except DamagedInput:
        return False
    return True


def artefact_line(folder: Path, manifest: Manifest) -> bytes:
    """What a command prints for the next one to read."""
    return msgspec.json.encode({"artefact": str(folder.resolve()), "manifest": manifest}, order="sorted") + b"\n"


def file_digest(path: Path) -> str:
    """sha256 of a file, as `sha256:<hex>`, so that `sha256sum` can check it."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def list_files(folder: Path, names: list[str]) -> list[FileEntry]:
    """Entries of the named files of a folder, sorted by name."""
    return [
        FileEntry(path=name, size=(folder / name).stat().st_size, digest=file_digest(folder / name))
        for name in sorted(names)
    ]


class DigestingFile:
    """Writes through to a file, and digests what is written in a thread of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._size = 0
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Append; `data` must not change afterwards, since it may still be read."""
        if self._pending is not None:
            self._pending.result()
        self._pending = self._thread.submit(self._hash.update, data)
        self._size += len(data)
        left = memoryview(data)
        while left:  # an unbuffered file takes what fits on the disk and complains only when asked for more
            left = left[self._file.write(left) :]
        return len(data)

    def finish(self) -> tuple[str, int]:
        """The sha256 as `sha256:<hex>`, and the size."""
        self._thread.shutdown()
        return f"sha256:{self._hash.hexdigest()}", self._size


class FolderWriter:
    """Fills a folder with files and makes it an artefact by `commit`.

        with FolderWriter(folder, stage="pack", config=config, force=force) as writer:
            with writer.create("rows.bin") as file: ...
            manifest = writer.commit(new_manifest(...))

    `existing` is the manifest of a finished artefact that is there with the same stage, version and configuration: the
    caller compares its `documents_in` (or what else it was made from) with its own input, and calls `up_to_date` or
    `refuse`. A folder that holds anything else is refused with UsageError unless `force`.
    """

    def __init__(self, folder: Path, *, stage: str, config: dict[str, Any], force: bool = False) -> None:
        from ptool import __version__

        self.folder = folder
        self.existing: Manifest | None = None
        self._work = {"stage": stage, "version": __version__, "config": config}
        self._names: list[str] = []
        self._retained: set[str] = set()
        self._entries: dict[str, FileEntry] = {}
        self._force = force
        self._started = False
        self._record = RunRecord()
        found = read_folder_manifest(folder) if folder.is_dir() else None
        if found is not None:
            if (found.stage, found.version, found.config) == (stage, __version__, config):
                self.existing = None if force else found
            elif not force:
                self.refuse(f"was made otherwise, by {found.stage} {found.version}")
        elif folder.exists() and not folder.is_dir():
            raise UsageError("the output is a file, and a folder is needed", where=str(folder))
        elif folder.is_dir() and not force and not self._is_our_work():
            self.refuse("holds other files")

    def refuse(self, why: str) -> None:
        """Raise the UsageError for an output that is there and is not this work."""
        raise UsageError(f"the output is there and {why}", where=str(self.folder), hint="--force replaces it")

    def __enter__(self) -> Self:
        with describing_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if is_temporary(path):
                with suppress(OSError):
                    path.unlink()
        # From here on this is no artefact until it is committed.
        old = read_folder_manifest(self.folder)
        if old is not None:
            with describing_os_errors(self.folder):
                (self.folder / MANIFEST).unlink()
                for entry in old.files:
                    (self.folder / entry.path).unlink(missing_ok=True)
        write_bytes(self.folder / WORK, msgspec.json.encode(self._work, order="sorted") + b"\n")
        self._started = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._started:
            for name in [*self._names, WORK]:
                if name not in self._retained:
                    with suppress(OSError):
                        (self.folder / name).unlink()
            with suppress(OSError):
                self.folder.rmdir()  # only when nothing of anybody else is in it

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A binary file of the artefact; it gets its name when the block ends."""
        pending = PendingFile(self.folder / name)
        try:
            with describing_os_errors(pending.path):
                yield pending.file
            pending.publish()
        except BaseException:
            pending.discard()
            raise
        self._names.append(name)

    @contextmanager
    def create_digested(self, name: str) -> Iterator[BinaryIO]:
        """As `create`, for large files that are written from start to end: digested meanwhile, and not read again.

        They are brought to the disk by `commit`, all together, before the manifest is there.
        """
        pending = PendingFile(self.folder / name)
        digesting = DigestingFile(pending.file)
        try:
            with describing_os_errors(pending.path):
                yield digesting  # type: ignore[misc]  # of a file it has what writers use
                digest, size = digesting.finish()
            pending.publish(durable=False)
        except BaseException:
            pending.discard()
            raise
        self._names.append(name)
        self._entries[name] = FileEntry(path=name, size=size, digest=digest)

    def copy(self, source: Path, name: str) -> None:
        """Put a copy of a file into the artefact."""
        with self.create(name) as file:
            file.write(source.read_bytes())

    def adopt(self, name: str) -> None:
        """Count a file that is in the folder already, whole, as one of the artefact's."""
        self._names.append(name)

    def retain(self, names: Iterable[str]) -> None:
        """Leave these files there when the work is stopped, for the next run to go on from."""
        self._retained |= {*names, WORK}

    def release(self) -> None:
        """Take back what `retain` said."""
        self._retained.clear()

    def commit(self, manifest: Manifest) -> Manifest:
        """List and digest the files, and write the manifest: now this is an artefact."""
        for name in self._entries:
            sync_file(self.folder / name)
        known = [self._entries[name] for name in self._names if name in self._entries]
        others = list_files(self.folder, [name for name in self._names if name not in self._entries])
        files = sorted([*known, *others], key=lambda entry: entry.path)
        whole = msgspec.structs.replace(manifest, files=files)
        self._record.write(self.folder)
        write_bytes(self.folder / MANIFEST, encode_manifest(whole) + b"\n")
        with suppress(OSError):
            (self.folder / WORK).unlink()
            sync_folder(self.folder)
        return whole

    def _is_our_work(self) -> bool:
        names = [path for path in self.folder.iterdir() if not is_temporary(path)]
        if not names:
            return True
        try:
            found = msgspec.json.decode((self.folder / WORK).read_bytes())
        except (OSError, msgspec.DecodeError):
            return False
        return bool(found == msgspec.json.decode(msgspec.json.encode(self._work)))


def _from_line(stdin: BinaryIO | None) -> Path:
    stream = stdin if stdin is not None else sys.stdin.buffer
    data = stream.read(256 << 20)
    if not data.strip():
        raise DamagedInput("upstream failed: there is no artefact line", where="stdin")
    try:
        line = msgspec.json.decode(data)
        path = Path(line["artefact"])
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise InputError(
            "not an artefact line", where="stdin", hint='one line {"artefact": …} is expected, as ptool pack prints it'
        ) from error
    if not path.is_dir():
        raise InputError("the artefact is not there", where=os.fspath(path))
    return path
