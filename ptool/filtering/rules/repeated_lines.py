r"""Share of lines that repeat an earlier one.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, table A1): at most 0.3. Lines are what newlines separate, blank
lines not counted, as in datatrove 0.10.1: `re.split(r"\n+", text)`.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class RepeatedLines(Rule, frozen=True):
    """Drops menus, forms and lyrics."""

    accept: Range = Range(max=0.3)

    keeps: ClassVar = ("one\ntwo\nthree\nfour", "one\none\ntwo\nthree", "")
    drops: ClassVar = ("again\nagain\nagain", "a\n\nb\na")

    def measure(self, batch: Batch) -> Measured:
        """Second and later occurrences over all lines."""
        num, repeated = batch.repeated_runs
        return ratio(repeated.num, num)
