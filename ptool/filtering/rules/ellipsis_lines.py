"""Share of lines that end with an ellipsis.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, section A.1.1): at most 0.3. Three dots and the single character
both count, as in datatrove 0.10.1.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class EllipsisLines(Rule, frozen=True):
    """Drops pages of previews that are cut short."""

    accept: Range = Range(max=0.3)

    keeps: ClassVar = ("He fell silent ...\nThen he spoke.\nThey listened.\nIt was late.", "")
    drops: ClassVar = ("Ten things you must know…\nAn article about cats ...\nA whole line.",)

    def measure(self, batch: Batch) -> Measured:
        """Lines that end with an ellipsis over all lines; 0 where there is no line."""
        return ratio(batch.text_lines.num_ending("...", "…"), batch.text_lines.num_lines)
