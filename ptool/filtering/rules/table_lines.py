"""Share of lines that look like rows of a table.

Source: practice of web corpora (CCNet, RedPajama-v2 and the Chinese sets use such bounds); the bound here is ptool's
own, set so that a page with a table in it stays.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class TableLines(Rule, frozen=True):
    """Drops tables that an extractor flattened."""

    accept: Range = Range(max=0.5)

    keeps: ClassVar = ("Prose, with one | bar.\n    indented code", "")
    drops: ClassVar = ("a | b | c\n1 | 2 | 3", "name\tage\tcity")

    def measure(self, batch: Batch) -> Measured:
        """Lines with two tabs, bars or gaps over all lines that are not blank."""
        from ptool.text.line_shapes import look_like_rows  # numba starts with the first measurement

        lines = batch.filled_lines
        return ratio(lines.num_where(look_like_rows(lines)), lines.counts)
