"""Signatures beside the libraries whose values they claim to have, and simplified texts by example."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from datasketch import MinHash

from ptool.dedup.config import DedupConfig
from ptool.dedup.signatures import permutations, sign_shingles
from ptool.dedup.simplify import simplify
from ptool.text.batch import Batch
from ptool.text.hashing import hash_shingles
from ptool.text.word_spans import word_spans
from tests.dedup.reference import mutated_texts, shingles

TEXTS = ["", "one", "深圳市 one two three four five six", *mutated_texts(5, num_families=5, copies=3)]


def signatures_of(config: DedupConfig) -> np.ndarray:
    batch = Batch.from_texts(TEXTS)
    spans = word_spans(batch.text, batch.offsets)
    short_texts = config.scheme != "datatrove"
    return sign_shingles(*hash_shingles(batch.text, *spans, config.ngram, short_texts=short_texts), config)


@pytest.mark.parametrize("scheme", ["affine32", "legacy"])
@pytest.mark.parametrize("seed", [1, 42])
def test_signatures_equal_datasketch_s_to_the_bit(scheme: str, seed: int) -> None:
    config = DedupConfig(scheme=scheme, seed=seed)  # type: ignore[arg-type]
    for text, found in zip(TEXTS, signatures_of(config), strict=True):
        expected = MinHash(
            112,
            seed=seed,
            hashfunc=lambda data: xxhash.xxh64_intdigest(data) & 0xFFFFFFFF,
            scheme=scheme,  # type: ignore[arg-type]
        )
        expected.update_batch(shingles(text, 5) or [])
        assert found.tolist() == expected.hashvalues.tolist()


@pytest.mark.parametrize("scheme", ["affine32", "legacy"])
@pytest.mark.parametrize(("num_perm", "seed"), [(1, 0), (112, 1), (128, 2**32 - 1)])
def test_permutations_are_those_that_datasketch_draws(scheme: str, num_perm: int, seed: int) -> None:
    theirs = MinHash(num_perm, seed=seed, scheme=scheme).permutations  # type: ignore[arg-type]
    found = permutations(num_perm, seed, scheme)  # type: ignore[arg-type]
    assert (found.dtype, found.tolist()) == (theirs.dtype, theirs.tolist())


def test_signatures_equal_datatrove_s_formula_with_its_wrapping_product() -> None:
    config = DedupConfig.datatrove()
    generator = np.random.RandomState(1)
    multipliers = generator.randint(1, 2**61 - 1, dtype=np.uint64, size=(1, 112))
    addends = generator.randint(0, 2**61 - 1, dtype=np.uint64, size=(1, 112))
    assert permutations(112, 1, "datatrove").tolist() == [multipliers[0].tolist(), addends[0].tolist()]
    for text, found in zip(TEXTS, signatures_of(config), strict=True):
        hashes = [xxhash.xxh64_intdigest(one) for one in shingles(text, 5)] if len(text.split()) >= 5 else []
        if hashes:
            values = (np.array(hashes, dtype=np.uint64)[:, None] * multipliers + addends) % np.uint64(2**61 - 1)
            assert found.tolist() == values.min(axis=0).tolist()


def test_texts_shorter_than_a_shingle_have_none_in_datatrove() -> None:
    batch = Batch.from_texts(["one two three four", "one two three four five"])
    offsets = hash_shingles(batch.text, *word_spans(batch.text, batch.offsets), 5, short_texts=False)[1]
    assert np.diff(offsets).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "simplified"),
    [
        ("Hello, World!", "hello world"),
        ("It cost 1,234.56 in 2024.", "it cost 0 0 in 0"),
        ("  a\tb\n\nc  ", "a b c"),
        ("Café NAÏVE", "cafe naive"),
        ("深圳，市。", "深圳 市"),
        ("", ""),
        ("!?", ""),
    ],
)
def test_simplified_texts(text: str, simplified: str) -> None:
    assert simplify(text) == simplified
