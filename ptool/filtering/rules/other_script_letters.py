"""Share of letters outside the commonest script.

Source: practice of web corpora (CCNet, RedPajama-v2 and the Chinese sets use such bounds); the bound here is ptool's
own, set so that Chinese and Japanese prose with Latin names stays.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class OtherScriptLetters(Rule, frozen=True):
    """Drops word lists, phrase books and mixed-up encodings."""

    accept: Range = Range(max=0.4)

    keeps: ClassVar = ("He said that Москва is large.", "用 Python 寫程式", "")
    drops: ClassVar = ("один one два two", "abcдеж")

    def measure(self, batch: Batch) -> Measured:
        """Letters of all other scripts over all letters. Ideographs and kana are one script; 0 without letters."""
        by_script = batch.profile.by_script
        return ratio(by_script.sum(axis=1) - by_script.max(axis=1), by_script.sum(axis=1))
