"""Lists that people bring: a word, domain or URL on each line, `#` comments, any size; known by their digest."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from ptool.errors import InputError, UsageError


def list_digest(path: Path) -> str:
    """`sha256:<hex>` of the file. Raises InputError where it cannot be read."""
    return f"sha256:{hashlib.sha256(_read(path)).hexdigest()}"


@cache
def read_list(path: str, digest: str) -> frozenset[str]:
    """The entries in lower case; refuses another file than the one that `digest` names."""
    data = _read(Path(path))
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if digest not in ("", found):
        raise UsageError(f"the list has changed: {found} is not {digest}", where=path, hint="name the new list anew")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: {error.reason} at byte {error.start + 1}", where=path) from error
    lines = (line.strip().lower() for line in text.splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the list: {(error.strerror or str(error)).lower()}", where=str(path)) from error
