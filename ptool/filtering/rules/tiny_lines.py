"""Share of lines of at most 10 characters.

Source: practice of web corpora (CCNet, RedPajama-v2 and the Chinese sets use such bounds); the bound here is ptool's
own, set so that verse and dialogue stay.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class TinyLines(Rule, frozen=True):
    """Drops navigation bars and calendars."""

    accept: Range = Range(max=0.5)
    length: int = 10

    keeps: ClassVar = ("short\nand a line that is not", "")
    drops: ClassVar = ("Home\nNews\nContact\nAnd a line of prose",)

    def measure(self, batch: Batch) -> Measured:
        """Lines of at most `length` characters over all lines that are not blank."""
        lines = batch.filled_lines
        return ratio(lines.num_where(lines.num_chars <= self.length), lines.counts)
