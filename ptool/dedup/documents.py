"""Deduplicating documents that are Python objects, as in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from ptool.dedup.config import DedupConfig
from ptool.dedup.resolver import Resolver
from ptool.dedup.signatures import describe
from ptool.dedup.walk import KEPT
from ptool.errors import UsageError
from ptool.text.batch import Batch, Keys
from ptool.text.mappings import AT_ONCE, text_of

Document = TypeVar("Document", bound=Mapping[str, Any])


def dedup_documents(
    documents: Iterable[Document], config: DedupConfig | None = None, *, keys: Keys | None = None
) -> Iterator[Document]:
    """The documents that repeat no earlier kept one, the same objects in the same order.

    A document is a mapping with a string under `keys.text`. Documents are taken and decided 256 at a time. Raises
    BadDocument, with its position, for one that is no document; UsageError for what takes all documents at once.
    Shingle sets are on disk meanwhile (spool.py).
    """
    config = config or DedupConfig()
    text_key = (keys or Keys()).text
    if config.needs_files:
        raise UsageError("prefer and cluster look at all documents at once", hint="dedup_stream on files does that")
    return _kept(documents, config, text_key)


def _kept(documents: Iterable[Document], config: DedupConfig, text_key: str) -> Iterator[Document]:
    remaining = iter(documents)
    first = 0
    with Resolver(config) as resolver:
        while group := list(islice(remaining, AT_ONCE)):
            batch = Batch.from_texts([text_of(one, text_key, position) for position, one in enumerate(group, first)])
            decisions = resolver.resolve(describe(batch.text, batch.offsets, config))
            for document, verdict in zip(group, decisions.verdicts.tolist(), strict=True):
                if verdict == KEPT:
                    yield document
            first += len(group)
