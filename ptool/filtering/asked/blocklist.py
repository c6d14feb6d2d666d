"""Words of a list that occur in the text.

Source: C4 (Raffel et al. 2020, section 2.2) drops pages with any word of a list; datatrove 0.10.1 does so in
C4BadWordsFilter. Without case; an entry stands alone between characters that are no letters and digits, except at an
edge where it has an ideograph, kana or Thai letter: those are written without spaces. Entries may be phrases.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import numpy as np

from ptool.filtering.lists import read_list
from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch


class Blocklist(Rule, frozen=True):
    """Drops pages with a word of the list in `file`; with `lang`, only pages in that language are looked at."""

    accept: Range = Range(max=0)
    file: str = ""
    digest: str = ""
    lang: str = ""

    keeps: ClassVar = ()
    drops: ClassVar = ()

    def measure(self, batch: Batch) -> Measured:
        """Distinct entries found."""
        finder = _finder(self.file, self.digest)
        counts = np.zeros(len(batch), dtype=np.float64)
        langs = _languages(batch) if self.lang else [""] * len(batch)
        for index in range(len(batch)):
            if langs[index] == self.lang:
                counts[index] = _num_found(finder, batch.text_of(index).decode().lower())
        return counts


def _languages(batch: Batch) -> list[str]:
    from ptool.filtering.languages import likeliest

    return likeliest(batch, 1000)


def _num_found(finder: Any, text: str) -> int:
    found = set()
    for entry, start, end in finder.find_matches_as_indexes(text, overlapping=True):
        if entry not in found and not (_joined(text, start - 1, start) or _joined(text, end, end - 1)):
            found.add(entry)
    return len(found)


def _joined(text: str, outside: int, inside: int) -> bool:
    """Whether a match goes on: a letter or digit on both sides of its edge, in a script with spaces."""
    if not 0 <= outside < len(text):
        return False
    return text[outside].isalnum() and text[inside].isalnum() and not _written_without_spaces(text[inside])


def _written_without_spaces(character: str) -> bool:
    return "\u0e00" <= character <= "\u0eff" or "\u3005" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff"


@cache
def _finder(file: str, digest: str) -> Any:
    from ahocorasick_rs import AhoCorasick

    return AhoCorasick(sorted(read_list(file, digest)))
