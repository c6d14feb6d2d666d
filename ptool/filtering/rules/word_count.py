"""Number of words that are not bare symbols.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, section A.1.1): 50 to 100,000 words. As in datatrove 0.10.1, a word
of symbols alone is not counted.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch


class WordCount(Rule, frozen=True):
    """Drops fragments, and dumps of a whole site."""

    accept: Range = Range(min=50, max=100_000)

    keeps: ClassVar = ("word " * 50, "字" * 50)
    drops: ClassVar = ("word " * 49 + "-- ... !?", "word " * 100_001, "字" * 49 + "。")

    def measure(self, batch: Batch) -> Measured:
        """Words with at least one character that is no symbol."""
        return batch.words.num_with_text.astype(float)
