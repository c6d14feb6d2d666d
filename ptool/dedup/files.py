"""Deduplicating files of any size: the same kept documents as a stream, by tasks that leave files behind.

1. Each input is described by a task of its own (shards.py): in parallel.
2. Each partition of the keys tells which documents share one (partitions.py): in parallel.
3. The resolver of the streaming mode walks those documents alone (decisions.py): one task; its memory is the index of
   those it keeps, not of all.
4. The inputs are read again and written without the documents that go, found by number in a file whose digest must be
   the one that was described. Decoding runs in parallel, writing is that of the streaming mode: same code, same bytes,
   trailers included.

Every task's output is a file that appears when it is whole, under a name that follows from the inputs alone, and says
what it was made from. A run that was killed, started again, does what is missing. Tasks go through an executor of
`concurrent.futures`: processes of this machine, or whatever is given as `executor`; nothing depends on who runs which.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import xxhash

from ptool.dedup.config import DedupConfig
from ptool.dedup.decisions import DropTable, Walk, decide, walk_order
from ptool.dedup.partitions import PartitionTask, find_shared, num_partitions, shared_documents
from ptool.dedup.resolver import IndexTooLarge, Resolver
from ptool.dedup.shards import DescribeTask, Shard, describe_shard
from ptool.dedup.spool import default_folder
from ptool.dedup.work import Deduplication, Outcome, decode_lines, index_notice, write_outcome
from ptool.errors import DamagedInput, TooManyRejected, UsageError
from ptool.executors import ordered_map
from ptool.formats.atomic import describing_os_errors, replacing, write_bytes
from ptool.formats.stages import TransformRun
from ptool.formats.streams import Lines
from ptool.reporting import Reporter

Item = TypeVar("Item")
Result = TypeVar("Result")

_PLAN = "work.json"


class FilesPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Where the tasks' files stand (None: a temporary folder), and how many partitions there are (None: as needed)."""

    folder: Path | None = None
    partitions: int | None = None
    clusters: Path | None = None
    """Where to list every kept document with those that went for it."""

    @classmethod
    def chosen(cls, plan: str, config: DedupConfig, output: str | None, **given: Any) -> FilesPlan | None:
        """The plan of a command line; None for one pass. Files are needed by `config`, or by any option `given`.

        Without a folder they stand beside the output, or, with the output in a pipe, in a temporary one.
        """
        needed = config.needs_files or any(value is not None for value in given.values())
        if plan == "stream" and needed:
            raise UsageError("--plan stream, and what else is asked for needs files", hint="leave out --plan")
        if plan != "files" and not needed:
            return None
        if given["folder"] is None and output not in (None, "-"):
            given["folder"] = Path(f"{str(output).rstrip('/')}.dedup-work")
        return cls(**given)


def dedup_files(
    work: Deduplication,
    plan: FilesPlan,
    inputs: Sequence[str],
    input_labels: Sequence[str],
    folder: Path,
    run: TransformRun,
    reporter: Reporter,
) -> dict[str, int]:
    """Decide by files in `folder` (from `work_folder`) and write through `run`, which is open; the resolver's counters.

    Raises DamagedInput when an input changes meanwhile.
    """
    shards, table = _decide(work, plan, inputs, input_labels, folder, reporter)
    _remove(work, inputs, shards, table, run)
    if plan.clusters is not None:
        _write_clusters(plan.clusters, shards, table)
    return table.counters


def _decide(
    work: Deduplication,
    plan: FilesPlan,
    inputs: Sequence[str],
    input_labels: Sequence[str],
    folder: Path,
    reporter: Reporter,
) -> tuple[list[Shard], DropTable]:
    identity = _identity(work, input_labels)
    started = time.monotonic()
    paths = [folder / f"described-{position:05d}" for position in range(len(inputs))]
    tasks = [
        DescribeTask(
            path=path,
            label=label,
            output=str(output),
            config=work.config,
            keys=work.keys,
            work=identity,
            allow_empty=work.options.allow_empty,
            stop_at_bad_lines=work.options.policy.on_error == "fail",
        )
        for path, label, output in zip(inputs, input_labels, paths, strict=True)
    ]
    digests = _done(work, describe_shard, tasks, reporter, "inputs described")
    shards = [Shard(path) for path in paths]
    reporter.notice(f"described {sum(shard.num_documents for shard in shards):,} documents in {_since(started)}")

    started = time.monotonic()
    count = plan.partitions or num_partitions(sum(len(shard.columns["pair_keys"]) for shard in shards), work.jobs)
    outputs = [str(folder / f"shared-{number:05d}") for number in range(count)]
    partition_tasks = [
        PartitionTask(
            number=number, count=count, shards=list(map(str, paths)), digests=digests, work=identity, output=output
        )
        for number, output in enumerate(outputs)
    ]
    _done(work, find_shared, partition_tasks, reporter, "partitions")
    chosen = [shared_documents(outputs, position) for position in range(len(shards))]
    num_chosen = sum(map(len, chosen))
    reporter.notice(f"{num_chosen:,} of them share a key with another one: found in {_since(started)}")

    started = time.monotonic()
    decided = folder / "decided"
    details = {"work": identity, "digests": digests}
    if not decided.exists() or not _is_from(decided, details):
        walk: Walk = walk_order(work.config, shards, chosen)
        with Resolver(
            work.config, spool_folder=work.tmp_dir, max_memory=work.max_memory, reporter=reporter
        ) as resolver:
            try:
                decide(walk, shards, resolver, decided, details)
            except IndexTooLarge as error:
                hint = "allow more with --max-memory: what is done so far is kept, and the work goes on from here"
                raise IndexTooLarge(error.message, hint=hint) from error
            reporter.notice(f"decided in {_since(started)}; {index_notice(resolver)}")
    return shards, DropTable(decided)


def _remove(
    work: Deduplication, inputs: Sequence[str], shards: Sequence[Shard], table: DropTable, run: TransformRun
) -> None:
    """Write the inputs without the documents that go."""
    decoding = partial(decode_lines, keys=work.keys)
    lines = _same_lines(run.lines(), shards, inputs)
    position, rows, first = -1, table.of_shard(0), 0
    named = work.options.policy.rejects is not None
    for received in ordered_map(decoding, lines, jobs=work.jobs, preload=("ptool.text.batch",)):
        if received.lines.source != position:
            position, first = received.lines.source, 0
            rows = table.of_shard(position)
        last = first + len(received.batch)
        part = slice(*np.searchsorted(rows["documents"], [first, last]).tolist())
        verdicts = np.zeros(len(received.batch), dtype=np.uint8)
        similarities = np.zeros(len(received.batch), dtype=np.float64)
        at = rows["documents"][part] - first
        verdicts[at], similarities[at] = rows["verdicts"][part], rows["similarities"][part]
        twins: dict[int, str] = {}
        if named:
            found = zip(
                at.tolist(), rows["twin_shards"][part].tolist(), rows["twin_documents"][part].tolist(), strict=True
            )
            twins = {index: shards[shard].id_of(document) for index, shard, document in found}
        write_outcome(run, received, Outcome(verdicts, similarities, twins if named else None))
        first = last


def _same_lines(lines: Iterable[Lines], shards: Sequence[Shard], inputs: Sequence[str]) -> Iterator[Lines]:
    """The lines, refused at the end of an input that is not the one described."""
    position, digest = 0, xxhash.xxh3_128()
    for one in chain(lines, [None]):
        while position < (len(shards) if one is None else one.source):  # those too of which no line came
            if shards[position].digest != f"xxh3-128:{digest.hexdigest()}":
                raise DamagedInput(
                    "the file changed while it was deduplicated", where=inputs[position], hint="run it again"
                )
            position, digest = position + 1, xxhash.xxh3_128()
        if one is not None:
            digest.update(one.data)
            yield one


def _write_clusters(path: Path, shards: Sequence[Shard], table: DropTable) -> None:
    """A line for each kept document that others went for, in stream order: its id, and theirs with the similarity."""
    members: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for position, shard in enumerate(shards):
        rows = table.of_shard(position)
        for document, similarity, *twin in zip(
            *(rows[name].tolist() for name in ("documents", "similarities", "twin_shards", "twin_documents")),
            strict=True,
        ):
            member = {"id": shard.id_of(document), "similarity": similarity}
            members.setdefault((twin[0], twin[1]), []).append(member)
    with replacing(path) as file:
        for (position, document), found in sorted(members.items()):
            line = {"kept": shards[position].id_of(document), "dropped": found}
            file.write(msgspec.json.encode(line) + b"\n")


@contextmanager
def work_folder(plan: FilesPlan, work: Deduplication, input_labels: Sequence[str]) -> Iterator[Path]:
    """The folder of the tasks' files; it is removed when all is done, and stays when something fails.

    Raises UsageError for a folder that belongs to other work.
    """
    folder = plan.folder
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="ptool-dedup-", dir=work.tmp_dir or default_folder()) as temporary:
            yield Path(temporary)
        return
    with describing_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sign = folder / _PLAN
    identity = msgspec.json.encode({"work": _identity(work, input_labels)})
    if sign.exists():
        if sign.read_bytes() != identity:
            raise UsageError(
                "the work folder belongs to other work (other inputs, configuration or version)",
                where=str(folder),
                hint="give another --workdir, or remove this one",
            )
    elif any(folder.iterdir()):
        raise UsageError("the work folder holds other files", where=str(folder), hint="give another --workdir")
    else:
        write_bytes(sign, identity)
    try:
        yield folder
    except TooManyRejected:  # finished nevertheless
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def _identity(work: Deduplication, input_labels: Sequence[str]) -> str:
    from ptool import __version__

    record = {"version": __version__, "config": work.record(), "inputs": list(input_labels)}
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(record, order="sorted"))


def _is_from(path: Path, details: dict[str, Any]) -> bool:
    from ptool.dedup.columns import Columns

    there = Columns(path).details
    return {name: there[name] for name in details} == details


def _done(
    work: Deduplication, function: Callable[[Item], Result], tasks: Sequence[Item], reporter: Reporter, unit: str
) -> list[Result]:
    """The results of all tasks, by the executor in force."""
    if work.executor is not None:
        results: Iterator[Result] = iter(work.executor.map(function, tasks))
    else:
        results = ordered_map(function, tasks, jobs=work.jobs, preload=("ptool.dedup.shards",))
    found = []
    for number, result in enumerate(results, start=1):
        found.append(result)
        reporter.progress(number, len(tasks), unit=unit)
    return found


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"
