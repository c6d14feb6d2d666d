"""`dedup_documents` on Python objects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ptool.dedup.config import DedupConfig
from ptool.dedup.documents import dedup_documents
from ptool.errors import BadDocument, UsageError
from ptool.text.batch import Keys
from tests.dedup.reference import dedup_texts, mutated_texts


def test_the_same_objects_come_back_in_order() -> None:
    texts = mutated_texts(11, num_families=60, copies=6)
    documents = [{"text": text, "more": [number]} for number, text in enumerate(texts)]
    found = list(dedup_documents(documents))
    kept = dedup_texts(texts, DedupConfig()).kept
    assert [id(document) for document in found] == [id(documents[position]) for position in kept]


def test_a_configuration_and_another_text_key_are_taken() -> None:
    documents = [{"body": "a b c d e f g h"}, {"body": "a b c d e f g h i"}, {"body": "a b c d e f g h"}]
    exact = list(dedup_documents(documents, DedupConfig(mode="exact"), keys=Keys(text="body")))
    assert exact == documents[:2]


def test_documents_are_taken_no_further_ahead_than_needed() -> None:
    def endless() -> Iterator[dict[str, str]]:
        number = 0
        while True:
            yield {"text": f"text {number}"}
            number += 1

    found = dedup_documents(endless())
    assert next(found) == {"text": "text 0"}


def test_what_takes_all_documents_at_once_is_refused() -> None:
    with pytest.raises(UsageError, match="all documents at once"):
        dedup_documents([], DedupConfig(cluster=True))


@pytest.mark.parametrize("bad", [{}, {"text": None}, {"text": "\ud800"}, "text"])
def test_what_is_no_document_is_named_by_its_position(bad: object) -> None:
    with pytest.raises(BadDocument, match="document 300"):
        list(dedup_documents([{"text": str(number)} for number in range(300)] + [bad]))  # type: ignore[list-item]
