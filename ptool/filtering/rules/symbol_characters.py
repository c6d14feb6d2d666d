"""Share of symbols among visible characters.

Source: practice of web corpora (CCNet, RedPajama-v2 and the Chinese sets use such bounds); the bound here is ptool's
own, set so that dialogue and references stay.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class SymbolCharacters(Rule, frozen=True):
    """Drops ASCII art, markup and keyboard mashing."""

    accept: Range = Range(max=0.3)

    keeps: ClassVar = ("Well - he said (twice): no!", "हिन्दी", "")
    drops: ClassVar = ("<<<>>> --- *** a", "$%&/()=?")

    def measure(self, batch: Batch) -> Measured:
        """What is no letter, digit, mark or whitespace over all but whitespace."""
        found = batch.profile
        visible = batch.num_chars - found.spaces
        return ratio(visible - found.letters - found.digits - found.marks, visible)
