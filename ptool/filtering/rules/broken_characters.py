"""Share of characters that are no text: controls, U+FFFD, misread UTF-8.

Source: practice of web corpora (CCNet, RedPajama-v2 and the Chinese sets use such bounds); the bound here is ptool's
own, set so that one slip in a page stays.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class BrokenCharacters(Rule, frozen=True):
    """Drops binary data and text in the wrong encoding."""

    accept: Range = Range(max=0.005)

    keeps: ClassVar = ("naïve café — “fine”\n\tand Âme", "")
    drops: ClassVar = ("cafÃ© trÃ¨s", "it\u00e2\u20ac\u2122s", "\ufffd\ufffd", "\x00\x01")

    def measure(self, batch: Batch) -> Measured:
        """Broken characters over all characters; 0 for an empty text."""
        return ratio(batch.profile.broken, batch.num_chars)
