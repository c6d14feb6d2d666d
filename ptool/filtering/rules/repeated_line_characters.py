"""Share of the text in lines that repeat an earlier one.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, table A1): at most 0.2. Characters of second and later occurrences
over those of the whole text, as in datatrove 0.10.1.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class RepeatedLineCharacters(Rule, frozen=True):
    """Drops pages in which long lines stand twice."""

    accept: Range = Range(max=0.2)

    keeps: ClassVar = ("one\none\nand a much longer line that stands alone", "")
    drops: ClassVar = ("the same long line\nthe same long line\nend",)

    def measure(self, batch: Batch) -> Measured:
        """Characters of repeated lines over all characters; 0 for an empty text."""
        _, repeated = batch.repeated_runs
        return ratio(repeated.num_chars, batch.num_chars)
