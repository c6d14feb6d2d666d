"""Share of digits among visible characters.

Source: practice of web corpora (CCNet, RedPajama-v2 and the Chinese sets use such bounds); the bound here is ptool's
own, set so that prose with dates and figures stays.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class DigitCharacters(Rule, frozen=True):
    """Drops tables of numbers, phone lists and price lists."""

    accept: Range = Range(max=0.3)

    keeps: ClassVar = ("In 1999 there were 12 of them.", "")
    drops: ClassVar = ("12 34 56 78 a", "１２３４")

    def measure(self, batch: Batch) -> Measured:
        """Decimal digits of any script over all characters but whitespace."""
        found = batch.profile
        visible = batch.num_chars - found.spaces
        return ratio(found.digits, visible)
