"""Share of the text in paragraphs that repeat an earlier one.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, table A1): at most 0.2. Characters of second and later occurrences
over those of the whole text, as in datatrove 0.10.1.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class RepeatedParagraphCharacters(Rule, frozen=True):
    """Drops pages in which a long block stands twice."""

    accept: Range = Range(max=0.2)

    keeps: ClassVar = ("one\n\none\n\nand a much longer paragraph that stands alone", "")
    drops: ClassVar = ("the same long block\n\nthe same long block\n\nend",)

    def measure(self, batch: Batch) -> Measured:
        """Characters of repeated paragraphs over all characters; 0 for an empty text."""
        _, repeated = batch.repeated_paragraphs
        return ratio(repeated.num_chars, batch.num_chars)
