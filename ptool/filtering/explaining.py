"""What happened to one document: looked up in streams, rejects and folders, with what their manifests say.

A stream is read from its start to the document (500 MB/s: only lines that hold the id's bytes are decoded); folders
have an index of ids, and a run leads to the packed folders that its config.toml names. Nothing is guessed: a stage that
dropped documents and whose rejects are not among the paths is named, because the document may be there.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ptool.errors import InputError
from ptool.formats.artefacts import MANIFEST
from ptool.formats.documents import DocumentTable
from ptool.formats.folders import PLAN
from ptool.formats.manifests import Manifest, decode_manifest
from ptool.formats.stages import read_manifest
from ptool.formats.streams import STDIN, Lines, StreamReader
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import Keys

_RUN_CONFIG = "config.toml"


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """The document at one place. `event` is kept, dropped, rejected, or what a folder's stage did with it."""

    path: str
    event: str
    stage: str | None = None
    reason: dict[str, Any] = {}
    line: int | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """All sightings of a document, and the stages that may have dropped it where nobody looked."""

    id: str
    sightings: list[Sighting]
    unseen: list[str]


def explain(
    identity: str, paths: Sequence[str], *, keys: Keys | None = None, reporter: Reporter = SILENT
) -> Explanation:
    """What `paths` (streams, rejects, tok/, packed/ and run folders) know of the document `identity`.

    Raises InputError for a path that is neither.
    """
    keys = keys or Keys()
    sightings: list[Sighting] = []
    manifests: list[Manifest] = []
    looked_at: set[str] = set()
    missing: list[str] = []
    waiting = list(dict.fromkeys(paths))
    seen = {Path(path).resolve() for path in waiting}
    while waiting:
        path = waiting.pop(0)
        if path != STDIN and Path(path).is_dir():
            found, manifest = _in_folder(identity, Path(path))
            for folder in _packed_folders(Path(path)):
                if not folder.is_dir():
                    missing.append(f"{path} was trained on {folder}, which is not there")
                elif folder.resolve() not in seen:
                    seen.add(folder.resolve())
                    waiting.append(str(folder))
        else:
            found, manifest = _in_stream(identity, path, keys, reporter)
        sightings += found
        if manifest is not None and manifest.details.get("stream") == "rejects":
            looked_at.add(_work(manifest))
        elif manifest is not None:
            manifests.append(manifest)
    return Explanation(id=identity, sightings=sightings, unseen=[*missing, *_unseen(manifests, looked_at)])


def _in_stream(identity: str, path: str, keys: Keys, reporter: Reporter) -> tuple[list[Sighting], Manifest | None]:
    needles = {spelled[1:-1].encode() for spelled in (json.dumps(identity), json.dumps(identity, ensure_ascii=False))}
    number = identity.rpartition("#")[2]
    if number.isdigit():  # a line that was no document has no id, and is known by its place
        needles.add(f'"line":{number}'.encode())
    found: list[Sighting] = []
    reader = StreamReader([path], reporter=reporter, allow_empty=True)
    for lines in reader:
        numbered = _has_number(identity, lines)
        if numbered or any(needle in lines.data for needle in needles):
            found += _in_lines(identity, lines, path, keys)
    manifest = read_manifest(Path(path)) if path != STDIN else next(iter(reader.upstream), None)
    return found, manifest


def _has_number(identity: str, lines: Lines) -> bool:
    """Whether the id is one that a line of the batch gets by its place, `<file>#<line>`."""
    origin, _, number = identity.rpartition("#")
    if origin != lines.origin or not number.isdigit():
        return False
    return 0 <= int(number) - lines.first_number < lines.data.count(b"\n") + 1


def _in_lines(identity: str, lines: Lines, path: str, keys: Keys) -> list[Sighting]:
    found = []
    for number, line in enumerate(lines.data.split(b"\n"), start=lines.first_number):
        try:
            document = msgspec.json.decode(line) if line.strip() else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if not isinstance(document, dict):
            continue
        reason = document.get("ptool")
        reason = reason if isinstance(reason, dict) and "stage" in reason else None
        if document.get(keys.id, f"{lines.origin}#{number}") != identity and not _was(identity, reason):
            continue
        if reason is None:
            found.append(Sighting(path=path, event="kept", line=number))
            continue
        rest = {key: value for key, value in reason.items() if key != "stage"}
        event = "dropped" if "rule" in reason else "rejected"
        found.append(Sighting(path=path, event=event, stage=str(reason["stage"]), reason=rest, line=number))
    return found


def _was(identity: str, reason: dict[str, Any] | None) -> bool:
    """Whether a rejected line, which has no id, stood at `<file>#<line>`."""
    if reason is None or "line" not in reason:
        return False
    return identity == f"{Path(str(reason.get('file'))).name}#{reason['line']}"


def _in_folder(identity: str, folder: Path) -> tuple[list[Sighting], Manifest | None]:
    file = folder / MANIFEST
    manifest = decode_manifest(file.read_bytes(), where=str(file)) if file.is_file() else None
    found = []
    for table in sorted(folder.glob("*.docs")):
        documents = DocumentTable(folder, table.stem)
        found += [
            Sighting(
                path=str(folder),
                event=f"in {table.stem}",
                stage=manifest.stage if manifest is not None else None,
                reason={
                    "document": index,
                    "num_tokens": int(documents.records["num_tokens"][index]),
                    "num_bytes": int(documents.records["num_bytes"][index]),
                },
            )
            for index in _rows_of(identity.encode("utf-8", "surrogatepass"), documents)
        ]
    if manifest is None and not found and not any((folder / name).is_file() for name in (PLAN, _RUN_CONFIG)):
        raise InputError("no manifest.json: the folder is no finished artefact", where=str(folder))
    return found, manifest


def _packed_folders(folder: Path) -> list[Path]:
    """The packed folders that a run was trained on, as its config.toml names them; nothing for other folders."""
    file = folder / _RUN_CONFIG
    if not file.is_file():
        return []
    try:
        packed = tomllib.loads(file.read_text(encoding="utf-8")).get("data", {}).get("packed", [])
    except (OSError, ValueError) as error:
        raise InputError(f"the run's configuration cannot be read: {error}", where=str(file)) from error
    return [Path(os.path.normpath(folder.parent / one)) for one in ([packed] if isinstance(packed, str) else packed)]


def _rows_of(identity: bytes, documents: DocumentTable) -> list[int]:
    """The rows whose id is `identity`, by a search for its bytes."""
    ends = documents.records["id_end"]
    if not len(ends):
        return []
    data = documents.raw_ids(0, int(ends[-1]))
    rows = []
    at = data.find(identity)
    while at >= 0:
        row = int(ends.searchsorted(at, side="right"))
        start = int(ends[row - 1]) if row else 0
        if start == at and int(ends[row]) == at + len(identity):
            rows.append(row)
        at = data.find(identity, at + 1)
    return rows


def _work(manifest: Manifest) -> str:
    """What tells one stage's work from another's."""
    return json.dumps([manifest.stage, manifest.config], sort_keys=True)


def _unseen(manifests: Sequence[Manifest], looked_at: set[str]) -> list[str]:
    """Stages along the chains that dropped documents into rejects that were not among the paths."""
    unseen: dict[str, str] = {}
    waiting = list(manifests)
    while waiting:
        manifest = waiting.pop(0)
        counts = manifest.counts
        lost = 0 if counts is None else counts.dropped + counts.rejected
        if lost and _work(manifest) not in looked_at:
            unseen[_work(manifest)] = (
                f"{manifest.stage} dropped {lost:,} documents; its rejects are not among the paths"
            )
        waiting.extend(manifest.upstream)
    return list(unseen.values())


def explanation_rows(found: Explanation) -> list[list[str]]:
    """A line for each sighting: where, what happened, and why."""
    return [
        [
            sighting.path + (f":{sighting.line}" if sighting.line is not None else ""),
            sighting.event if sighting.stage is None else f"{sighting.event} ({sighting.stage})",
            _why(sighting.reason),
        ]
        for sighting in found.sightings
    ]


def _why(reason: dict[str, Any]) -> str:
    if "rule" not in reason or "accept" not in reason:
        return ", ".join(f"{key} {_short(value)}" for key, value in reason.items())
    low, high = reason["accept"]
    bounds = " to ".join("any" if bound is None else f"{bound:g}" for bound in (low, high))
    text = f"{reason['rule']} is {_short(reason.get('value'))}, accepted {bounds}"
    if "chars" in reason:
        before, after = reason["chars"]
        text += f"; edited from {before} to {after} characters before"
    if reason.get("also"):
        text += "; also fails " + ", ".join(f"{one['rule']} ({_short(one['value'])})" for one in reason["also"])
    return text


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
