"""Number of sentences.

Source: C4 (Raffel et al. 2020, section 2.2): at least 5. Counted by punctuation as datatrove 0.10.1 does for
languages without a model (ptool/text/sentences.py); its English default is spaCy's sentencizer.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch


class SentenceCount(Rule, frozen=True):
    """Drops headlines, captions and error pages."""

    accept: Range = Range(min=5)

    keeps: ClassVar = ("One. Two! Three? Four. Five.", "一。二。三。四。五。", "a\nb\nc\nd\ne")
    drops: ClassVar = ("A page of one sentence.", "Dr. J. Smith is here. He is not.", "")

    def measure(self, batch: Batch) -> Measured:
        """Sentences over all lines; a line without punctuation is one."""
        from ptool.text.sentences import count_sentences  # numba starts with the first measurement

        return count_sentences(batch.newline_lines).astype("float64")
