"""Share of the text taken by the commonest four words in a row.

Source: Gopher (Rae et al. 2021, arXiv:2112.11446, table A1): at most 0.16. Occurrences times characters with the
spaces between, over the characters of the text; of equally common ones the first, and a single occurrence counts, as
in datatrove 0.10.1.
"""

from __future__ import annotations

from typing import ClassVar

from ptool.filtering.protocol import Measured, Range, Rule, ratio
from ptool.text.batch import Batch


class Top4Gram(Rule, frozen=True):
    """Drops keyword lists and slogans."""

    accept: Range = Range(max=0.16)

    keeps: ClassVar = (
        "one two three four five six seven eight nine ten eleven twelve thirteen and fourteen " + "0" * 99,
        "word",
        "",
    )
    drops: ClassVar = ("buy it right now " * 20,)

    def measure(self, batch: Batch) -> Measured:
        """Characters of the top 4-gram over all characters; 0 with fewer than 4 words."""
        return ratio(batch.packed_words.top_ngram_chars(4), batch.num_chars)
