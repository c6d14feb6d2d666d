"""Documents that are Python objects, as in a notebook: what the stages' functions for them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptool.errors import BadDocument

AT_ONCE = 256
"""Documents taken together: enough to make numpy's cost per call small, few enough that results come soon."""


def text_of(document: Mapping[str, Any], key: str, position: int) -> str:
    """The text of the document at `position` (from 0), under `key`. Raises BadDocument where there is none."""
    text = document.get(key) if isinstance(document, Mapping) else None
    if not isinstance(text, str):
        raise BadDocument(f"no string under '{key}'", where=f"document {position}", hint="keys=Keys(text=...) names it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadDocument("a lone surrogate in the text", where=f"document {position}") from error
    return text
