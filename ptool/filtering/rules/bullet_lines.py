"""Share of lines that begin with a bullet.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, section A.1.1): at most 0.9. A bullet is `•` or `-`, as in datatrove
0.10.1.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class BulletLines(Rule, frozen=True):
    """Drops navigation bars and bare lists."""

    accept: Range = Range(max=0.9)

    keeps: ClassVar = ("A list:\n- one\n- two", "Prose without any bullet.", "")
    drops: ClassVar = ("- Home\n  - News\n\t• Contact", "• only")

    def measure(self, batch: Batch) -> Measured:
        """Lines that begin with a bullet over all lines; 0 where there is no line."""
        return ratio(batch.text_lines.num_starting("•", "-"), batch.text_lines.num_lines)
