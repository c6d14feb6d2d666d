"""Share of capitals among letters.

Source: practice of web corpora (CCNet, RedPajama-v2 and the Chinese sets use such bounds); the bound here is ptool's
own, set so that pages with capitalised titles stay.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class UppercaseCharacters(Rule, frozen=True):
    """Drops headlines, licence shouting and lists of acronyms."""

    accept: Range = Range(max=0.4)

    keeps: ClassVar = ("Mr. Smith goes to Washington, D.C.", "文", "")
    drops: ClassVar = ("BUY NOW AND SAVE",)

    def measure(self, batch: Batch) -> Measured:
        """Capital letters over all letters; 0 without any."""
        return ratio(batch.profile.uppercase, batch.profile.letters)
