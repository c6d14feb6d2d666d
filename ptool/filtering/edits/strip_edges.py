"""Remove whitespace at both edges of the text.

Source: `str.strip`; datatrove 0.10.1 ends its C4 filter so.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Edit
from ptool.text.batch import Batch, Columns


class StripEdges(Edit, frozen=True):
    """Takes blank lines and spaces off the edges."""

    changes: ClassVar = (("  a b \n", "a b"), ("\u3000文\u2028", "文"), (" \n", ""))
    leaves: ClassVar = ("a b", "")

    def apply(self, batch: Batch) -> Columns:
        """Each text without whitespace at its edges."""
        from ptool.text.whole_texts import strip_edges  # numba starts with the first edit

        return strip_edges(batch.text, batch.offsets)
