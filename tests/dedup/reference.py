"""What deduplication means, written a second time: plain Python, datasketch for the signatures, quadratic where it may.

A twin of the fast path that shares none of its code: words by a regular expression, hashes by xxhash, buckets as a
dictionary of lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash
from datasketch import MinHash

from ptool.dedup.config import DedupConfig

# Enough of the `cjk` rule for the texts used here: each Han ideograph and kana is a word, other runs are whole.
WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\u3040-\u30ff]|[^\s\u3400-\u4dbf\u4e00-\u9fff\u3040-\u30ff]+")


class Verdict(NamedTuple):
    rule: str
    twin: int
    similarity: float


class Outcome(NamedTuple):
    verdicts: list[Verdict]
    counters: dict[str, int]

    @property
    def kept(self) -> list[int]:
        """Positions of the kept documents."""
        return [position for position, verdict in enumerate(self.verdicts) if verdict.rule == "kept"]


def shingles(text: str, ngram: int) -> list[bytes]:
    words = WORD.findall(text)
    if not words:
        return []
    return [" ".join(words[i : i + ngram]).encode() for i in range(max(1, len(words) - ngram + 1))]


def signature(text: str, config: DedupConfig) -> tuple[int, ...] | None:
    found = shingles(text, config.ngram)
    if not found:
        return None
    minhash = MinHash(
        config.num_perm,
        seed=config.seed,
        hashfunc=lambda data: xxhash.xxh64_intdigest(data) & 0xFFFFFFFF,
        scheme="affine32",
    )
    minhash.update_batch(found)
    return tuple(minhash.hashvalues.tolist())


def shingle_set(text: str, config: DedupConfig) -> frozenset[int]:
    return frozenset(xxhash.xxh64_intdigest(one) & 0xFFFFFFFF for one in shingles(text, config.ngram))


def dedup_texts(texts: Iterable[str], config: DedupConfig) -> Outcome:
    if config.mode == "exact":
        return dedup_signatures([(text, None) for text in texts], config)
    documents = [(text, signature(text, config), shingle_set(text, config)) for text in texts]
    return dedup_signatures(documents, config)


def similarity_of(one: Sequence[Any], other: Sequence[Any], config: DedupConfig) -> float:
    if config.verify == "exact":
        return len(one[2] & other[2]) / len(one[2] | other[2])
    return sum(a == b for a, b in zip(one[1], other[1], strict=True)) / config.num_perm


def dedup_signatures(documents: Sequence[tuple[Any, ...]], config: DedupConfig) -> Outcome:
    """`documents` are (anything that is equal for equal texts, signature or None, set of shingles if needed)."""
    rows = config.layout.rows if config.mode == "minhash" else 0
    bands = config.layout.bands if config.mode == "minhash" else 0
    kept_texts: dict[object, int] = {}
    kept: list[tuple[Any, ...]] = []
    buckets: dict[tuple[object, ...], list[int]] = {}
    late: dict[tuple[object, ...], int] = {}
    counters = dict.fromkeys(["candidates", "refused_by_verification", "not_compared", "below_threshold_unchecked"], 0)
    verdicts = []
    for document in documents:
        text, values = document[:2]
        if text in kept_texts:
            verdicts.append(Verdict("exact-duplicate", kept_texts[text], 1.0))
            continue
        keys = []
        if values is not None:
            keys = [(band, *values[band * rows : (band + 1) * rows]) for band in range(bands)]
            candidates = sorted({number for key in keys for number in buckets.get(key, [])})
            counters["candidates"] += len(candidates)
            counters["not_compared"] += sum(late.get(key, 0) for key in keys)
            twins = []
            for number in candidates:
                similarity = similarity_of(document, kept[number], config)
                if similarity >= config.threshold:
                    twins.append((-similarity, number))
                elif config.verify == "none":
                    counters["below_threshold_unchecked"] += 1
                    twins.append((-similarity, number))
                else:
                    counters["refused_by_verification"] += 1
            if twins:
                similarity, number = min(twins)
                verdicts.append(Verdict("near-duplicate", number, -similarity))
                continue
        number = len(kept)
        for key in keys:
            bucket = buckets.setdefault(key, [])
            if len(bucket) < config.max_bucket:
                bucket.append(number)
            else:
                late[key] = late.get(key, 0) + 1
        kept_texts[text] = number
        kept.append(document)
        verdicts.append(Verdict("kept", -1, 0.0))
    return Outcome(verdicts, counters)


def mutated_texts(seed: int, *, num_families: int, copies: int) -> list[str]:
    """Families of near duplicates, shuffled: each copy has some words of its family's text replaced."""
    generator = np.random.default_rng(seed)
    texts = []
    for _ in range(num_families):
        words = generator.integers(0, 10**6, int(generator.integers(1, 200))).astype(str)
        for _ in range(copies):
            changed = words.copy()
            hit = generator.random(len(words)) < generator.choice([0.0, 0.01, 0.03, 0.1])
            changed[hit] = generator.integers(0, 10**6, int(hit.sum())).astype(str)
            texts.append(" ".join(changed))
    return [texts[i] for i in generator.permutation(len(texts))]
