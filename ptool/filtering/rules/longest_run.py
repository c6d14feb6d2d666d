"""Longest run of one character.

Source: practice of web corpora (CCNet, RedPajama-v2 and the Chinese sets use such bounds); the bound here is ptool's
own, set so that a ruled line stays.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch


class LongestRun(Rule, frozen=True):
    """Drops padding, banners and stuck keys."""

    accept: Range = Range(max=100)

    keeps: ClassVar = ("-" * 100, "a" + " " * 500 + "b", "")
    drops: ClassVar = ("=" * 101, "ha" + "a" * 200)

    def measure(self, batch: Batch) -> Measured:
        """Code points of the longest run; whitespace is none."""
        return batch.profile.longest_run.astype("float64")
