"""Lines with an opening curly bracket.

Source: C4 (Raffel et al. 2020, section 2.2): none, because the page then is source code. As in datatrove 0.10.1.
`before` counts only the lines above the first one with that phrase: C4 reads lines in order and names what it met
first.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch


class CurlyBrackets(Rule, frozen=True):
    """Drops program text."""

    accept: Range = Range(max=0)
    before: str = ""

    keeps: ClassVar = ("No brackets (but these).", "")
    drops: ClassVar = ("if (x) { y(); }",)

    def measure(self, batch: Batch) -> Measured:
        """Lines with `{`."""
        from ptool.text.phrases import count_lines_with  # numba starts with the first measurement

        return count_lines_with(batch.newline_lines, "{", before=self.before).astype("float64")
