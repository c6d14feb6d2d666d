"""Characters of the text.

Source: datatrove 0.10.1 drops an empty text before anything else; counted in code points.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch


class TextLength(Rule, frozen=True):
    """Drops texts without anything."""

    accept: Range = Range(min=1)

    keeps: ClassVar = (" ", "文")
    drops: ClassVar = ("",)

    def measure(self, batch: Batch) -> Measured:
        """Code points."""
        return batch.num_chars.astype("float64")
