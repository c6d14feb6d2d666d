"""Mean length in characters of the words that are not bare symbols.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, section A.1.1): 3 to 10 characters. Words of symbols alone are left
out, as in datatrove 0.10.1. Every ideograph is a word of one character, so this rule is for alphabetic scripts.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class MeanWordLength(Rule, frozen=True):
    """Drops lists of initials and digits, and text whose spaces are lost."""

    accept: Range = Range(min=3, max=10)

    keeps: ClassVar = ("one two six", "extraordinarily long and short words", "cat !!!!!!!!!!!!!!!!!!!! dog")
    drops: ClassVar = ("a b c d 1 2 3", "thespacesofthispagewerelost", "")

    def measure(self, batch: Batch) -> Measured:
        """Code points per word; 0 where there is no word."""
        return ratio(batch.words.chars_with_text, batch.words.num_with_text)
