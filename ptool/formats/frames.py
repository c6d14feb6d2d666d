r"""The bytes of a `.jsonl.zst` stream: which frames it has, and what each promises.

    [header frame]  [data frame]...[data frame]  [trailer frame]

All three kinds are Zstandard frames, so `zstd -t`, `zstdcat` and `cat a.zst b.zst` work. Header and trailer are
skippable frames whose payload is one line of text and one of JSON,

    ptool-header/1 <xxh3-64 of the JSON, hex>\n{...}\n

and the trailer's payload ends in eight more bytes, the whole frame's length as u32 and `PTLR`, so that it can be found
from the end of a file without reading the rest. Any of the sixteen skippable magic numbers is accepted when the payload
is ours, so that no single flipped bit can make a header or a trailer vanish unnoticed.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import xxhash

from ptool.errors import DamagedInput
from ptool.formats.manifests import Manifest, decode_manifest, encode_manifest

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE_MAGIC = b"\x5d\x2a\x4d\x18"  # one of 0x184D2A50..5F (RFC 8878, 3.1.2)
GZIP_MAGIC = b"\x1f\x8b"
FRAME_BYTES = 4 << 20
"""Uncompressed bytes of a data frame: large enough for the full ratio, small enough to flow through a pipe."""

_HEADER = b"ptool-header/1 "
_TRAILER = b"ptool-trailer/1 "
_LOCATOR = struct.Struct("<I4s")
_LOCATOR_TAG = b"PTLR"
MAX_PAYLOAD = 256 << 20
"""Larger header or trailer payloads are taken for damage; a manifest chain is a few kilobytes."""


def header_frame(stage: str, version: str) -> bytes:
    """The first frame of a stream: it announces the trailer."""
    text = msgspec.json.encode({"format": "ptool-stream/1", "stage": stage, "trailer": True, "version": version})
    payload = _payload(_HEADER, text)
    return SKIPPABLE_MAGIC + struct.pack("<I", len(payload)) + payload


def trailer_frame(manifest: Manifest) -> bytes:
    """The last frame of a stream: the manifest of the stage that wrote it."""
    payload = _payload(_TRAILER, encode_manifest(manifest))
    total = 8 + len(payload) + _LOCATOR.size
    return (
        SKIPPABLE_MAGIC + struct.pack("<I", len(payload) + _LOCATOR.size) + payload + _LOCATOR.pack(total, _LOCATOR_TAG)
    )


def is_skippable(magic: bytes) -> bool:
    """Whether four bytes open a skippable frame."""
    return len(magic) == 4 and magic[1:] == SKIPPABLE_MAGIC[1:] and magic[0] & 0xF0 == 0x50


def is_ours(payload_start: bytes) -> bool:
    """Whether a skippable frame's payload claims to be a ptool header or trailer."""
    return payload_start.startswith((_HEADER, _TRAILER))


TAG_BYTES = max(len(_HEADER), len(_TRAILER))


def read_payload(payload: bytes, *, where: str) -> dict[str, Any] | Manifest:
    """A header's fields or a trailer's manifest. Raises DamagedInput when the checksum does not hold."""
    is_trailer = payload.startswith(_TRAILER)
    tag = _TRAILER if is_trailer else _HEADER
    if is_trailer:
        payload, locator = payload[: -_LOCATOR.size], payload[-_LOCATOR.size :]
        if len(locator) < _LOCATOR.size or _LOCATOR.unpack(locator) != (len(payload) + 16, _LOCATOR_TAG):
            raise DamagedInput("the trailer is damaged", where=where, hint="the file was altered; make it again")
    digest, _, text = payload[len(tag) :].partition(b"\n")
    text = text.removesuffix(b"\n")
    if payload != tag + digest + b"\n" + text + b"\n" or digest != _checksum(text):
        kind = "trailer" if is_trailer else "header"
        raise DamagedInput(f"the {kind} is damaged", where=where, hint="the file was altered; make it again")
    if is_trailer:
        return decode_manifest(text, where=where)
    fields: dict[str, Any] = msgspec.json.decode(text)
    return fields


def trailer_at_end(tail: bytes) -> int | None:
    """Length of the trailer frame that ends in `tail`, by its locator; None where there is none."""
    if len(tail) < _LOCATOR.size:
        return None
    length, tag = _LOCATOR.unpack(tail[-_LOCATOR.size :])
    return length if tag == _LOCATOR_TAG else None


def _payload(tag: bytes, text: bytes) -> bytes:
    return tag + _checksum(text) + b"\n" + text + b"\n"


def _checksum(text: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(text).encode()
