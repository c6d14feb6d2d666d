"""Share of words of one or two characters.

Source: practice of web corpora (CCNet, RedPajama-v2 and the Chinese sets use such bounds); the bound here is ptool's
own, set so that English prose, with a quarter of such words, stays.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class ShortWords(Rule, frozen=True):
    """Drops letter salad, code and tables."""

    accept: Range = Range(max=0.5)
    length: int = 2

    keeps: ClassVar = ("It is as good as any other word", "中文沒有空格", "")
    drops: ClassVar = ("a b c d e f", "x = y + 1 ;")

    def measure(self, batch: Batch) -> Measured:
        """Words of at most `length` characters, ideographs and kana not counted as such, over all words."""
        return ratio(batch.words.num_short(self.length), batch.words.num_words)
