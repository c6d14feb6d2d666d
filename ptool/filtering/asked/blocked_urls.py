"""Whether the document's URL is on a list of pages.

Source: RefinedWeb (Penedo et al. 2023, arXiv:2306.01116, appendix G.1). Compared without case and without the scheme, a
leading `www.` and a final slash, as lists leave those out.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import numpy as np

from ptool.filtering.lists import read_list
from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch


class BlockedUrls(Rule, frozen=True):
    """Drops the pages in `file`; a document without a URL passes."""

    accept: Range = Range(max=0)
    file: str = ""
    digest: str = ""
    url_key: str = "url"

    keeps: ClassVar = ()
    drops: ClassVar = ()

    def measure(self, batch: Batch) -> Measured:
        """1 for a listed page, else 0."""
        blocked = _blocked(self.file, self.digest)
        found = [_bare(url) in blocked for url in batch.fields(self.url_key)]
        return np.array(found, dtype=np.float64)


@cache
def _blocked(file: str, digest: str) -> frozenset[str | None]:
    """The list's pages, once for all batches: lists have millions."""
    return frozenset(map(_bare, read_list(file, digest)))


def _bare(url: Any) -> str | None:
    if not isinstance(url, str):
        return None
    scheme, separator, rest = url.lower().partition("://")
    if not separator or "/" in scheme or "?" in scheme:  # the one of a link in the URL: `/save?to=http://…`
        rest = url.lower()
    return rest.removeprefix("www.").rstrip("/")
