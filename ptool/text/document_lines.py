"""One JSON line as a document: how it is decoded, how an id gets into it, and why a line is no document.

The decoder is msgspec's, typed with the three fields that are asked for; all others are checked and skipped, which is
what makes it fast (0.4 to 1.4 GB/s). It says little about what is wrong, so a bad line is looked at once more by
Python's own decoder, slowly, for a clause that a person can act on.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from ptool.text.batch import Keys

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NO_SOURCE = msgspec.Raw(b"null")

_decoders: dict[Keys, msgspec.json.Decoder[Any]] = {}


def document_decoder(keys: Keys) -> msgspec.json.Decoder[Any]:
    """A typed decoder of the three fields; all others are checked and skipped."""
    if keys not in _decoders:
        # None stands for a missing id alone: an id that is null is refused as no string.
        document = msgspec.defstruct(
            "Document",
            [("text", str), ("id", str, None), ("source", msgspec.Raw, _NO_SOURCE)],
            rename={"text": keys.text, "id": keys.id, "source": keys.source},
            gc=False,
        )
        _decoders[keys] = msgspec.json.Decoder(document)
    return _decoders[keys]


def lines_of(data: bytes) -> list[bytes]:
    """The lines without their newlines; the last one may lack it."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def string_or_none(raw: bytes) -> str | None:
    """A JSON string; None for any other JSON."""
    return msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else None


def splice_start(keys: Keys, origin: str) -> bytes:
    """What goes before the line's number where an id is spliced in: `"id":"<origin>#`."""
    # A file name that is no UTF-8 arrives with surrogates, which JSON must not have.
    name = origin.encode("utf-8", "backslashreplace").decode()
    return msgspec.json.encode(keys.id) + b":" + msgspec.json.encode(f"{name}#")[:-1]


def why_bad(line: bytes, keys: Keys, error: Exception) -> str:
    """One clause for a person; runs for bad lines only."""
    try:
        line.decode()
    except UnicodeDecodeError as broken:
        return f"invalid UTF-8 at byte {broken.start + 1} of the line"
    if line.startswith(_BYTE_ORDER_MARK):
        return "a byte order mark before the document"
    if isinstance(error, msgspec.ValidationError):
        return _why_no_document(line, keys)
    if isinstance(error, RecursionError):
        return "not JSON that can be read: nested too deeply"
    if _has_lone_surrogate(line):
        return "a lone surrogate: half of a \\u pair, which is no character"
    return f"not JSON: {str(error).removeprefix('JSON is malformed: ')}"


def _why_no_document(line: bytes, keys: Keys) -> str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return "not a document"
    if not isinstance(found, dict):
        return f"not a JSON object but {_kind(found)}"
    if keys.text not in found:
        return f"no text: the field '{keys.text}' is missing"
    wrong = keys.text if not isinstance(found[keys.text], str) else keys.id
    return f"the field '{wrong}' is {_kind(found.get(wrong))}, not a string"


def _has_lone_surrogate(line: bytes) -> bool:
    try:
        json.dumps(json.loads(line), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
