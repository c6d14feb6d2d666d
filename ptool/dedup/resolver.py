"""The decision, in stream order: keep a document, or drop it for a kept one that came before.

1. A text equal to that of an earlier kept document, byte for byte, is an exact duplicate of it.
2. Otherwise, of the kept documents that share a band with it, those at or above the threshold are its twins: the most
   similar one is named, the earliest of equally similar ones. Similarity is the exact Jaccard of the two shingle sets,
   or estimated by the share of equal signature values (`--verify signature`), or not asked for (`--verify none`).
3. Otherwise it is kept. A text without words is compared by its exact text only.

Nothing is transitive: a document is never dropped for its likeness to a dropped one, so every kept set explains itself.
With `cluster` it is transitive, as other tools have it: similar documents are joined, and `clusters` tells, after the
last one, which came first in each connected component.

The resolver is sequential, and cheap beside the descriptions it is given. What it decides depends on the order of the
documents alone, not on how they were batched or who described them.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.dedup.config import DedupConfig
from ptool.dedup.exact import ExactIndex
from ptool.dedup.index import NearIndex
from ptool.dedup.signatures import Description, signature_type
from ptool.dedup.spool import ShingleSpool
from ptool.dedup.tables import Kept, Numbers
from ptool.dedup.walk import (
    CANDIDATES,
    EXACT,
    NEAR,
    NOT_COMPARED,
    NUM_COUNTERS,
    REFUSED,
    UNCHECKED,
    VERIFY_EXACT,
    VERIFY_NONE,
    VERIFY_SIGNATURE,
    Counters,
    Found,
    New,
    Scores,
    Terms,
    Verdicts,
    add_kept,
    resolve,
    roots_of,
)
from ptool.errors import PtoolError
from ptool.reporting import SILENT, Reporter
from ptool.text.hashing import Offsets
from ptool.units import format_bytes

RULES: dict[int, Literal["exact-duplicate", "near-duplicate"]] = {EXACT: "exact-duplicate", NEAR: "near-duplicate"}

_VERIFY = {"none": VERIFY_NONE, "signature": VERIFY_SIGNATURE, "exact": VERIFY_EXACT}
_LAST_STAMP = (1 << 32) - 1


class IndexTooLarge(PtoolError):
    """The index needs more memory than it may take."""


class Decisions(msgspec.Struct, frozen=True):
    """What became of a batch.

    `verdicts` uint8[n]: KEPT, EXACT or NEAR; `twins` int64[n]: the number of the kept document each was dropped for,
    counted over the kept ones from 0, or -1; `similarities` float64[n]: as verified (1.0 for an exact copy, 0.0 for a
    kept document).
    """

    verdicts: Verdicts
    twins: Offsets
    similarities: Scores


class Resolver:
    """Decides batch after batch; its memory is the index of the kept documents. Close it, or use it as a context.

    `spool_folder` is where exact verification keeps the shingle sets (None: as `spool.default_folder` says). Raises
    IndexTooLarge when the index outgrows `max_memory` bytes, OutputError when the spool's disk is full.
    """

    def __init__(
        self,
        config: DedupConfig,
        *,
        spool_folder: Path | None = None,
        max_memory: int | None = None,
        reporter: Reporter = SILENT,
    ) -> None:
        near = config.mode == "minhash"
        layout = config.layout if near else None
        self.config = config
        self.num_kept = 0
        self._max_memory = max_memory
        self._exact = ExactIndex()
        self._near = NearIndex(config.num_perm, layout, signature_type(config)) if layout else None
        self._spool = ShingleSpool(spool_folder, reporter=reporter) if near and config.verify == "exact" else None
        self._terms = Terms(
            threshold=config.threshold,
            verify=_VERIFY[config.verify] if near else VERIFY_NONE,
            rows=layout.rows if layout else 0,
            max_bucket=config.max_bucket,
            clusters=config.cluster,
        )
        self._counters: Counters = np.zeros(NUM_COUNTERS, dtype=np.int64)
        self._parents: Numbers = np.zeros(0, dtype=np.uint32)
        self._stamp = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the spool's disk space back."""
        if self._spool is not None:
            self._spool.close()

    def resolve(self, batch: Description) -> Decisions:
        """Decide about the documents of `batch`, which come after all those seen before."""
        count = len(batch)
        found = Found(
            verdicts=np.zeros(count, dtype=np.uint8),
            twins=np.full(count, -1, dtype=np.int64),
            scores=np.zeros(count, dtype=np.float64),
            counters=self._counters,
            parents=self._reserved_parents(count),
        )
        kept = self._reserve(batch)
        self.num_kept = resolve(_new(batch), kept, self._terms, self.num_kept, self._stamp, found)
        self._stamp += count
        return Decisions(found.verdicts, found.twins, found.scores)

    def add(self, batch: Description) -> None:
        """Add documents that were kept before, as a saved index has them, in the order in which they were kept."""
        kept = self._reserve(batch)
        self.num_kept = add_kept(_new(batch), kept, self._terms, self.num_kept, self._counters)

    @property
    def kept_columns(self) -> dict[str, npt.NDArray[Any]]:
        """What is known of the kept documents, in the order in which they were kept; views, valid until the next batch.

        `hashes`, `keys`, `signatures`, `set_ends` and `shingles`: those that verification does without are empty.
        """
        near, spool, count = self._near, self._spool, self.num_kept
        return {
            "hashes": self._exact.hashes.array[:count],
            "keys": near.keys.array[:count] if near else _NO_KEYS,
            "signatures": near.signatures.array[:count] if near else _NO_NUMBERS,
            "set_ends": spool.ends.array[:count, 0] if spool else _NO_ENDS[:, 0],
            "shingles": spool.values[: spool.size_of(count)] if spool else np.zeros(0, dtype=np.uint32),
        }

    @property
    def clusters(self) -> Offsets:
        """int64[num_kept], with `cluster`: the number of the first document of each one's cluster."""
        return roots_of(self._parents, self.num_kept)

    @property
    def counters(self) -> dict[str, int]:
        """Pairs compared, refused by verification, left out because a bucket was full, and taken unchecked.

        A pair left out in one bucket may have been compared through another; each such bucket counts. Unchecked are,
        with `--verify none`, the pairs that the estimate puts below the threshold and that count as twins nevertheless.
        """
        counts = self._counters.tolist()
        return {
            "candidates": counts[CANDIDATES],
            "refused_by_verification": counts[REFUSED],
            "not_compared": counts[NOT_COMPARED],
            "below_threshold_unchecked": counts[UNCHECKED],
        }

    @property
    def num_bytes(self) -> int:
        """Memory the index has reserved."""
        columns = [self._exact.hashes, *(self._near.columns if self._near else [])]
        columns += [self._spool.ends] if self._spool else []
        tables: list[npt.NDArray[Any]] = [
            self._exact.table,
            *([self._near.tables] if self._near else []),
            self._parents,
        ]
        return sum(column.array.nbytes for column in columns) + sum(table.nbytes for table in tables)

    @property
    def spool_bytes(self) -> int:
        """Disk space of the kept documents' shingle sets."""
        return 4 * self._spool.size_of(self.num_kept) if self._spool else 0

    def _reserve(self, batch: Description) -> Kept:
        """Make room for the whole batch; all columns as the kernels take them."""
        wanted = self.num_kept + len(batch)
        exact, near, spool = self._exact, self._near, self._spool
        exact.reserve(wanted)
        if near is not None:
            near.reserve(wanted)
            if self._stamp + len(batch) > _LAST_STAMP:
                near.stamps.array[:] = 0
                self._stamp = 0
        if spool is not None:
            spool.reserve(wanted, spool.size_of(self.num_kept) + len(batch.shingles))
        if self._max_memory is not None and self.num_bytes > self._max_memory:
            raise IndexTooLarge(
                f"the index of {self.num_kept:,} kept documents outgrows {format_bytes(self._max_memory)} of memory",
                hint="give the input as files with --plan files, or allow more with --max-memory",
            )
        return Kept(
            hashes=exact.hashes.array,
            table=exact.table,
            keys=near.keys.array if near else _NO_KEYS,
            signatures=near.signatures.array if near else _NO_NUMBERS,
            links=near.links.array if near else _NO_NUMBERS,
            stamps=near.stamps.array if near else _NO_NUMBERS,
            tables=near.tables if near else _NO_KEYS,
            shingles=spool.values if spool else np.zeros(0, dtype=np.uint32),
            shingle_ends=spool.ends.array if spool else _NO_ENDS,
        )

    def _reserved_parents(self, count: int) -> Numbers:
        if self.config.cluster and self.num_kept + count > len(self._parents):
            present = len(self._parents)
            self._parents = np.append(
                self._parents, np.arange(present, self.num_kept + count + present // 8, dtype=np.uint32)
            )
        return self._parents


_NO_KEYS = np.zeros((0, 0), dtype=np.uint64)
_NO_NUMBERS = np.zeros((0, 0), dtype=np.uint32)
_NO_ENDS = np.zeros((0, 1), dtype=np.int64)


def _new(batch: Description) -> New:
    # Columns read from a file or a pickle may not be writable, for which numba would compile everything once more.
    return New(
        hashes=_writable(batch.text_hashes),
        keys=_writable(batch.keys),
        signatures=_writable(batch.signatures),
        num_shingles=_writable(batch.num_shingles),
        shingles=_writable(batch.shingles),
        shingle_offsets=_writable(batch.shingle_offsets),
    )


def _writable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.require(array, requirements=["C", "W"])
