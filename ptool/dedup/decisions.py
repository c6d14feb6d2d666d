"""Third task of the file mode: the resolver's walk over all documents that share a key, and what it decided.

The walk is in stream order, or with `prefer` in the preferred order; the resolver is that of a stream. What it decided
stands in one file of columns, a row for each document that goes: by shard, then by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.dedup.columns import Columns, writing_columns
from ptool.dedup.config import DedupConfig
from ptool.dedup.resolver import Resolver
from ptool.dedup.shards import Shard
from ptool.dedup.signatures import Description
from ptool.dedup.walk import EXACT, KEPT, NEAR
from ptool.text.hashing import Offsets

_AT_ONCE = 4096


class Walk(msgspec.Struct, frozen=True):
    """Documents in the order in which they are decided: position of the shard, and number in it."""

    shards: Offsets
    documents: Offsets


class DropTable:
    """The documents that go, as read back from the file."""

    def __init__(self, path: Path) -> None:
        columns = Columns(path)
        self.counters: dict[str, int] = columns.details["counters"]
        self._ends = columns["shard_ends"]
        self._columns = {
            name: columns[name] for name in ("documents", "verdicts", "similarities", "twin_shards", "twin_documents")
        }

    def of_shard(self, position: int) -> dict[str, npt.NDArray[Any]]:
        """The rows of one shard, by name; `documents` ascend."""
        first, last = (int(self._ends[position - 1]) if position else 0), int(self._ends[position])
        return {name: column[first:last] for name, column in self._columns.items()}


def walk_order(config: DedupConfig, shards: Sequence[Shard], chosen: Sequence[Offsets]) -> Walk:
    """The documents `chosen` of each shard, in stream order or as preferred; equally preferred ones in stream order."""
    owners = np.repeat(np.arange(len(shards)), [len(one) for one in chosen])
    documents = np.concatenate([np.zeros(0, dtype=np.int64), *chosen])
    if config.prefer == "first":
        return Walk(owners, documents)
    ranks = [_ranks(config, shard, some) for shard, some in zip(shards, chosen, strict=True)]
    order = np.argsort(np.concatenate([np.zeros(0, dtype=np.int64), *ranks]), kind="stable")
    return Walk(owners[order], documents[order])


def decide(walk: Walk, shards: Sequence[Shard], resolver: Resolver, output: Path, details: dict[str, Any]) -> None:
    """Walk, and write what goes to `output`; `details` are what the file says about itself."""
    verdicts, twins, similarities, kept_at = [], [], [], []
    for first in range(0, len(walk.documents), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        decisions = resolver.resolve(_gather(shards, walk.shards[part], walk.documents[part]))
        verdicts.append(decisions.verdicts)
        twins.append(decisions.twins)
        similarities.append(decisions.similarities)
        kept_at.append(np.flatnonzero(decisions.verdicts == KEPT) + first)
    verdict, twin, similarity, kept = (_joined(pieces) for pieces in (verdicts, twins, similarities, kept_at))
    verdict = verdict.astype(np.uint8)
    if resolver.config.cluster:
        roots = resolver.clusters
        joined = kept[roots != np.arange(len(roots))]
        verdict[joined] = NEAR
        twin[joined] = roots[roots != np.arange(len(roots))]
        copies = verdict == EXACT
        twin[copies] = roots[twin[copies]]
    drop = np.flatnonzero(verdict != KEPT)
    drop = drop[np.lexsort((walk.documents[drop], walk.shards[drop]))]
    twin_at = kept[twin[drop]]
    with writing_columns(output) as writer:
        writer.details |= {**details, "counters": resolver.counters}
        writer.append("documents", walk.documents[drop])
        writer.append("verdicts", verdict[drop])
        writer.append("similarities", similarity[drop].astype(np.float64))
        writer.append("twin_shards", walk.shards[twin_at])
        writer.append("twin_documents", walk.documents[twin_at])
        writer.append("shard_ends", np.searchsorted(walk.shards[drop], np.arange(len(shards)), side="right"))


def _joined(pieces: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=np.int64), *pieces])


def _ranks(config: DedupConfig, shard: Shard, documents: Offsets) -> Offsets:
    """Less is preferred: minus the length, or the source's place in the list."""
    if config.prefer == "longest":
        return -shard.columns["lengths"][documents].astype(np.int64)
    places = {name: place for place, name in enumerate(config.preferred)}
    by_code = np.array([places.get(name, len(places)) for name in shard.source_names] or [0], dtype=np.int64)
    ranks: Offsets = by_code[shard.columns["sources"][documents]]
    return ranks


def _gather(shards: Sequence[Shard], owners: Offsets, documents: Offsets) -> Description:
    """The descriptions of documents of any shards, in the order given."""
    bounds = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(owners)]
    runs = [shards[int(owners[first])].rows(documents[first:last]) for first, last in pairwise(bounds)]
    if len(runs) == 1:
        return runs[0]
    sizes = np.concatenate([np.diff(run.shingle_offsets) for run in runs])
    offsets = np.zeros(len(documents) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return Description(
        np.concatenate([run.text_hashes for run in runs]),
        np.concatenate([run.keys for run in runs]),
        np.concatenate([run.num_shingles for run in runs]),
        np.concatenate([run.signatures for run in runs]),
        np.concatenate([run.shingles for run in runs]),
        offsets,
    )
