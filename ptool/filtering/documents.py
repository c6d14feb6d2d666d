"""Filtering documents that are Python objects, as in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import msgspec

from ptool.errors import UsageError
from ptool.filtering.decisions import judge
from ptool.filtering.recipe import ASKED, DEFAULT_PRESET, Recipe, load_preset, load_rule
from ptool.text.batch import Batch, Keys
from ptool.text.mappings import AT_ONCE, text_of

Document = TypeVar("Document", bound=Mapping[str, Any])


def filter_documents(
    documents: Iterable[Document], recipe: Recipe | str = DEFAULT_PRESET, *, keys: Keys | None = None
) -> Iterator[Document]:
    """The documents that `recipe` (or the preset of that name) keeps, the same objects in the same order.

    A document is a mapping with a string under `keys.text`. Documents are taken and judged 256 at a time. Raises
    BadDocument, with its position, for one that is no document, UsageError for a
    recipe that edits.
    """
    text_key = (keys or Keys()).text
    recipe = load_preset(recipe) if isinstance(recipe, str) else recipe
    if recipe.edits:
        raise UsageError("a recipe that edits gives other documents back", hint="use its rules, or ptool filter")
    reads_fields = any(load_rule(step.name).__module__.startswith(ASKED) for _, step in recipe.rules)
    remaining = iter(documents)
    first = 0
    while group := list(islice(remaining, AT_ONCE)):
        texts = [text_of(document, text_key, position) for position, document in enumerate(group, start=first)]
        batch = Batch.from_texts(texts, word_rule=recipe.words, lines=_lines(group) if reads_fields else None)
        verdicts = judge(batch, recipe)
        for document, failed in zip(group, verdicts.failed.tolist(), strict=True):
            if failed < 0:
                yield document
        first += len(group)


def _lines(documents: Iterable[Mapping[str, Any]]) -> list[bytes]:
    """The documents as JSON, for rules that look at other fields."""
    return [msgspec.json.encode(dict(document)) + b"\n" for document in documents]
