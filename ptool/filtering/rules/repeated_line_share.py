"""Share of the text in non-blank lines that repeat an earlier one.

Source: FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6): at most 0.01. As in datatrove 0.10.1, over lines
cut at newlines that are not blank; over the characters of the text without its newlines.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class RepeatedLineShare(Rule, frozen=True):
    """Drops pages whose footer stands under every section."""

    accept: Range = Range(max=0.01)

    keeps: ClassVar = ("one\ntwo\n\n\nthree", "")
    drops: ClassVar = ("read more\na story of a cat\nread more",)

    def measure(self, batch: Batch) -> Measured:
        """Characters of repeated lines over all characters but newlines."""
        from ptool.text.repetition import repeated_segments  # numba starts with the first measurement

        lines = batch.filled_lines
        newlines = batch.newline_lines.counts - 1
        return ratio(repeated_segments(lines).num_chars, batch.num_chars - newlines)
