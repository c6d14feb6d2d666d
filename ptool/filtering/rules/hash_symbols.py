"""Hash signs per word.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, section A.1.1): a symbol-to-word ratio of at most 0.1, counted for
the hash sign alone, over all words.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class HashSymbols(Rule, frozen=True):
    """Drops pages of hash tags."""

    accept: Range = Range(max=0.1)

    keeps: ClassVar = ("# A heading over a paragraph of ten words is fine", "")
    drops: ClassVar = ("#sun #sea #holiday and a few more words", "## Two hashes in a text of only ten words")

    def measure(self, batch: Batch) -> Measured:
        """Hash signs over words; 0 where there is no word."""
        return ratio(batch.count("#"), batch.words.num_words)
