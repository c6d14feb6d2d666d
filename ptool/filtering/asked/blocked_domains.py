"""Whether the document's URL is on a blocked domain.

Source: RefinedWeb (Penedo et al. 2023, arXiv:2306.01116, appendix G.1) and FineWeb drop pages of listed domains. The
host and every domain above it, down to the one that can be registered, are looked up; `co.uk` on a list blocks nobody.
What can be registered says the public suffix list that the `publicsuffixlist` package ships.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np

from ptool.filtering.lists import read_list
from ptool.filtering.protocol import Measured, Range, Rule
from ptool.text.batch import Batch

_WITH_HOST = re.compile(r"\s*([a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)  # not a link in the path: `a.com/to=http://…`


class BlockedDomains(Rule, frozen=True):
    """Drops pages of the domains in `file`, sub-domains included; a document without a URL passes."""

    accept: Range = Range(max=0)
    file: str = ""
    digest: str = ""
    url_key: str = "url"

    keeps: ClassVar = ()
    drops: ClassVar = ()

    def measure(self, batch: Batch) -> Measured:
        """1 on a blocked domain, else 0."""
        blocked = read_list(self.file, self.digest)
        found = [any(domain in blocked for domain in domains_of(url)) for url in batch.fields(self.url_key)]
        return np.array(found, dtype=np.float64)


def domains_of(url: Any) -> list[str]:
    """The host of a URL and the domains above it, down to the registered one; nothing for what is no URL."""
    if not isinstance(url, str):
        return []
    try:
        host = urlsplit(url if _WITH_HOST.match(url) else f"//{url}").hostname or ""
    except ValueError:
        return []
    host = host.rstrip(".")
    registered = _suffixes().privatesuffix(host) or host
    labels = host.split(".")
    most = len(labels) - registered.count(".")
    return [".".join(labels[first:]) for first in range(most)] if host else []


@cache
def _suffixes() -> Any:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
