"""Paragraphs that are the same as the one before.

Source: practice of web corpora (CCNet, RedPajama-v2 and the Chinese sets use such bounds); the bound here is ptool's
own, set so that a slip of the extractor stays.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch


class ConsecutiveParagraphs(Rule, frozen=True):
    """Drops pages that an extractor or a form has doubled."""

    accept: Range = Range(max=1)

    keeps: ClassVar = ("one\n\none\n\ntwo\n\none", "")
    drops: ClassVar = ("again\n\nagain\n\nagain",)

    def measure(self, batch: Batch) -> Measured:
        """Paragraphs equal to their predecessor."""
        from ptool.text.repetition import consecutive_paragraphs  # numba starts with the first measurement

        return consecutive_paragraphs(batch.newline_lines).astype("float64")
