"""MinHash signatures: the least value of each permutation over the shingle hashes of a text.

A signature is datasketch 2's `MinHash(num_perm, seed, hashfunc, scheme="affine32")` over the shingles of a text, with
`hashfunc = lambda shingle: xxhash.xxh64_intdigest(shingle) & 0xFFFFFFFF`, equal to the bit; or, on request, that of its
scheme "legacy" (`sign_modulo`), or datatrove's, which is the same formula over 64-bit hashes.

`sign` takes eight shingles at a time through all permutations: eight hashes stay in registers, and neighbouring
permutations are lanes of a vector, whose running minima are read and written once for eight products each. That is 2.5
ns a shingle for 112 permutations with AVX-512. A text is filled up to whole groups of eight with a shingle it has: a
minimum does not change when a value comes twice.

Permutations are drawn elsewhere (`dedup.signatures` takes datasketch's).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.compiled import kernel

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]
Signatures = npt.NDArray[np.uint32]

EMPTY_SIGNATURE_VALUE = np.uint32(0xFFFFFFFF)
"""What every place of the signature of an empty set holds (datasketch's own sentinel)."""

_u32, _u64 = np.uint32, np.uint64

_BLOCK = 256  # 1 KiB of shingle hashes stay in the first-level cache while all permutations run over them
_GROUP = 8
_LANES = 16  # permutations come in whole vectors


def sign(hashes: Hashes, shingle_offsets: Offsets, permutations: Signatures) -> Signatures:
    """MinHash signature of every text, uint32[n, num_perm], from its shingle hashes (their low 32 bits).

    `permutations` is uint32[2, num_perm], multipliers (odd) and addends, as `datasketch.MinHash.permutations` has them
    for the scheme "affine32". A text without shingles gets `EMPTY_SIGNATURE_VALUE` everywhere.
    """
    num_texts, num_perm = len(shingle_offsets) - 1, permutations.shape[1]
    filled = np.zeros((2, -(-num_perm // _LANES) * _LANES), dtype=np.uint32)
    filled[:, :num_perm] = permutations
    signatures = np.full((num_texts, num_perm), EMPTY_SIGNATURE_VALUE, dtype=np.uint32)
    _fill_signatures(hashes, shingle_offsets, filled[0], filled[1], signatures)
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
def _spread_32(value: np.uint32) -> np.uint32:
    """MurmurHash3's 32-bit finaliser, datasketch's pre-mix of the affine schemes."""
    value = _u32(value ^ (value >> _u32(16)))
    value = _u32(value * _u32(0x85EBCA6B))
    value = _u32(value ^ (value >> _u32(13)))
    value = _u32(value * _u32(0xC2B2AE35))
    return _u32(value ^ (value >> _u32(16)))


@kernel
def _fill_signatures(
    hashes: Hashes, shingle_offsets: Offsets, multipliers: Signatures, addends: Signatures, signatures: Signatures
) -> None:
    spread = np.empty(_BLOCK + _GROUP, dtype=np.uint32)
    lowest = np.empty(len(multipliers), dtype=np.uint32)
    for doc in range(len(shingle_offsets) - 1):
        first, last = shingle_offsets[doc], shingle_offsets[doc + 1]
        lowest[:] = EMPTY_SIGNATURE_VALUE
        for block in range(first, last, _BLOCK):
            size = min(_BLOCK, last - block)
            for i in range(size):
                spread[i] = _spread_32(_u32(hashes[block + i]))
            for i in range(size, size + _GROUP):
                spread[i] = spread[0]
            _lower(spread, size, multipliers, addends, lowest)
        for permutation in range(signatures.shape[1]):
            signatures[doc, permutation] = lowest[permutation]


@kernel
def _lower(spread: Signatures, size: int, multipliers: Signatures, addends: Signatures, lowest: Signatures) -> None:
    """Take the first `size` of `spread`, filled up to a whole group, into the running minima of all permutations."""
    for at in range(0, size, _GROUP):
        hash_0, hash_1, hash_2, hash_3 = spread[at], spread[at + 1], spread[at + 2], spread[at + 3]
        hash_4, hash_5, hash_6, hash_7 = spread[at + 4], spread[at + 5], spread[at + 6], spread[at + 7]
        for lane in range(_u64(len(lowest))):
            multiplier, addend, least = multipliers[lane], addends[lane], lowest[lane]
            least = min(least, _u32(_u32(multiplier * hash_0) + addend))
            least = min(least, _u32(_u32(multiplier * hash_1) + addend))
            least = min(least, _u32(_u32(multiplier * hash_2) + addend))
            least = min(least, _u32(_u32(multiplier * hash_3) + addend))
            least = min(least, _u32(_u32(multiplier * hash_4) + addend))
            least = min(least, _u32(_u32(multiplier * hash_5) + addend))
            least = min(least, _u32(_u32(multiplier * hash_6) + addend))
            least = min(least, _u32(_u32(multiplier * hash_7) + addend))
            lowest[lane] = least


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
