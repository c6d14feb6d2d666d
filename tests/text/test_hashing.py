"""Kernels against the public libraries they promise to equal, on random and nasty text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import xxhash
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.text import hashing, xxh64
from ptool.text.signing import sign

words = st.text(st.characters(exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"]), min_size=1, max_size=40)
documents = st.lists(st.lists(words, max_size=30), max_size=8)


def columns(docs: Sequence[Sequence[str]], separators: Sequence[str] = (" ", " \n")) -> tuple[np.ndarray, ...]:
    """Text buffer, spans of words, document offsets in words; `separators` stand between words in turn."""
    text, spans, doc_offsets = b"", [], [0]
    for doc in docs:
        for word in doc:
            start = len(text)
            text += word.encode()
            spans.append((start, len(text)))
            text += separators[len(spans) % len(separators)].encode()
        doc_offsets.append(len(spans))
    return np.frombuffer(text, np.uint8), np.array(spans, np.int64).reshape(-1, 2), np.array(doc_offsets, np.int64)


def shingles(doc: Sequence[str], ngram: int) -> list[bytes]:
    if not doc:
        return []
    return [" ".join(doc[i : i + ngram]).encode() for i in range(max(1, len(doc) - ngram + 1))]


def hashfunc(shingle: bytes) -> int:
    return xxhash.xxh64_intdigest(shingle) & 0xFFFFFFFF


def signatures(docs: Sequence[Sequence[str]], *, ngram: int, num_perm: int, seed: int) -> np.ndarray:
    hashes, offsets = hashing.hash_shingles(*columns(docs), ngram)
    return sign(hashes, offsets, MinHash(num_perm, seed=seed, scheme="affine32").permutations)


def test_xxh64_of_slices_equals_the_library_at_every_length_and_alignment_alone_and_in_blocks() -> None:
    generator = np.random.default_rng(0)
    data = generator.integers(0, 256, 400 + xxh64.PADDING, dtype=np.uint8)
    lengths = np.concatenate([np.arange(200), generator.integers(0, 100, 700)])
    starts = generator.integers(0, 200, len(lengths))
    expected = [
        xxhash.xxh64_intdigest(data[start : start + length].tobytes())
        for start, length in zip(starts, lengths, strict=True)
    ]
    for first, last in ((0, 900), (0, 0), (0, 1), (5, 133), (7, 134), (8, 137)):
        hashes = np.empty(last - first, dtype=np.uint64)
        xxh64.hash_slices(data, starts[first:last], starts[first:last] + lengths[first:last], hashes)
        assert hashes.tolist() == expected[first:last]
    for start, length, value in zip(starts[:200], lengths[:200], expected[:200], strict=True):
        assert int(xxh64.xxh64(data, np.uint64(start), np.uint64(length))) == value


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=10))
def test_text_hashes_equal_the_library(texts: list[str]) -> None:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0] + [len(text) for text in encoded])
    found = hashing.hash_texts(np.frombuffer(b"".join(encoded), np.uint8), offsets)
    assert found.shape == (len(texts), 2)
    assert [(int(high) << 64) | int(low) for high, low in found] == [xxhash.xxh3_128_intdigest(t) for t in encoded]


@given(documents, st.integers(1, 13), st.lists(st.sampled_from(["", " ", "\n", "\u3000\t"]), min_size=1))
def test_shingles_are_hashes_of_words_joined_by_one_space(
    docs: list[list[str]], ngram: int, separators: list[str]
) -> None:
    hashes, offsets = hashing.hash_shingles(*columns(docs, separators), ngram)
    expected = [[xxhash.xxh64_intdigest(s) for s in shingles(doc, ngram)] for doc in docs]
    assert [hashes[a:b].tolist() for a, b in itertools.pairwise(offsets)] == expected


@settings(deadline=None, max_examples=40)
@given(documents, st.integers(1, 6), st.sampled_from([1, 7, 112, 128]), st.integers(0, 2**32 - 1))
def test_signatures_equal_datasketch_to_the_bit(docs: list[list[str]], ngram: int, num_perm: int, seed: int) -> None:
    found = signatures(docs, ngram=ngram, num_perm=num_perm, seed=seed)
    for doc, row in zip(docs, found, strict=True):
        oracle = MinHash(num_perm, seed=seed, hashfunc=hashfunc, scheme="affine32")
        oracle.update_batch(shingles(doc, ngram))
        assert row.dtype == oracle.hashvalues.dtype
        assert row.tolist() == oracle.hashvalues.tolist()


@pytest.mark.parametrize("num_words", [5, 12, 13, 255, 256, 257, 260, 261, 5000])
def test_a_text_longer_than_a_block_of_shingles_is_signed_whole(num_words: int) -> None:
    doc = [f"w{i * i}" for i in range(num_words)]
    oracle = MinHash(112, seed=3, hashfunc=hashfunc, scheme="affine32")
    oracle.update_batch(shingles(doc, 5))
    assert signatures([doc], ngram=5, num_perm=112, seed=3)[0].tolist() == oracle.hashvalues.tolist()


def test_a_text_shorter_than_a_shingle_is_one_shingle_and_a_wordless_text_none() -> None:
    hashes, offsets = hashing.hash_shingles(*columns([["one", "two"], [], ["深", "圳", "市"]]), 5)
    assert offsets.tolist() == [0, 1, 1, 2]
    assert hashes.tolist() == [xxhash.xxh64_intdigest(b"one two"), xxhash.xxh64_intdigest("深 圳 市".encode())]


def test_a_text_without_words_has_the_signature_of_the_empty_set() -> None:
    (row,) = signatures([[]], ngram=5, num_perm=4, seed=1)
    assert row.tolist() == [0xFFFFFFFF] * 4
    assert MinHash(4, hashvalues=row, scheme="affine32").is_empty()


def test_no_texts_give_empty_columns() -> None:
    nothing = np.zeros(0, np.uint8)
    assert hashing.hash_texts(nothing, np.zeros(1, np.int64)).shape == (0, 2)
    assert signatures([], ngram=5, num_perm=112, seed=1).shape == (0, 112)
