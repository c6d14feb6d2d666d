"""The decision, in stream order: keep a document, or drop it for a kept one that came before.

1. A text equal to that of an earlier kept document, byte for byte, is an exact duplicate of it.
2. Otherwise, of the kept documents that share a band with it, those with signature similarity at or above the threshold
   are its twins: the most similar one is named, the earliest of equally similar ones.
3. Otherwise it is kept. A text without words is compared by its exact text only.

Nothing is transitive: a document is never dropped for its likeness to a dropped one, so every kept set explains itself.
The resolver is sequential, and cheap beside the signatures it is given. What it decides depends on the order of the
documents alone, not on how they were batched or who computed their signatures.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.dedup.config import DedupConfig
from ptool.dedup.exact import ExactIndex
from ptool.dedup.index import NearIndex
from ptool.dedup.kernels import (
    CANDIDATES,
    EXACT,
    NEAR,
    NOT_COMPARED,
    NUM_COUNTERS,
    REFUSED,
    Counters,
    Verdicts,
    resolve_exact,
    resolve_near,
)
from ptool.dedup.signatures import Description
from ptool.text.hashing import Offsets

RULES: dict[int, Literal["exact-duplicate", "near-duplicate"]] = {EXACT: "exact-duplicate", NEAR: "near-duplicate"}

_LAST_STAMP = (1 << 32) - 1


class Decisions(msgspec.Struct, frozen=True):
    """What became of a batch.

    `verdicts` uint8[n]: KEPT, EXACT or NEAR; `twins` int64[n]: the number of the kept document each was dropped for,
    counted over the kept ones from 0, or -1; `similarities` float64[n]: the share of equal signature values (1.0 for an
    exact copy, 0.0 for a kept document).
    """

    verdicts: Verdicts
    twins: Offsets
    similarities: npt.NDArray[np.float64]


class Resolver:
    """Decides batch after batch; its memory is the index of the kept documents."""

    def __init__(self, config: DedupConfig) -> None:
        self.config = config
        self.num_kept = 0
        self._exact = ExactIndex()
        self._near = NearIndex(config.num_perm, config.layout) if config.mode == "minhash" else None
        self._counters: Counters = np.zeros(NUM_COUNTERS, dtype=np.int64)
        self._stamp = 0

    def resolve(self, batch: Description) -> Decisions:
        """Decide about the documents of `batch`, which come after all those seen before."""
        num_documents = len(batch.text_hashes)
        verdicts = np.zeros(num_documents, dtype=np.uint8)
        twins = np.full(num_documents, -1, dtype=np.int64)
        matches = np.zeros(num_documents, dtype=np.int64)
        self._exact.reserve(self.num_kept + num_documents)
        if self._near is None:
            self.num_kept = resolve_exact(
                batch.text_hashes, self.num_kept, self._exact.table, self._exact.hashes.array, verdicts, twins
            )
        else:
            self._resolve_near(self._near, batch, verdicts, twins, matches)
        similarities = np.where(verdicts == EXACT, 1.0, matches / self.config.num_perm)
        return Decisions(verdicts, twins, similarities)

    @property
    def counters(self) -> dict[str, int]:
        """How many pairs were compared, refused by verification, and left out because a bucket was full.

        A pair left out in one bucket may have been compared through another; each such bucket counts.
        """
        counts = self._counters.tolist()
        return {
            "candidates": counts[CANDIDATES],
            "refused_by_verification": counts[REFUSED],
            "not_compared": counts[NOT_COMPARED],
        }

    @property
    def num_bytes(self) -> int:
        """Memory the index has reserved."""
        near = self._near
        arrays = [self._exact.table, self._exact.hashes.array]
        if near is not None:
            arrays += [near.signatures.array, near.links.array, near.stamps.array, near.tables]
        return sum(array.nbytes for array in arrays)

    def _resolve_near(
        self,
        near: NearIndex,
        batch: Description,
        verdicts: Verdicts,
        twins: Offsets,
        matches: Offsets,
    ) -> None:
        num_documents = len(verdicts)
        near.reserve(self.num_kept + num_documents)
        if self._stamp + num_documents > _LAST_STAMP:
            near.stamps.array[:] = 0
            self._stamp = 0
        self.num_kept = resolve_near(
            batch.text_hashes,
            batch.signatures,
            batch.num_shingles,
            self.num_kept,
            self._stamp,
            self._exact.table,
            self._exact.hashes.array,
            near.tables,
            near.links.array,
            near.signatures.array,
            near.stamps.array,
            near.layout.rows,
            self.config.min_matches,
            self.config.max_bucket,
            verdicts,
            twins,
            matches,
            self._counters,
        )
        self._stamp += num_documents
