"""Character shingles and sets of shingles beside a few lines of plain Python."""

from __future__ import annotations

from itertools import pairwise

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ptool.text.batch import Batch
from ptool.text.shingles import distinct_hashes, hash_char_shingles

texts_of_any_kind = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=6)


def plain_hashes(text: str, ngram: int) -> list[int]:
    if not text:
        return []
    runs = [text[i : i + ngram] for i in range(max(1, len(text) - ngram + 1))]
    return [xxhash.xxh64_intdigest(run.encode()) for run in runs]


@given(texts_of_any_kind, st.integers(1, 30))
def test_character_shingles_are_runs_of_code_points(texts: list[str], ngram: int) -> None:
    batch = Batch.from_texts(texts)
    hashes, offsets = hash_char_shingles(batch.text, batch.offsets, ngram)
    found = [hashes[start:end].tolist() for start, end in pairwise(offsets)]
    assert found == [plain_hashes(text, ngram) for text in texts]


@given(texts_of_any_kind, st.integers(1, 3))
def test_a_set_holds_each_low_half_once_in_order_of_first_occurrence(texts: list[str], ngram: int) -> None:
    batch = Batch.from_texts([text * 3 for text in texts])
    values, offsets = distinct_hashes(*hash_char_shingles(batch.text, batch.offsets, ngram))
    found = [values[start:end].tolist() for start, end in pairwise(offsets)]
    assert found == [
        list(dict.fromkeys(value & 0xFFFFFFFF for value in plain_hashes(text * 3, ngram))) for text in texts
    ]
