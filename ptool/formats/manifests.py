"""What ran, on what, and what came out: the record every output carries.

A manifest holds only what determines the bytes of an output: the stage, its version and configuration, the digests of
the documents in and out, and the manifests of the stages before. Times, hosts and paths stand elsewhere
(`FILE.run.json`), so that two runs of the same work have equal manifests. It is JSON with sorted keys, encoded one way.

Two laws are held by construction: a count of documents in which read differs from kept + dropped + rejected does not
exist, and a file entry whose path leaves its folder does not exist.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import msgspec
import xxhash

from ptool.errors import DamagedInput

SCHEMA = "ptool.manifest/1"


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

    return Manifest(schema=SCHEMA, stage=stage, version=__version__, config=config, **fields)


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
