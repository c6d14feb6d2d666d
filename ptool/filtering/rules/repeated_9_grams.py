"""Share of the text in 9 words in a row that stood there before.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, table A1): at most 0.11. From left to right without overlap,
compared and counted without the spaces, as in datatrove 0.10.1.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class Repeated9Grams(Rule, frozen=True):
    """Drops templates filled in again and again."""

    accept: Range = Range(max=0.11)

    keeps: ClassVar = ("one two three four five six seven eight nine ten eleven twelve", "word", "")
    drops: ClassVar = ("one two three four five six seven eight nine ten. " * 3,)

    def measure(self, batch: Batch) -> Measured:
        """Characters of repeated 9-grams over all characters."""
        return ratio(batch.packed_words.repeated_ngram_chars(9), batch.num_chars)
