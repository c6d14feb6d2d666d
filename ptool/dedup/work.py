"""What deduplicating as a stream and by files have in common: the order, a batch on its way, and writing it out."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ptool.dedup.config import DedupConfig
from ptool.dedup.resolver import RULES, Resolver
from ptool.dedup.walk import KEPT, Scores, Verdicts
from ptool.formats.stages import StreamOptions, TransformRun
from ptool.formats.streams import Lines
from ptool.text.batch import BadLine, Batch, Keys, decode
from ptool.text.characters import UNICODE_VERSION
from ptool.units import format_bytes


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
    executor: Executor | None = None
    """What runs the tasks of the file mode; None: `jobs` processes of this machine."""

    against: Path | None = None
    """A saved index, whose documents count as earlier and kept."""
    save_index: Path | None = None
    """Where to save the index of everything kept, that of `against` included."""

    def record(self) -> dict[str, Any]:
        """What the manifest records. Which characters are words of their own depends on the Unicode version."""
        from ptool.dedup.saved import index_digest

        found = {**self.config.record(), "keys": msgspec.to_builtins(self.keys), "unicode": UNICODE_VERSION}
        return found if self.against is None else {**found, "against": index_digest(self.against)}


class Received(msgspec.Struct, frozen=True):
    """A batch without its texts, and the bad lines among it."""

    lines: Lines
    batch: Batch
    bad: list[BadLine]


class Outcome(msgspec.Struct, frozen=True):
    """What becomes of a batch; `twins`: for each document that goes, the id of the kept one (None: nobody asks)."""

    verdicts: Verdicts
    similarities: Scores
    twins: dict[int, str] | None


def decode_lines(lines: Lines, keys: Keys) -> Received:
    """Decode a batch; runs in any process."""
    batch, bad = decode(lines, keys)
    return received(lines, batch, bad)


def received(lines: Lines, batch: Batch, bad: list[BadLine]) -> Received:
    """The batch as it travels back from a worker: neither the texts nor the lines as they came are needed."""
    bare = Batch(
        lines=batch.lines,
        line_starts=batch.line_starts,
        ids=batch.ids,
        sources=[],
        text=np.zeros(0, dtype=np.uint8),
        offsets=np.zeros(1, dtype=np.int64),
        numbers=batch.numbers,
    )
    return Received(msgspec.structs.replace(lines, data=b""), bare, bad)


def write_outcome(run: TransformRun, received: Received, outcome: Outcome) -> None:
    """Kept lines to the output, the others to the rejects, in stream order."""
    batch = received.batch
    keep = outcome.verdicts == KEPT
    run.at(received.lines)
    run.keep(batch.select(keep), int(keep.sum()))
    dropped = [(int(batch.numbers[index]), index) for index in np.flatnonzero(~keep).tolist()]
    rejected = [(line.number, line) for line in received.bad]
    removed: list[tuple[int, int | BadLine]] = sorted([*dropped, *rejected], key=lambda one: one[0])
    for _, one in removed:
        if isinstance(one, BadLine):
            run.reject(one.raw + b"\n", path=received.lines.path, number=one.number, message=one.message)
            continue
        reason: dict[str, Any] = {"rule": RULES[int(outcome.verdicts[one])]}
        if outcome.twins is None:
            run.drop(b"", reason)
        else:
            found = {"twin": outcome.twins[one], "similarity": float(outcome.similarities[one])}
            run.drop(batch.line(one), {**reason, **found})


def index_notice(resolver: Resolver, what: str = "documents") -> str:
    """What the index took, for a person: it depends on how memory was reserved, so no manifest has it."""
    said = f"the index of {resolver.num_kept:,} kept {what} took {format_bytes(resolver.num_bytes)} of memory"
    return f"{said} and {format_bytes(resolver.spool_bytes)} of disk" if resolver.spool_bytes else said
