"""Share of lines that begin like a log: with dates, times or addresses.

Source: practice of web corpora (CCNet, RedPajama-v2 and the Chinese sets use such bounds); the bound here is ptool's
own, set so that chronicles stay.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class LogLines(Rule, frozen=True):
    """Drops server logs, chat logs and mail headers."""

    accept: Range = Range(max=0.3)

    keeps: ClassVar = ("12 people came on 3 May 1999.\nAnd so on.\nAnd on.\nTo the end.", "")
    drops: ClassVar = ("2024-01-02 12:00:01 INFO start\n2024-01-02 12:00:02 INFO stop", "[10.0.0.12] GET /")

    def measure(self, batch: Batch) -> Measured:
        """Lines with six digits in their first 24 bytes over all lines that are not blank."""
        from ptool.text.line_shapes import look_like_logs  # numba starts with the first measurement

        lines = batch.filled_lines
        return ratio(lines.num_where(look_like_logs(lines)), lines.counts)
