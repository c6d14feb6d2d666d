"""Words of a list that occur in the document's URL.

Source: RefinedWeb (Penedo et al. 2023, arXiv:2306.01116, appendix G.1): a single hard word, two soft ones, or a part
anywhere in the URL drop a page. One list is one step: `max=1` for soft words, `match=anywhere` for parts. The URL is
cut at everything but letters and digits; all matching is without case (datatrove 0.10.1 compares words with the case
of the URL, so that `Casino` passes its list).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np

from ptool.filtering.lists import read_list
from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch

_NO_WORD = re.compile(r"[\W_]+")


class BlockedUrlWords(Rule, frozen=True):
    """Drops pages whose URL has words of `file`; a document without a URL passes."""

    accept: Range = Range(max=0)
    file: str = ""
    digest: str = ""
    match: Literal["words", "anywhere"] = "words"
    url_key: str = "url"

    keeps: ClassVar = ()
    drops: ClassVar = ()

    def measure(self, batch: Batch) -> Measured:
        """Distinct words found."""
        urls = [url.lower() if isinstance(url, str) else "" for url in batch.fields(self.url_key)]
        if self.match == "words":
            words = read_list(self.file, self.digest)
            found = [len(words.intersection(_NO_WORD.split(url))) for url in urls]
        else:
            finder = _finder(self.file, self.digest)
            found = [
                len({entry for entry, _, _ in finder.find_matches_as_indexes(_NO_WORD.sub("", url), overlapping=True)})
                for url in urls
            ]
        return np.array(found, dtype=np.float64)


@cache
def _finder(file: str, digest: str) -> Any:
    from ahocorasick_rs import AhoCorasick

    return AhoCorasick(sorted({_NO_WORD.sub("", word) for word in read_list(file, digest)} - {""}))
