"""Write whitespace in one way.

Source: the usual practice of corpus cleaning: one kind of line end, one space between words, no space at the edges of
lines, at most one blank line in a row.
"""

from __future__ import annotations

import re
from typing import ClassVar

from ptool.filtering.protocol import Edit
from ptool.text.batch import Batch, Columns, columns_of

_LINE_ENDS = re.compile("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
_SPACES = re.compile(r"[^\S\n]+")
_EDGES = re.compile(r" ?\n ?")
_BLANK = re.compile(r"\n{3,}")


class NormaliseWhitespace(Edit, frozen=True):
    """Makes texts that differ in blanks alone equal."""

    changes: ClassVar = (("a \t b\r\n\r\n\r\n\r\n c\u3000d ", "a b\n\nc d"), ("\n\na", "a"))
    leaves: ClassVar = ("a b\n\nc", "")

    def apply(self, batch: Batch) -> Columns:
        """Each text with plain spaces and newlines."""
        return columns_of([_normal(batch.text_of(index).decode()).encode() for index in range(len(batch))])


def _normal(text: str) -> str:
    text = _EDGES.sub("\n", _SPACES.sub(" ", _LINE_ENDS.sub("\n", text)))
    return _BLANK.sub("\n\n", text).strip()
