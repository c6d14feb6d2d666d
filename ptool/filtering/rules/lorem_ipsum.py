"""Lines with the words lorem ipsum.

Source: C4 (Raffel et al. 2020, section 2.2): none. Compared without case, as in datatrove 0.10.1.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch


class LoremIpsum(Rule, frozen=True):
    """Drops pages that were never filled in."""

    accept: Range = Range(max=0)

    keeps: ClassVar = ("Lorem, or ipsum?", "")
    drops: ClassVar = ("LOREM ipsum dolor sit amet", "Text.\nlorem ipsum")

    def measure(self, batch: Batch) -> Measured:
        """Lines with the phrase."""
        from ptool.text.phrases import count_lines_with  # numba starts with the first measurement

        return count_lines_with(batch.newline_lines, "lorem ipsum").astype("float64")
