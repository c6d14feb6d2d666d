"""`from ptool import …`: the names that are promised exist, are documented, and cost nothing before they are used."""

from __future__ import annotations

import inspect

import pytest

import ptool


def test_all_lists_exactly_the_public_names() -> None:
    assert sorted(ptool.__all__) == sorted({"__version__", *ptool._PUBLIC})
    assert dir(ptool) == sorted(ptool.__all__)


@pytest.mark.parametrize("name", sorted(set(ptool.__all__) - {"__version__"}))
def test_a_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(ptool, name)
    assert value.__module__ == ptool._PUBLIC[name]
    assert inspect.getdoc(value)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        ptool.no_such_name  # noqa: B018


def test_documents_can_be_filtered_and_deduplicated_in_a_notebook() -> None:
    texts = [" ".join(f"the house{n} and the garden{place} of that" for place in range(12)) for n in range(3)]
    documents = [{"id": str(n), "text": text} for n, text in enumerate([*texts, "too short"])]
    kept = list(ptool.filter_documents(documents, "gopher-quality"))
    assert [document["id"] for document in kept] == ["0", "1", "2"]
    assert [document["id"] for document in ptool.dedup_documents([*kept, kept[0]])] == ["0", "1", "2"]
