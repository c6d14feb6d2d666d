"""Hashes over text columns: whole texts, and runs of words.

Everything is a public function of the text, so that anyone can recompute it without ptool:

- a text hash is `xxh3_128` of its UTF-8 bytes (library `xxhash`);
- a shingle is n consecutive words joined by one space, its hash is `xxh64` of those bytes with seed 0
  (`xxhash.xxh64_intdigest(" ".join(words))`; datatrove's base hash is the same function).

Words are copied once into a buffer with single spaces between them. Each shingle is then a slice of that buffer,
whatever stood between the words in the text (nothing, in Chinese).

Cost on one core with AVX-512 and the usual six bytes a word: 2 ns a word for the copy, 7 ns a shingle of 5 words for
its hash (xxh64.py). A shingle is hashed from its bytes, so work grows with n: 5 words are the intended size, 13 are
fine. Words are found by word_spans.py, shingles of characters by shingles.py, signatures made by signing.py.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import xxhash

from ptool.text.compiled import kernel
from ptool.text.xxh64 import PADDING, Bytes, Hashes, Offsets, hash_slices, load_64

__all__ = ["Bytes", "Hashes", "Offsets", "hash_shingles", "hash_texts", "mix_64"]

_u64 = np.uint64
_SPACE = np.uint8(32)
_STEP = 16
"""Bytes of a word that are copied at once; what is copied too much, the next word overwrites."""


def hash_texts(text: Bytes, offsets: Offsets) -> Hashes:
    """xxh3-128 of every text, as uint64[n, 2] (high half, low half).

    `text` holds the UTF-8 bytes of n texts one after the other, text i at `offsets[i]:offsets[i + 1]`.
    """
    view, digest = text.data, xxhash.xxh3_128_digest
    digests = b"".join([digest(view[start:end]) for start, end in pairwise(offsets.tolist())])
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def hash_shingles(
    text: Bytes, spans: Offsets, doc_offsets: Offsets, ngram: int, *, short_texts: bool = True
) -> tuple[Hashes, Offsets]:
    """xxh64 of every run of `ngram` words of every text, in text order, repeated shingles included.

    Word w is `text[spans[w, 0]:spans[w, 1]]`; text i has the words `doc_offsets[i]:doc_offsets[i + 1]`. A text of 1 to
    `ngram - 1` words has one shingle, made of all of them (none without `short_texts`); one without words has none.

    Returns the hashes and where each text's begin, int64[n + 1].
    """
    num_words = np.diff(doc_offsets)
    num_shingles = np.where(num_words == 0, 0, np.maximum(num_words - (ngram - 1), int(short_texts)))
    shingle_offsets = np.zeros(len(doc_offsets), dtype=np.int64)
    np.cumsum(num_shingles, out=shingle_offsets[1:])
    joined, joined_starts = _join_words(text, spans)
    slices = np.empty((2, int(shingle_offsets[-1])), dtype=np.int64)
    _find_slices(joined_starts, doc_offsets, shingle_offsets, ngram, slices)
    hashes = np.empty(slices.shape[1], dtype=np.uint64)
    hash_slices(joined, slices[0], slices[1], hashes)
    return hashes, shingle_offsets


@kernel
def mix_64(value: np.uint64) -> np.uint64:
    """MurmurHash3's 64-bit finaliser: a bijection that spreads every input bit over the word."""
    value = (value ^ (value >> _u64(33))) * _u64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> _u64(33))) * _u64(0xC4CEB9FE1A85EC53)
    return _u64(value ^ (value >> _u64(33)))


@kernel
def _join_words(text: Bytes, spans: Offsets) -> tuple[Bytes, Offsets]:
    """All words with one space after each; word w begins at the returned starts[w] and ends at starts[w + 1] - 1."""
    num_words = len(spans)
    starts = np.empty(num_words + 1, dtype=np.int64)
    size = 0
    for word in range(num_words):
        starts[word] = size
        size += spans[word, 1] - spans[word, 0] + 1
    starts[num_words] = size
    joined = np.empty(size + PADDING, dtype=np.uint8)
    readable = _u64(max(0, len(text) - _STEP))
    for word in range(num_words):
        source, target = _u64(spans[word, 0]), _u64(starts[word])
        length = _u64(spans[word, 1]) - source
        if source + length <= readable:
            for done in range(_u64(0), length, _u64(_STEP)):
                first, second = load_64(text, source + done), load_64(text, source + done + _u64(8))
                _store_64(joined, target + done, first)
                _store_64(joined, target + done + _u64(8), second)
        else:
            for done in range(length):
                joined[target + done] = text[source + done]
        joined[target + length] = _SPACE
    return joined, starts


@kernel
def _store_64(data: Bytes, at: np.uint64, value: np.uint64) -> None:
    for byte in range(8):
        data[at + _u64(byte)] = np.uint8((value >> _u64(8 * byte)) & _u64(0xFF))


@kernel
def _find_slices(
    joined_starts: Offsets, doc_offsets: Offsets, shingle_offsets: Offsets, ngram: int, slices: Offsets
) -> None:
    for doc in range(len(doc_offsets) - 1):
        first_word, last_word = doc_offsets[doc], doc_offsets[doc + 1]
        first = shingle_offsets[doc]
        for number in range(shingle_offsets[doc + 1] - first):
            word = first_word + number
            slices[0, first + number] = joined_starts[word]
            slices[1, first + number] = joined_starts[min(word + ngram, last_word)] - 1
