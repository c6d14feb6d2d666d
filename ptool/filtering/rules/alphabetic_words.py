"""Share of words with at least one letter.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, section A.1.1): at least 0.8, over all words. A letter is what
Unicode calls one (`str.isalpha`), in any script. (datatrove 0.10.1 names this bound `max_non_alpha_words_ratio`.)
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class AlphabeticWords(Rule, frozen=True):
    """Drops tables of numbers, logs and ASCII art."""

    accept: Range = Range(min=0.8)

    keeps: ClassVar = ("four words and then 1", "四個字呢 1")
    drops: ClassVar = ("12.5 13.5 14.5 total", "| -- | -- |", "")

    def measure(self, batch: Batch) -> Measured:
        """Words with a letter over all words; 0 where there is no word."""
        return ratio(batch.words.num_with_letters, batch.words.num_words)
