"""What dedup knows of a text: its hash, its bands' keys, and what verification compares.

A description is a pure function of one text and the configuration, so batches are described in parallel, in any number
of processes, before the resolver sees them in order. Words are those of `ptool filter`, as they stand unless
`normalize` is asked for.

One core describes about 120 MB of text a second: words, 5-word shingles, 112 permutations, distinct shingles.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.dedup.config import DedupConfig, Scheme
from ptool.dedup.simplify import simplify_texts
from ptool.dedup.tables import fill_band_keys
from ptool.text.hashing import Bytes, Hashes, Offsets, hash_shingles, hash_texts
from ptool.text.shingles import Values, distinct_hashes, hash_char_shingles
from ptool.text.signing import sign, sign_modulo
from ptool.text.word_spans import word_spans

AnySignatures = npt.NDArray[Any]


class Description(msgspec.Struct, frozen=True):
    """A batch of n texts as the resolver sees them.

    text_hashes      uint64[n, 2]         xxh3-128
    keys             uint64[n, bands]     of the signature's bands; no columns in exact mode
    num_shingles     int64[n]             0 for a text without words, whose keys say nothing
    signatures       [n, num_perm]        uint32, or uint64 for datatrove's; no columns unless verification needs them
    shingles         uint32[total]        the texts' sets of shingle hashes; empty unless verification is exact
    shingle_offsets  int64[n + 1]         where each set begins
    """

    text_hashes: Hashes
    keys: Hashes
    num_shingles: Offsets
    signatures: AnySignatures
    shingles: Values
    shingle_offsets: Offsets

    def __len__(self) -> int:
        return len(self.text_hashes)


def signature_type(config: DedupConfig) -> type[np.generic] | None:
    """The type of the values of stored signatures; None where verification does without signatures."""
    if config.mode == "exact" or config.verify == "exact":
        return None
    return np.uint64 if config.scheme == "datatrove" else np.uint32


def describe(text: Bytes, offsets: Offsets, config: DedupConfig) -> Description:
    """Describe n texts, text i being the UTF-8 at `text[offsets[i]:offsets[i + 1]]`."""
    if config.normalize:
        text, offsets = simplify_texts(text, offsets)
    text_hashes = hash_texts(text, offsets)
    if config.mode == "exact":
        return describe_hashes(text_hashes)
    hashes, shingle_offsets = _shingles(text, offsets, config)
    signatures = sign_shingles(hashes, shingle_offsets, config)
    shingles, set_offsets = np.zeros(0, dtype=np.uint32), np.zeros(len(offsets), dtype=np.int64)
    if config.verify == "exact":
        shingles, set_offsets = distinct_hashes(hashes, shingle_offsets)
    return Description(
        text_hashes,
        band_keys(signatures, config),
        np.diff(shingle_offsets),
        signatures if signature_type(config) else signatures[:, :0].copy(),  # a view would keep all of it in memory
        shingles,
        set_offsets,
    )


def describe_hashes(text_hashes: Hashes) -> Description:
    """A description for exact mode, which knows texts by their hashes alone."""
    count = len(text_hashes)
    empty = np.zeros((count, 0), dtype=np.uint32)
    offsets = np.zeros(count + 1, dtype=np.int64)
    return Description(text_hashes, empty.astype(np.uint64), offsets[1:], empty, np.zeros(0, np.uint32), offsets)


def sign_shingles(hashes: Hashes, shingle_offsets: Offsets, config: DedupConfig) -> AnySignatures:
    """The MinHash signatures of n texts from their shingle hashes: uint32, or uint64 for datatrove's."""
    constants = permutations(config.num_perm, config.seed, config.scheme)
    if config.scheme == "affine32":
        return sign(hashes, shingle_offsets, constants)
    if config.scheme == "legacy":
        return sign_modulo(hashes, shingle_offsets, constants, 32).astype(np.uint32)
    return sign_modulo(hashes, shingle_offsets, constants, 64)


def band_keys(signatures: AnySignatures, config: DedupConfig) -> Hashes:
    """uint64[n, bands]: the key under which each band of each signature is found."""
    layout = config.layout
    keys = np.empty((len(signatures), layout.bands), dtype=np.uint64)
    fill_band_keys(signatures, layout.rows, keys)
    return keys


@lru_cache(maxsize=4)
def permutations(num_perm: int, seed: int, scheme: Scheme = "affine32") -> AnySignatures:
    """Multipliers and addends, [2, num_perm]: those that datasketch draws for its schemes, or datatrove for its own.

    They are drawn here as there, from numpy's RandomState, whose stream is frozen: the import of datasketch takes a
    third of a second in every process, for two hundred numbers.
    """
    generator = np.random.RandomState(seed)
    if scheme == "affine32":
        odd = generator.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        return np.stack([odd, generator.randint(0, 1 << 32, num_perm, dtype=np.uint32)])
    prime = (1 << 61) - 1
    if scheme == "datatrove":
        return np.stack([generator.randint(low, prime, dtype=np.uint64, size=num_perm) for low in (1, 0)])
    pairs = [[generator.randint(low, prime, dtype=np.uint64) for low in (1, 0)] for _ in range(num_perm)]
    return np.array(pairs, dtype=np.uint64).T


def _shingles(text: Bytes, offsets: Offsets, config: DedupConfig) -> tuple[Hashes, Offsets]:
    if config.shingle == "char":
        return hash_char_shingles(text, offsets, config.ngram)
    spans, doc_offsets = word_spans(text, offsets, config.words)
    short_texts = config.scheme != "datatrove"
    return hash_shingles(text, spans, doc_offsets, config.ngram, short_texts=short_texts)
