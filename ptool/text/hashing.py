"""Hashes over text columns: whole texts, word shingles, MinHash signatures.

Everything is a public function of the text, so that anyone can recompute it without ptool:

- a text hash is `xxh3_128` of its UTF-8 bytes (library `xxhash`);
- a shingle is n consecutive words joined by one space, its hash is `xxh64` of those bytes with seed 0
  (`xxhash.xxh64_intdigest(" ".join(words))`; datatrove's base hash is the same function);
- a signature is datasketch 2's `MinHash(num_perm, seed, hashfunc, scheme="affine32")` over the shingles of a text, with
  `hashfunc = lambda shingle: xxhash.xxh64_intdigest(shingle) & 0xFFFFFFFF`, equal to the bit; or, on request, that of
  its scheme "legacy" (`sign_modulo`), or datatrove's, which is the same formula over 64-bit hashes.

Words are copied once into a buffer with single spaces between them. Each shingle is then a slice of that buffer, so
hashing needs no memory of its own, whatever stood between the words in the text (nothing, in Chinese).

Cost on one core with AVX-512 and the usual six bytes a word: 12 ns a shingle for xxh64 and 4 ns for 112 permutations
(blocks of shingles stay in the first-level cache, one permutation at a time runs over a block and keeps its minimum in
a register). A shingle is hashed from its bytes, so work grows with n: 5 words are the intended size, 13 are fine.

This module finds no words (`text.words` does) and draws no permutations (`dedup.signatures` takes datasketch's).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import xxhash

from ptool.text.compiled import kernel

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint32]

EMPTY_SIGNATURE_VALUE = np.uint32(0xFFFFFFFF)
"""What every place of the signature of an empty set holds (datasketch's own sentinel)."""

_u32, _u64 = np.uint32, np.uint64
_SPACE = np.uint8(32)

# xxHash specification, section "XXH64 algorithm description": the five primes.
_PRIME_1 = _u64(0x9E3779B185EBCA87)
_PRIME_2 = _u64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = _u64(0x165667B19E3779F9)
_PRIME_4 = _u64(0x85EBCA77C2B2AE63)
_PRIME_5 = _u64(0x27D4EB2F165667C5)

PADDING = 32
"""Bytes that must follow the data given to `xxh64`: it loads words that it may not use."""

# 1 KiB of shingle hashes at a time: they stay in the first-level cache while all permutations run over them.
_BLOCK = 256


def hash_texts(text: Bytes, offsets: Offsets) -> Hashes:
    """xxh3-128 of every text, as uint64[n, 2] (high half, low half).

    `text` holds the UTF-8 bytes of n texts one after the other, text i at `offsets[i]:offsets[i + 1]`.
    """
    view, digest = text.data, xxhash.xxh3_128_digest
    digests = b"".join([digest(view[start:end]) for start, end in pairwise(offsets.tolist())])
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def hash_shingles(
    text: Bytes, starts: Offsets, ends: Offsets, doc_offsets: Offsets, ngram: int, *, short_texts: bool = True
) -> tuple[Hashes, Offsets]:
    """xxh64 of every run of `ngram` words of every text, in text order, repeated shingles included.

    Words are `text[starts[w]:ends[w]]`; text i has the words `doc_offsets[i]:doc_offsets[i + 1]`. A text of 1 to
    `ngram - 1` words has one shingle, made of all of them (none without `short_texts`); one without words has none.

    Returns the hashes and where each text's begin, int64[n + 1].
    """
    joined, joined_starts = _join_words(text, starts, ends)
    num_words = np.diff(doc_offsets)
    num_shingles = np.where(num_words == 0, 0, np.maximum(num_words - (ngram - 1), int(short_texts)))
    shingle_offsets = np.zeros(len(doc_offsets), dtype=np.int64)
    np.cumsum(num_shingles, out=shingle_offsets[1:])
    hashes = np.empty(int(shingle_offsets[-1]), dtype=np.uint64)
    _fill_shingle_hashes(joined, joined_starts, doc_offsets, shingle_offsets, ngram, hashes)
    return hashes, shingle_offsets


def sign(hashes: Hashes, shingle_offsets: Offsets, permutations: Signatures) -> Signatures:
    """MinHash signature of every text, uint32[n, num_perm], from its shingle hashes (their low 32 bits).

    `permutations` is uint32[2, num_perm], multipliers (odd) and addends, as `datasketch.MinHash.permutations` has them
    for the scheme "affine32". A text without shingles gets `EMPTY_SIGNATURE_VALUE` everywhere.
    """
    num_texts = len(shingle_offsets) - 1
    signatures = np.full((num_texts, permutations.shape[1]), EMPTY_SIGNATURE_VALUE, dtype=np.uint32)
    _fill_signatures(hashes, shingle_offsets, permutations[0].copy(), permutations[1].copy(), signatures)
    return signatures


def sign_modulo(hashes: Hashes, shingle_offsets: Offsets, permutations: Hashes, value_bits: int) -> Hashes:
    """MinHash signatures by `(a * h + b) % (2^61 - 1)`, uint64[n, num_perm]; the product wraps at 2^64.

    `permutations` is uint64[2, num_perm]. `value_bits` 32: low halves of the hashes go in and low halves come out,
    as in datasketch's scheme "legacy"; 64: whole ones, as in datatrove. The wrapping is a flaw of both (the textbook
    formula does not wrap), and is what makes the values theirs. A text without shingles gets the greatest value.
    """
    limit = _u64(0xFFFFFFFF) if value_bits == 32 else _u64(0xFFFFFFFFFFFFFFFF)
    signatures = np.full((len(shingle_offsets) - 1, permutations.shape[1]), limit, dtype=np.uint64)
    _fill_modulo(hashes, shingle_offsets, permutations[0].copy(), permutations[1].copy(), limit, signatures)
    return signatures


@kernel
def xxh64(data: Bytes, start: int, length: int) -> np.uint64:
    """xxh64 with seed 0 of `data[start:start + length]`, for use inside kernels; `PADDING` more bytes must be readable.

    The specification's loops over what is left below 32 bytes are unrolled into steps that are all computed, of which
    those that apply are chosen by a mask: with lengths that vary as shingles do, a third quicker than branches.
    """
    # Unsigned positions: numba would otherwise test each for being negative, and eight byte loads become one.
    here, left = _u64(start), _u64(length)
    if length >= 32:
        last = here + left - _u64(32)
        lane_1, lane_2, lane_3, lane_4 = _PRIME_1 + _PRIME_2, _PRIME_2, _u64(0), _u64(0) - _PRIME_1
        while here <= last:
            lane_1 = _round(lane_1, _load_64(data, here))
            lane_2 = _round(lane_2, _load_64(data, here + _u64(8)))
            lane_3 = _round(lane_3, _load_64(data, here + _u64(16)))
            lane_4 = _round(lane_4, _load_64(data, here + _u64(24)))
            here += _u64(32)
        value = _rotate(lane_1, 1) + _rotate(lane_2, 7) + _rotate(lane_3, 12) + _rotate(lane_4, 18)
        value = _merge(_merge(_merge(_merge(value, lane_1), lane_2), lane_3), lane_4)
    else:
        value = _PRIME_5
    value += left
    eights, fours, ones = left & _u64(24), left & _u64(4), left & _u64(3)
    value = _choose(eights >= _u64(8), _step_8(value, _load_64(data, here)), value)
    value = _choose(eights >= _u64(16), _step_8(value, _load_64(data, here + _u64(8))), value)
    value = _choose(eights >= _u64(24), _step_8(value, _load_64(data, here + _u64(16))), value)
    here += eights
    value = _choose(fours > _u64(0), _step_4(value, _load_32(data, here)), value)
    here += fours
    value = _choose(ones >= _u64(1), _step_1(value, data[here]), value)
    value = _choose(ones >= _u64(2), _step_1(value, data[here + _u64(1)]), value)
    value = _choose(ones >= _u64(3), _step_1(value, data[here + _u64(2)]), value)
    value = (value ^ (value >> _u64(33))) * _PRIME_2
    value = (value ^ (value >> _u64(29))) * _PRIME_3
    return _u64(value ^ (value >> _u64(32)))


@kernel
def mix_64(value: np.uint64) -> np.uint64:
    """MurmurHash3's 64-bit finaliser: a bijection that spreads every input bit over the word."""
    value = (value ^ (value >> _u64(33))) * _u64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> _u64(33))) * _u64(0xC4CEB9FE1A85EC53)
    return _u64(value ^ (value >> _u64(33)))


@kernel
def _rotate(value: np.uint64, bits: int) -> np.uint64:
    return _u64((value << _u64(bits)) | (value >> _u64(64 - bits)))


@kernel
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _u64(_rotate(lane + word * _PRIME_2, 31) * _PRIME_1)


@kernel
def _merge(value: np.uint64, lane: np.uint64) -> np.uint64:
    return _u64((value ^ _round(_u64(0), lane)) * _PRIME_1 + _PRIME_4)


@kernel
def _step_8(value: np.uint64, word: np.uint64) -> np.uint64:
    return _u64(_rotate(value ^ _round(_u64(0), word), 27) * _PRIME_1 + _PRIME_4)


@kernel
def _step_4(value: np.uint64, word: np.uint64) -> np.uint64:
    return _u64(_rotate(value ^ (word * _PRIME_1), 23) * _PRIME_2 + _PRIME_3)


@kernel
def _step_1(value: np.uint64, byte: np.uint8) -> np.uint64:
    return _u64(_rotate(value ^ (_u64(byte) * _PRIME_5), 11) * _PRIME_1)


@kernel
def _choose(condition: np.bool_, if_true: np.uint64, if_false: np.uint64) -> np.uint64:
    mask = _u64(0) - _u64(condition)
    return _u64((if_true & mask) | (if_false & ~mask))


@kernel
def _load_32(data: Bytes, at: np.uint64) -> np.uint64:
    return _u64(
        _u64(data[at])
        | (_u64(data[at + _u64(1)]) << _u64(8))
        | (_u64(data[at + _u64(2)]) << _u64(16))
        | (_u64(data[at + _u64(3)]) << _u64(24))
    )


@kernel
def _load_64(data: Bytes, at: np.uint64) -> np.uint64:
    return _u64(_load_32(data, at) | (_load_32(data, at + _u64(4)) << _u64(32)))


@kernel
def _join_words(text: Bytes, starts: Offsets, ends: Offsets) -> tuple[Bytes, Offsets]:
    """All words with one space after each; word w begins at the returned starts[w] and ends at starts[w + 1] - 1."""
    num_words = len(starts)
    joined_starts = np.empty(num_words + 1, dtype=np.int64)
    size = 0
    for word in range(num_words):
        joined_starts[word] = size
        size += ends[word] - starts[word] + 1
    joined_starts[num_words] = size
    joined = np.empty(size + PADDING, dtype=np.uint8)
    word = 0
    while word < num_words:
        # Words that stand one space apart are copied as one piece: in prose, a line at a time.
        last = word
        while last + 1 < num_words and starts[last + 1] == ends[last] + 1 and text[ends[last]] == _SPACE:
            last += 1
        shift = joined_starts[word] - starts[word]
        for source in range(starts[word], ends[last]):
            joined[source + shift] = text[source]
        joined[ends[last] + shift] = _SPACE
        word = last + 1
    return joined, joined_starts


@kernel
def _fill_shingle_hashes(
    joined: Bytes, joined_starts: Offsets, doc_offsets: Offsets, shingle_offsets: Offsets, ngram: int, hashes: Hashes
) -> None:
    for doc in range(len(doc_offsets) - 1):
        first_word, last_word = doc_offsets[doc], doc_offsets[doc + 1]
        for number in range(shingle_offsets[doc + 1] - shingle_offsets[doc]):
            word = first_word + number
            start = joined_starts[word]
            end = joined_starts[min(word + ngram, last_word)] - 1
            hashes[shingle_offsets[doc] + number] = xxh64(joined, start, end - start)


@kernel
def _spread_32(value: np.uint32) -> np.uint32:
    """MurmurHash3's 32-bit finaliser, datasketch's pre-mix of the affine schemes."""
    value = _u32(value ^ (value >> _u32(16)))
    value = _u32(value * _u32(0x85EBCA6B))
    value = _u32(value ^ (value >> _u32(13)))
    value = _u32(value * _u32(0xC2B2AE35))
    return _u32(value ^ (value >> _u32(16)))


@kernel
def _fill_signatures(
    hashes: Hashes,
    shingle_offsets: Offsets,
    multipliers: Signatures,
    addends: Signatures,
    signatures: Signatures,
) -> None:
    spread = np.empty(_BLOCK, dtype=np.uint32)
    for doc in range(len(shingle_offsets) - 1):
        for block in range(shingle_offsets[doc], shingle_offsets[doc + 1], _BLOCK):
            size = min(_BLOCK, shingle_offsets[doc + 1] - block)
            for i in range(size):
                spread[i] = _spread_32(_u32(hashes[block + i]))
            for permutation in range(len(multipliers)):
                multiplier, addend = multipliers[permutation], addends[permutation]
                lowest = signatures[doc, permutation]
                for i in range(size):
                    lowest = min(lowest, _u32(_u32(multiplier * spread[i]) + addend))
                signatures[doc, permutation] = lowest


@kernel
def _fill_modulo(
    hashes: Hashes, shingle_offsets: Offsets, multipliers: Hashes, addends: Hashes, limit: np.uint64, signatures: Hashes
) -> None:
    prime = (_u64(1) << _u64(61)) - _u64(1)
    for doc in range(len(shingle_offsets) - 1):
        for block in range(shingle_offsets[doc], shingle_offsets[doc + 1], _BLOCK):
            end = min(block + _BLOCK, shingle_offsets[doc + 1])
            for permutation in range(len(multipliers)):
                multiplier, addend = multipliers[permutation], addends[permutation]
                lowest = signatures[doc, permutation]
                for i in range(block, end):
                    product = _u64(multiplier * (hashes[i] & limit)) + addend
                    # A Mersenne prime: what lies above bit 61 is added to what lies below.
                    rest = (product & prime) + (product >> _u64(61))
                    rest = rest - prime if rest >= prime else rest
                    lowest = min(lowest, _u64(rest & limit))
                signatures[doc, permutation] = lowest
