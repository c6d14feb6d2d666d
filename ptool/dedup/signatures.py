"""What dedup knows of a text: its hash, and the MinHash signature of its word shingles.

A description is a pure function of one text and the configuration, so batches are described in parallel, in any number
of processes, before the resolver sees them in order. Words are those of `ptool filter` (`cjk`: whitespace-separated
runs, every ideograph and kana a word of its own), as they stand, neither lower-cased nor normalised.

One core describes about 160 MB of text a second: words, 5-word shingles, 112 permutations.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
import numpy as np

from ptool.dedup.config import DedupConfig
from ptool.text.hashing import Bytes, Hashes, Offsets, Signatures, hash_shingles, hash_texts, sign
from ptool.text.words import word_spans


class Description(msgspec.Struct, frozen=True):
    """A batch of n texts as the resolver sees them.

    `text_hashes` uint64[n, 2]: xxh3-128; `signatures` uint32[n, num_perm], with no columns in exact mode;
    `num_shingles` int64[n]: 0 for a text without words, whose signature says nothing.
    """

    text_hashes: Hashes
    signatures: Signatures
    num_shingles: Offsets


def describe(text: Bytes, offsets: Offsets, config: DedupConfig) -> Description:
    """Describe n texts, text i being the UTF-8 at `text[offsets[i]:offsets[i + 1]]`."""
    text_hashes = hash_texts(text, offsets)
    if config.mode == "exact":
        num_texts = len(offsets) - 1
        return Description(text_hashes, np.zeros((num_texts, 0), np.uint32), np.zeros(num_texts, np.int64))
    starts, ends, doc_offsets = word_spans(text, offsets)
    hashes, shingle_offsets = hash_shingles(text, starts, ends, doc_offsets, config.ngram)
    signatures = sign(hashes, shingle_offsets, permutations(config.num_perm, config.seed))
    return Description(text_hashes, signatures, np.diff(shingle_offsets))


@lru_cache(maxsize=4)
def permutations(num_perm: int, seed: int) -> Signatures:
    """The constants datasketch draws for the scheme "affine32": uint32[2, num_perm], multipliers and addends."""
    from datasketch import MinHash  # brings scipy: a third of a second

    constants: Signatures = MinHash(num_perm, seed=seed, scheme="affine32").permutations
    return constants
