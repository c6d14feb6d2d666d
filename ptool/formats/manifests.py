"""What ran, on what, and what came out: the record every output carries.

A manifest holds only what determines the bytes of an output: the stage, its version and configuration, the digests of
the documents in and out, and the manifests of the stages before. Times, hosts and paths stand elsewhere
(`FILE.run.json`), so that two runs of the same work have equal manifests. It is JSON with sorted keys, encoded one way.

The manifests of many streams of the same work (a file each of a crawl) are one in those that come after: otherwise
90,000 outputs of dedup would each carry the history of 90,000 inputs, and one alone would be more than a reader takes.

Two laws are held by construction: a count of documents in which read differs from kept + dropped + rejected does not
exist, and a file entry whose path leaves its folder does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec
import xxhash

from ptool.errors import DamagedInput

SCHEMA = "ptool.manifest/1"
MOST_ALIKE = 64
"""Streams of the same work that a chain names one by one."""


class Counts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of every document read. `dropped_by` names the rule (or reason) of each dropped one."""

    read: int
    kept: int
    dropped: int = 0
    rejected: int = 0
    dropped_by: dict[str, int] = {}

    def __post_init__(self) -> None:
        if self.read != self.kept + self.dropped + self.rejected:
            raise ValueError(
                f"read {self.read} is not kept {self.kept} + dropped {self.dropped} + rejected {self.rejected}"
            )
        if sum(self.dropped_by.values()) != self.dropped:
            raise ValueError(f"dropped {self.dropped} is not the sum of {self.dropped_by}")


class Documents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sequence of document lines: `digest` is xxh3-128 over the uncompressed lines with their newlines."""

    digest: str
    num_documents: int
    num_bytes: int


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of an artefact: path relative to its folder, size in bytes, sha256 as `sha256:<hex>`."""

    path: str
    size: int
    digest: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in self.path:
            raise ValueError(f"path {self.path!r} leaves its folder")


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One stage's record. `details` holds what only this stage knows; `upstream` the stages before, nearest first."""

    schema: str
    stage: str
    version: str
    config: dict[str, Any]
    counts: Counts | None = None
    documents_in: Documents | None = None
    documents_out: Documents | None = None
    num_documents: int | None = None
    num_tokens: int | None = None
    num_bytes: int | None = None
    details: dict[str, Any] = {}
    files: list[FileEntry] = []
    upstream: list[Manifest] = []

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema {self.schema!r} is not {SCHEMA!r}")


def new_manifest(stage: str, config: dict[str, Any], **fields: Any) -> Manifest:
    """The manifest of a stage run by this version of ptool."""
    from ptool import __version__

    if "upstream" in fields:
        fields["upstream"] = together(fields["upstream"])
    return Manifest(schema=SCHEMA, stage=stage, version=__version__, config=config, **fields)


def add_up(counts: Sequence[Counts | None]) -> Counts:
    """The counts of several outputs as those of one; None is an output without any."""
    known = [count for count in counts if count is not None]
    rules = sorted({rule for count in known for rule in count.dropped_by})
    return Counts(
        read=sum(count.read for count in known),
        kept=sum(count.kept for count in known),
        dropped=sum(count.dropped for count in known),
        rejected=sum(count.rejected for count in known),
        dropped_by={rule: sum(count.dropped_by.get(rule, 0) for count in known) for rule in rules},
    )


def together(manifests: Sequence[Manifest]) -> list[Manifest]:
    """The manifests, with more than MOST_ALIKE streams of the same stage, version and configuration as one.

    That one adds up their counts, documents and bytes; `details` has how many they are (`merged`) and the digest of
    their digests. Artefacts, which have files, stay as they are: a run is bound to the digest of its data's manifest.
    """
    if len(manifests) <= MOST_ALIKE:
        return list(manifests)
    groups: dict[bytes, list[Manifest]] = {}
    for position, one in enumerate(manifests):
        is_stream = not one.files and (one.documents_out is not None or "merged" in one.details)
        work: list[Any] = [one.stage, one.version, one.config] if is_stream else [position]
        groups.setdefault(msgspec.json.encode(work, order="sorted"), []).append(one)
    found: list[Manifest] = []
    for group in groups.values():
        found += group if len(group) <= MOST_ALIKE else [_merged(group)]
    return found


def _merged(group: Sequence[Manifest]) -> Manifest:
    runs: dict[bytes, list[Manifest]] = {}  # the outputs of one run differ in `documents_out` alone
    for one in group:
        runs.setdefault(encode_manifest(msgspec.structs.replace(one, documents_out=None)), []).append(one)
    counts = [one.counts for same in runs.values() for one in _counted(same) if one.counts is not None]
    upstream = {encode_manifest(one): one for same in runs.values() for one in same[0].upstream}
    out = [(one.documents_out.num_documents, one.documents_out.num_bytes) for one in group if one.documents_out]
    digest = xxhash.xxh3_128("".join(manifest_digest(one) for one in group).encode()).hexdigest()
    return msgspec.structs.replace(
        group[0],
        counts=add_up(counts) if counts else None,
        documents_in=None,
        documents_out=None,
        num_documents=sum(one.num_documents or 0 for one in group) + sum(documents for documents, _ in out),
        num_bytes=sum(one.num_bytes or 0 for one in group) + sum(size for _, size in out),
        details={"merged": sum(one.details.get("merged", 1) for one in group), "digest": f"xxh3-128:{digest}"},
        upstream=together(list(upstream.values())),
    )


def _counted(same: Sequence[Manifest]) -> Sequence[Manifest]:
    """Of manifests that are equal but for the documents that came out, those whose counts add up.

    Parts of one run each have its counts; runs over equal inputs, each with all that it kept, have counts of their own.
    """
    kept = None if same[0].counts is None else same[0].counts.kept
    whole = all(one.documents_out is not None and one.documents_out.num_documents == kept for one in same)
    return same if whole else same[:1]


def encode_manifest(manifest: Manifest) -> bytes:
    """Deterministic JSON: equal manifests give equal bytes."""
    return msgspec.json.encode(manifest, order="sorted")


def decode_manifest(data: bytes, *, where: str) -> Manifest:
    """Read a manifest, naming `where` it came from when it is not one."""
    try:
        return msgspec.json.decode(data, type=Manifest, strict=True)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
        raise DamagedInput(f"not a ptool manifest: {error}", where=where) from error


def manifest_digest(manifest: Manifest) -> str:
    """xxh3-128 of the encoded manifest."""
    return f"xxh3-128:{xxhash.xxh3_128_hexdigest(encode_manifest(manifest))}"


class DocumentsDigest:
    """Digests document lines as they pass: feed whole lines, read `documents` at the end."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()
        self.num_documents = 0
        self.num_bytes = 0

    def update(self, lines: bytes | memoryview, num_documents: int) -> None:
        """Add whole lines, each ending in a newline."""
        self._hash.update(lines)
        self.num_documents += num_documents
        self.num_bytes += len(lines)

    @property
    def documents(self) -> Documents:
        """The digest so far."""
        return Documents(
            digest=f"xxh3-128:{self._hash.hexdigest()}", num_documents=self.num_documents, num_bytes=self.num_bytes
        )
