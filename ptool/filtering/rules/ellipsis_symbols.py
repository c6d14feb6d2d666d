"""Ellipses per word.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, section A.1.1): a symbol-to-word ratio of at most 0.1, counted for
the ellipsis alone, over all words. Three dots and the single character both count, as in datatrove 0.10.1.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class EllipsisSymbols(Rule, frozen=True):
    """Drops teasers whose sentences all break off."""

    accept: Range = Range(max=0.1)

    keeps: ClassVar = ("He paused ... and then went on to say the rest.", "")
    drops: ClassVar = ("Read more... Click here... Next page…", "wait...... what")

    def measure(self, batch: Batch) -> Measured:
        """Ellipses over words; 0 where there is no word."""
        return ratio(batch.count("...") + batch.count("…"), batch.words.num_words)
