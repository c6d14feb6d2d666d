"""Deduplicating streams: one pass over all inputs, into one output or into a folder with an output for each input.

Decoding, hashing and signing run in any number of processes, a batch at a time; the resolver sees the batches in stream
order. So the kept set, and every byte that is written, is the same for every number of jobs and every way the input was
cut into frames or files. All inputs share one index: a document of the last file may be dropped for one of the first.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ptool.dedup.config import DedupConfig
from ptool.dedup.kernels import KEPT
from ptool.dedup.resolver import RULES, Decisions, Resolver
from ptool.dedup.signatures import Description, describe
from ptool.errors import UsageError
from ptool.executors import ordered_map
from ptool.formats.artefacts import MANIFEST, list_files
from ptool.formats.atomic import describing_os_errors, write_bytes
from ptool.formats.folders import is_folder, plan_folder
from ptool.formats.manifests import Manifest, encode_manifest
from ptool.formats.stages import StageReport, StreamOptions, TransformRun, read_manifest
from ptool.formats.streams import Lines
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import BadLine, Batch, Keys, decode
from ptool.text.characters import UNICODE_VERSION
from ptool.units import format_bytes

_WORKER_MODULES = ("ptool.dedup.signatures", "datasketch")


class Deduplication(msgspec.Struct, frozen=True, kw_only=True):
    """How to deduplicate. `config` and `keys` determine the bytes that come out, the rest does not."""

    config: DedupConfig = DedupConfig()
    keys: Keys = Keys()
    options: StreamOptions = StreamOptions()
    jobs: int = 1
    tmp_dir: Path | None = None
    """Where exact verification keeps shingle sets while it runs; None: $TMPDIR or /var/tmp."""
    max_memory: int | None = None
    """Bytes that the index may take."""

    def record(self) -> dict[str, Any]:
        """What the manifest records. Which characters are words of their own depends on the Unicode version."""
        return {**self.config.record(), "keys": msgspec.to_builtins(self.keys), "unicode": UNICODE_VERSION}


class Described(msgspec.Struct, frozen=True):
    """A batch on its way to the resolver: documents without their texts, what is known of the texts, and bad lines."""

    lines: Lines
    batch: Batch
    description: Description
    bad: list[BadLine]


class KeptIds:
    """The ids of the kept documents, by their number; 8 bytes and the id's own for each."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def add(self, ids: Sequence[str]) -> None:
        """Append the ids of the next kept documents."""
        for one in ids:
            self._bytes += one.encode("utf-8", "backslashreplace")  # as `decode` splices it
            self._ends.append(len(self._bytes))

    def __getitem__(self, number: int) -> str:
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode()


def dedup_to(
    work: Deduplication, inputs: Sequence[str], output: str | None, *, reporter: Reporter = SILENT
) -> StageReport:
    """Deduplicate into what `output` names: a folder (`out/`), a file, or None or "-" for stdout."""
    if output is not None and is_folder(output):
        return dedup_folder(work, inputs, Path(output), reporter=reporter)
    return dedup_stream(work, inputs, None if output in (None, "-") else Path(str(output)), reporter=reporter)


def dedup_stream(
    work: Deduplication,
    inputs: Sequence[str | Path],
    output: Path | Sequence[Path] | None,
    *,
    labels: Sequence[str] | None = None,
    reporter: Reporter = SILENT,
) -> StageReport:
    """Deduplicate `inputs` (none: stdin), as one stream in the order given, into the file `output` (None: stdout).

    With a list of outputs each input's kept lines go to its own. `labels` name the inputs in ids. Raises UsageError
    where an output stands that other work made, BadDocument for a line that is no document (unless the options reject
    such lines), TooManyRejected after finishing.
    """
    rejects = work.options.policy.rejects
    if rejects is not None and rejects.is_dir():
        raise UsageError("--rejects is a folder, and all inputs share one stream of rejects", where=str(rejects))
    run = TransformRun("dedup", work.record(), inputs, output, options=work.options, reporter=reporter, labels=labels)
    with run:
        if run.up_to_date:
            return run.finish()
        ids = KeptIds() if rejects is not None else None
        describing = partial(describe_lines, config=work.config, keys=work.keys)
        with Resolver(
            work.config, spool_folder=work.tmp_dir, max_memory=work.max_memory, reporter=reporter
        ) as resolver:
            for described in ordered_map(describing, run.lines(), jobs=work.jobs, preload=_WORKER_MODULES):
                _write(run, described, resolver.resolve(described.description), ids)
            details = resolver.counters
            reporter.notice(index_notice(resolver))
        return run.finish(details=details)


def dedup_folder(
    work: Deduplication, inputs: Sequence[str], folder: Path, *, reporter: Reporter = SILENT
) -> StageReport:
    """Deduplicate all inputs together, each into a file of its own in `folder`; `manifest.json` comes last.

    A folder that is not complete is made again as a whole, with the same bytes: what may be dropped from the last file
    depends on all files before it.
    """
    suffix = ".jsonl.zst" if work.options.compress else ".jsonl"
    plan = plan_folder(folder, stage="dedup", config=work.record(), inputs=inputs, suffix=suffix, tasks=(1, 1, 1))
    outputs = [folder / name for name in plan.outputs]
    for path in outputs:
        with describing_os_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
    beside = msgspec.structs.replace(work.options, manifest_beside=True)
    work = msgspec.structs.replace(work, options=beside)
    report = dedup_stream(work, inputs, outputs, labels=plan.inputs, reporter=reporter)
    manifest = _folder_manifest(report.manifest, folder, plan.outputs)
    write_bytes(folder / MANIFEST, encode_manifest(manifest) + b"\n")
    return msgspec.structs.replace(report, manifest=manifest, output=folder)


def index_notice(resolver: Resolver) -> str:
    """What the index took, for a person: it depends on how memory was reserved, so no manifest has it."""
    said = f"the index of {resolver.num_kept:,} kept documents took {format_bytes(resolver.num_bytes)} of memory"
    return f"{said} and {format_bytes(resolver.spool_bytes)} of disk" if resolver.spool_bytes else said


def free_memory() -> int | None:
    """Nine tenths of what this machine and its cgroup have free, in bytes; None where neither says."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        found.append(limit - int((group / "memory.current").read_text(encoding="ascii")))
    return max(1, min(found) * 9 // 10) if found else None


def describe_lines(lines: Lines, config: DedupConfig, keys: Keys) -> Described:
    """Decode and describe a batch of lines; runs in any process."""
    batch, bad = decode(lines, keys)
    description = describe(batch.text, batch.offsets, config)
    # Neither the texts nor the lines as they came need to travel back from a worker.
    bare = Batch(
        lines=batch.lines,
        line_starts=batch.line_starts,
        ids=batch.ids,
        sources=[],
        text=np.zeros(0, dtype=np.uint8),
        offsets=np.zeros(1, dtype=np.int64),
        numbers=batch.numbers,
    )
    return Described(msgspec.structs.replace(lines, data=b""), bare, description, bad)


def _write(run: TransformRun, described: Described, decisions: Decisions, ids: KeptIds | None) -> None:
    batch = described.batch
    keep = decisions.verdicts == KEPT
    run.at(described.lines)
    run.keep(batch.select(keep), int(keep.sum()))
    if ids is not None:
        ids.add([batch.ids[index] for index in np.flatnonzero(keep).tolist()])
    dropped = [(int(batch.numbers[index]), index) for index in np.flatnonzero(~keep).tolist()]
    rejected = [(line.number, line) for line in described.bad]
    removed: list[tuple[int, int | BadLine]] = sorted([*dropped, *rejected], key=lambda one: one[0])
    for _, one in removed:
        if isinstance(one, BadLine):
            run.reject(one.raw + b"\n", path=described.lines.path, number=one.number, message=one.message)
            continue
        reason: dict[str, Any] = {"rule": RULES[int(decisions.verdicts[one])]}
        if ids is None:
            run.drop(b"", reason)
        else:
            twin = ids[int(decisions.twins[one])]
            run.drop(batch.line(one), {**reason, "twin": twin, "similarity": float(decisions.similarities[one])})


def _folder_manifest(manifest: Manifest, folder: Path, outputs: Sequence[str]) -> Manifest:
    """The manifest of the whole folder, from that of the run (which each output carries with its own documents)."""
    parts = [read_manifest(folder / name) for name in outputs]
    documents = [part.documents_out for part in parts if part is not None and part.documents_out is not None]
    return msgspec.structs.replace(
        manifest,
        documents_out=None,
        num_documents=sum(one.num_documents for one in documents),
        num_bytes=sum(one.num_bytes for one in documents),
        files=list_files(folder, list(outputs)),
    )
