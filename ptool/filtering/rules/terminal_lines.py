"""Share of lines that end a sentence.

Source: FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6): at least 0.12. As in datatrove 0.10.1, over lines
cut at newlines that are not blank; any script's punctuation that ends a sentence counts.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class TerminalLines(Rule, frozen=True):
    """Drops navigation, tables and lists of names."""

    accept: Range = Range(min=0.12)

    keeps: ClassVar = ("A sentence.\nno end", "到此为止。")
    drops: ClassVar = ("Home\nNews\nContact", "", "trailing space. ")

    def measure(self, batch: Batch) -> Measured:
        """Lines that end in terminal punctuation over all lines that are not blank; 0 without any."""
        lines = batch.filled_lines
        return ratio(lines.num_where(lines.ends_with_terminal()), lines.counts)
