r"""Share of paragraphs that repeat an earlier one.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, table A1): at most 0.3. Paragraphs are what blank lines separate,
as in datatrove 0.10.1: `re.split(r"\n{2,}", text.strip())`.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class RepeatedParagraphs(Rule, frozen=True):
    """Drops pages made of the same block again and again."""

    accept: Range = Range(max=0.3)

    keeps: ClassVar = ("one\n\ntwo\n\nthree\n\nfour", "one\n\none\n\ntwo\n\nthree", "")
    drops: ClassVar = ("again\n\nagain\n\nagain", "a\n\n\nb\n\na")

    def measure(self, batch: Batch) -> Measured:
        """Second and later occurrences over all paragraphs."""
        num, repeated = batch.repeated_paragraphs
        return ratio(repeated.num, num)
