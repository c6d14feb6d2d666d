"""Share of lines of at most 30 characters.

Source: FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6): at most 0.67. As in datatrove 0.10.1, over lines
cut at newlines that are not blank, their edges included.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class ShortLines(Rule, frozen=True):
    """Drops menus and lists of links."""

    accept: Range = Range(max=0.67)
    length: int = 30

    keeps: ClassVar = ("short\nand a line that is longer than thirty characters", "")
    drops: ClassVar = ("Home\nNews\nContact",)

    def measure(self, batch: Batch) -> Measured:
        """Lines of at most `length` characters over all lines that are not blank."""
        lines = batch.filled_lines
        return ratio(lines.num_where(lines.num_chars <= self.length), lines.counts)
