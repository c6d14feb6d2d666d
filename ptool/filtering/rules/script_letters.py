"""Share of letters of one script.

Source: practice of web corpora (CCNet, RedPajama-v2 and the Chinese sets use such bounds); the bound here is ptool's
own, set so that a quotation in another script stays.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch

Script = Literal[
    "latin", "greek", "cyrillic", "hebrew", "arabic", "devanagari", "other-indic", "thai", "hangul", "cjk", "armenian",
    "georgian", "ethiopic", "other",
]  # fmt: skip


class ScriptLetters(Rule, frozen=True):
    """Drops pages that are written otherwise."""

    accept: Range = Range(min=0.5)
    script: Script = "latin"

    keeps: ClassVar = ("Latin letters, and два", "")
    drops: ClassVar = ("Это русский", "这是中文")

    def measure(self, batch: Batch) -> Measured:
        """Letters of `script` (a name in ptool/text/kinds.py) over all letters; 1 without any."""
        found = batch.profile
        return np.where(found.letters == 0, 1.0, ratio(found.of_script(self.script), found.letters))
