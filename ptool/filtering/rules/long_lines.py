"""Lines of at least 200 characters.

Source: mC4 (Xue et al. 2021, arXiv:2010.11934): at least 3, each taken for a paragraph. As in datatrove 0.10.1
(C4ParagraphFilter), over lines cut at newlines.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch


class LongLines(Rule, frozen=True):
    """Drops pages without paragraphs of prose."""

    accept: Range = Range(min=3)
    length: int = 200

    keeps: ClassVar = ("x" * 200 + "\n" + "y" * 200 + "\n" + "z" * 200,)
    drops: ClassVar = ("x" * 999, "")

    def measure(self, batch: Batch) -> Measured:
        """Lines of at least `length` characters."""
        lines = batch.newline_lines
        return lines.num_where(lines.num_chars >= self.length).astype("float64")
