"""Deduplicating documents in files and pipes, into one output or into a folder with an output for each input.

As a stream, in one pass: decoding, hashing and signing run in any number of processes, a batch at a time; the resolver
sees the batches in stream order. Or by files (files.py), which decides the same. So the kept set, and every byte that
is written, is the same for every number of jobs and every way the input was cut into frames or files. All inputs share
one index: a document of the last file may be dropped for one of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from ptool.dedup.config import DedupConfig
from ptool.dedup.files import FilesPlan, dedup_files, work_folder
from ptool.dedup.passes import PassConfig, run_pass
from ptool.dedup.resolver import Decisions, Resolver
from ptool.dedup.saved import KeptIds, load_index, save_index
from ptool.dedup.signatures import Description, describe
from ptool.dedup.walk import KEPT
from ptool.dedup.work import Deduplication, Outcome, Received, index_notice, received, write_outcome
from ptool.errors import UsageError
from ptool.executors import ordered_map
from ptool.formats.artefacts import MANIFEST, list_files
from ptool.formats.atomic import describing_os_errors, write_bytes
from ptool.formats.folders import is_folder, plan_folder
from ptool.formats.manifests import Manifest, encode_manifest
from ptool.formats.stages import StageReport, TransformRun, read_manifest
from ptool.formats.streams import STDIN, Lines, read_once
from ptool.formats.streams import labels as labels_of
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import Batch, Keys, decode

__all__ = ["Deduplication", "FilesPlan", "dedup_folder", "dedup_stream", "dedup_to", "pass_to"]

_WORKER_MODULES = ("ptool.dedup.signatures",)


def dedup_to(
    work: Deduplication,
    inputs: Sequence[str],
    output: str | None,
    *,
    files: FilesPlan | None = None,
    reporter: Reporter = SILENT,
) -> StageReport:
    """Deduplicate into what `output` names: a folder (`out/`), a file, or None or "-" for stdout."""
    if output is not None and is_folder(output):
        return dedup_folder(work, inputs, Path(output), files=files, reporter=reporter)
    target = None if output in (None, "-") else Path(str(output))
    return dedup_stream(work, inputs, target, files=files, reporter=reporter)


def pass_to(
    work: Deduplication,
    config: PassConfig,
    inputs: Sequence[str],
    output: str | None,
    *,
    removed: Path | None = None,
    reporter: Reporter = SILENT,
) -> StageReport:
    """A pass over lines, paragraphs or n-grams into a file, or None or "-" for stdout; a folder is a UsageError."""
    if output is not None and is_folder(output):
        raise UsageError("a pass over lines, paragraphs or n-grams writes one stream", where=output, hint="-o FILE")
    target = None if output in (None, "-") else Path(str(output))
    return run_pass(work, config, inputs, target, removed=removed, reporter=reporter)


def dedup_stream(
    work: Deduplication,
    inputs: Sequence[str | Path],
    output: Path | Sequence[Path] | None,
    *,
    labels: Sequence[str] | None = None,
    files: FilesPlan | None = None,
    reporter: Reporter = SILENT,
) -> StageReport:
    """Deduplicate `inputs` (none: stdin), as one stream in the order given, into the file `output` (None: stdout).

    With a list of outputs each input's kept lines go to its own. `labels` name the inputs in ids. With `files` the work
    is done by tasks on files, to the same bytes. Raises UsageError where an output stands that other work made, or
    where files are needed and stdin is given; BadDocument for a line that is no document (unless the options reject
    such lines); TooManyRejected after finishing.
    """
    rejects = work.options.policy.rejects
    if rejects is not None and rejects.is_dir():
        raise UsageError("--rejects is a folder, and all inputs share one stream of rejects", where=str(rejects))
    sources = [str(source) for source in inputs] or [STDIN]
    if files is None and work.config.needs_files:
        files = FilesPlan()
    if files is not None and (once := read_once(sources)):
        name = "stdin" if once[0] == STDIN else once[0]
        raise UsageError(f"this is decided over all documents, and {name} can be read once", hint="give files")
    indexed = [path for path in (work.against, work.save_index) if path is not None]
    if files is not None and indexed:
        raise UsageError("an index is used and made in one pass: it is in memory either way", hint="--plan stream")
    run = TransformRun(
        "dedup",
        work.record(),
        sources,
        output,
        options=work.options,
        reporter=reporter,
        labels=labels,
        beside={"--save-index": work.save_index, "--clusters": files.clusters if files else None},
    )
    with run:
        if run.up_to_date:
            if work.save_index is not None and not work.save_index.exists():
                raise UsageError("the output is there and the index is not", hint="--force makes both again")
            return run.finish()
        if files is None:
            return run.finish(details=_in_one_pass(work, run, reporter))
        named = list(labels) if labels is not None else labels_of(sources)
        with work_folder(files, work, named) as folder:
            return run.finish(details=dedup_files(work, files, sources, named, folder, run, reporter))


def _in_one_pass(work: Deduplication, run: TransformRun, reporter: Reporter) -> dict[str, int]:
    ids = KeptIds() if work.options.policy.rejects is not None or work.save_index is not None else None
    describing = partial(describe_lines, config=work.config, keys=work.keys)
    with Resolver(work.config, spool_folder=work.tmp_dir, max_memory=work.max_memory, reporter=reporter) as resolver:
        if work.against is not None:
            load_index(work.against, resolver, ids)
        for described, description in ordered_map(describing, run.lines(), jobs=work.jobs, preload=_WORKER_MODULES):
            decisions = resolver.resolve(description)
            write_outcome(run, described, _outcome(described.batch, decisions, ids))
        if work.save_index is not None and ids is not None:
            save_index(work.save_index, resolver, ids)
        reporter.notice(index_notice(resolver))
        return resolver.counters


def dedup_folder(
    work: Deduplication,
    inputs: Sequence[str],
    folder: Path,
    *,
    files: FilesPlan | None = None,
    reporter: Reporter = SILENT,
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
    report = dedup_stream(work, inputs, outputs, labels=plan.inputs, files=files, reporter=reporter)
    manifest = _folder_manifest(report.manifest, folder, plan.outputs)
    write_bytes(folder / MANIFEST, encode_manifest(manifest) + b"\n")
    return msgspec.structs.replace(report, manifest=manifest, output=folder)


def describe_lines(lines: Lines, config: DedupConfig, keys: Keys) -> tuple[Received, Description]:
    """Decode and describe a batch of lines; runs in any process."""
    batch, bad = decode(lines, keys)
    return received(lines, batch, bad), describe(batch.text, batch.offsets, config)


def _outcome(batch: Batch, decisions: Decisions, ids: KeptIds | None) -> Outcome:
    """The decisions with the twins' ids, and the kept documents' ids remembered."""
    twins: dict[int, str] | None = None
    if ids is not None:
        ids.add([batch.ids[index] for index in np.flatnonzero(decisions.verdicts == KEPT).tolist()])
        dropped = np.flatnonzero(decisions.verdicts != KEPT).tolist()
        twins = {index: ids[int(decisions.twins[index])] for index in dropped}
    return Outcome(decisions.verdicts, decisions.similarities, twins)


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
