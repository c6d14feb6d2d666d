"""A saved index: what an earlier run kept, to deduplicate a new crawl against it without reading the old one again.

One file of columns (columns.py): text hashes, keys of bands or signatures, the sets of shingles, ids; and the
parameters, because keys of other shingles or permutations mean nothing here. Loading adds the documents in the order in
which they were kept, so the buckets are those of the run that saved them, and deduplicating B against the index of A
keeps what deduplicating A and B in one stream keeps of B. On disk: about 150 bytes for each kept document, its id, and
4 bytes for each distinct shingle.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ptool.dedup.columns import Columns, writing_columns
from ptool.dedup.config import DedupConfig
from ptool.dedup.resolver import Resolver
from ptool.dedup.signatures import Description, band_keys
from ptool.errors import DamagedInput, InputError, UsageError
from ptool.text.characters import UNICODE_VERSION
from ptool.text.signing import EMPTY_SIGNATURE_VALUE

_AT_ONCE = 4096


class KeptIds:
    """The ids of the kept documents, by their number; 8 bytes and the id's own for each."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, ids: Sequence[str]) -> None:
        """Append the ids of the next kept documents."""
        for one in ids:
            self._bytes += one.encode("utf-8", "backslashreplace")  # as `decode` splices it
            self._ends.append(len(self._bytes))

    def __getitem__(self, number: int) -> str:
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode()

    @property
    def columns(self) -> tuple[Any, Any]:
        """All ids as one run of bytes, and where each ends."""
        return np.frombuffer(bytes(self._bytes), dtype=np.uint8), np.array(self._ends[1:], dtype=np.int64)


def save_index(path: Path, resolver: Resolver, ids: KeptIds) -> None:
    """Write everything the resolver keeps, in the order in which it was kept."""
    with writing_columns(path) as writer:
        writer.details |= {"kind": "index", "parameters": parameters(resolver.config), "documents": resolver.num_kept}
        for name, column in resolver.kept_columns.items():
            (writer.stream if name == "shingles" else writer.append)(name, column)
        for name, column in zip(("id_bytes", "id_ends"), ids.columns, strict=True):
            writer.append(name, column)


def load_index(path: Path, resolver: Resolver, ids: KeptIds | None) -> None:
    """Add what a saved index has to a resolver that has nothing yet. Raises UsageError for other parameters."""
    columns = _opened(path)
    wanted = parameters(resolver.config)
    found = columns.details["parameters"]
    if found != wanted:
        differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        said = ", ".join(f"{name} {found.get(name)} there, {wanted.get(name)} here" for name in differing)
        raise UsageError(f"the index was made with other parameters: {said}", where=str(path))
    arrays = {name: columns[name] for name in ("hashes", "keys", "signatures", "set_ends", "shingles")}
    for first in range(0, len(arrays["hashes"]), _AT_ONCE):
        resolver.add(_described(arrays, slice(first, first + _AT_ONCE), resolver.config))
    if ids is not None:
        whole, start = columns["id_bytes"].tobytes(), 0
        for end in columns["id_ends"].tolist():
            ids.add([whole[start:end].decode()])
            start = end


def index_digest(path: Path) -> str:
    """xxh3-128 of the index: what a manifest says a run was made against."""
    _opened(path)
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return f"xxh3-128:{digest.hexdigest()}"


def parameters(config: DedupConfig) -> dict[str, Any]:
    """What two runs must have in common for one to use the other's index; thresholds may differ, what they meet not."""
    free = ("threshold", "max_bucket")
    record = {name: value for name, value in config.record().items() if name not in free}
    return {**record, "unicode": UNICODE_VERSION}


def _opened(path: Path) -> Columns:
    try:
        columns = Columns(path)
    except OSError as error:
        raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", where=str(path)) from error
    except DamagedInput as error:  # whose hint is to remove the file: here it may be somebody's documents
        message = f"no index of ptool dedup, or a part of one: {error.message}"
        raise DamagedInput(message, where=str(path), hint="--save-index FILE makes one") from error
    if columns.details.get("kind") != "index":
        raise InputError("no index of ptool dedup", where=str(path), hint="--save-index FILE makes one")
    return columns


def _described(arrays: dict[str, Any], part: slice, config: DedupConfig) -> Description:
    hashes, signatures = arrays["hashes"][part], np.ascontiguousarray(arrays["signatures"][part])
    count = len(hashes)
    offsets = np.zeros(count + 1, dtype=np.int64)
    shingles = np.zeros(0, dtype=np.uint32)
    if config.mode == "exact":
        return Description(hashes, arrays["keys"][part], offsets[1:], signatures, shingles, offsets)
    if config.verify != "exact":
        empty = np.iinfo(signatures.dtype).max if config.scheme == "datatrove" else EMPTY_SIGNATURE_VALUE
        comparable = (signatures != empty).any(axis=1)
        return Description(
            hashes, band_keys(signatures, config), comparable.astype(np.int64), signatures, shingles, offsets
        )
    ends = arrays["set_ends"]
    offsets[0] = ends[part.start - 1] if part.start else 0
    offsets[1:] = ends[part]
    shingles = arrays["shingles"][offsets[0] : offsets[-1]]
    return Description(
        hashes, arrays["keys"][part], np.diff(offsets), signatures, np.array(shingles), offsets - offsets[0]
    )
