"""Newlines per word.

Source: FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6): at most 0.3. As in datatrove 0.10.1, over lines
cut at newlines that are not blank.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class NewlinesPerWord(Rule, frozen=True):
    """Drops lists with a word or two on a line."""

    accept: Range = Range(max=0.3)

    keeps: ClassVar = ("a line of five words\nand another one of six words", "")
    drops: ClassVar = ("one\ntwo\nthree\nfour",)

    def measure(self, batch: Batch) -> Measured:
        """Newlines over words; 0 where there is no word."""
        return ratio(batch.newline_lines.counts - 1, batch.num_words)
