"""Second task of the file mode: which documents share a key with another one, for one range of keys.

A document none of whose keys is anybody else's can neither be dropped nor cost another its place, so the resolver never
sees it: on the web that is most of them. Keys are uniform hashes, so equal ranges of the 64-bit numbers make equal
partitions; each takes its range of every shard's sorted keys, sorts them together, and looks at neighbours. Memory is
about 50 bytes for each key of the range.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from ptool.dedup.columns import Columns, writing_columns
from ptool.dedup.shards import Shard
from ptool.text.hashing import Offsets

_BYTES_PER_KEY = 50
_PARTITION_BYTES = 512 << 20


class PartitionTask(msgspec.Struct, frozen=True, kw_only=True):
    """Find the shared keys of partition `number` of `count` among `shards` (files), described as `digests` say."""

    number: int
    count: int
    shards: list[str]
    digests: list[str]
    work: str
    output: str


def find_shared(task: PartitionTask) -> None:
    """Do the task unless its output is there, made from the same descriptions."""
    output = Path(task.output)
    identity = {"work": task.work, "digests": task.digests, "count": task.count}
    if output.exists() and Columns(output).details == identity:
        return
    low, high = _range(task.number, task.count)
    keys, owners, documents = [], [], []
    for position, path in enumerate(task.shards):
        shard = Shard(Path(path))
        all_keys = shard.columns["pair_keys"]
        start = int(np.searchsorted(all_keys, np.uint64(low)))
        stop = int(np.searchsorted(all_keys, np.uint64(high), side="right"))
        keys.append(all_keys[start:stop].copy())  # a view would keep the file open, and there may be 90,000 of them
        documents.append(shard.columns["pair_documents"][start:stop].copy())
        owners.append(np.full(stop - start, position, dtype=np.uint32))
    shared = _shared(np.concatenate(keys), np.concatenate(owners), np.concatenate(documents))
    with writing_columns(output) as writer:
        writer.details |= identity
        writer.append("owners", (shared >> np.uint64(32)).astype(np.uint32))
        writer.append("documents", shared.astype(np.uint32))


def num_partitions(num_keys: int, jobs: int) -> int:
    """Enough for every process to have one, and for each to fit into half a gibibyte."""
    return max(jobs, -(-num_keys * _BYTES_PER_KEY // _PARTITION_BYTES), 1)


def shared_documents(outputs: list[str], position: int) -> Offsets:
    """The numbers of the documents of the shard at `position` that share a key, ascending, from all partitions."""
    found = []
    for path in outputs:
        columns = Columns(Path(path))
        owners = columns["owners"]
        first, last = np.searchsorted(owners, position), np.searchsorted(owners, position, side="right")
        found.append(columns["documents"][first:last].copy())
    return np.unique(np.concatenate(found)).astype(np.int64)


def _range(number: int, count: int) -> tuple[int, int]:
    """The first and the last key of a partition."""
    return (number << 64) // count, ((number + 1) << 64) // count - 1


def _shared(keys: np.ndarray, owners: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Owner and document, as one ascending number each, of all whose key is next to an equal one."""
    order = np.argsort(keys)
    keys = keys[order]
    equal = keys[1:] == keys[:-1]
    shared = np.zeros(len(keys), dtype=np.bool_)
    shared[1:] |= equal
    shared[:-1] |= equal
    chosen = order[shared]
    return np.unique((owners[chosen].astype(np.uint64) << np.uint64(32)) | documents[chosen])
