"""Number of different English stop words in the text.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, section A.1.1): at least two of `the be to of and that have with`.
As in datatrove 0.10.1 they are compared as they stand (`The` is another word) and each counts once.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")


class StopWords(Rule, frozen=True):
    """Drops what is no running English text: key words, code, other languages."""

    accept: Range = Range(min=2)

    keeps: ClassVar = ("the cat of my neighbour", "to have or to hold")
    drops: ClassVar = ("the cat the dog the bird", "The End Of Everything", "der Hund und die Katze", "")

    def measure(self, batch: Batch) -> Measured:
        """How many of the eight stop words occur, 0 to 8."""
        return batch.words.num_distinct(STOP_WORDS).astype(float)
