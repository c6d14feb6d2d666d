"""Real near duplicates: yearly versions of Chinese laws, families of licences, short templated pages, Tang poems."""

from __future__ import annotations

import json
import os
from functools import cache
from itertools import combinations, islice
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zstandard
from scipy import sparse

from ptool.dedup.config import DedupConfig
from ptool.dedup.documents import dedup_documents
from ptool.dedup.resolver import Resolver
from ptool.dedup.signatures import describe
from ptool.dedup.walk import KEPT, NEAR
from ptool.text.batch import Batch
from tests.dedup.reference import dedup_texts, shingles

CORPUS = Path(os.environ.get("PTOOL_SHARED", Path(__file__).parents[2] / "../shared")) / "data/corpus"

needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="no real data: set PTOOL_SHARED")


@cache
def texts_of(name: str) -> list[str]:
    with zstandard.open(CORPUS / f"{name}.jsonl.zst", "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in islice(file, 4000)]


def similar_pairs(texts: list[str], at_least: float) -> set[tuple[int, int]]:
    """Every pair whose exact Jaccard similarity of shingle sets is `at_least`, found without any signature."""
    rows, columns = [], []
    for number, text in enumerate(texts):
        found = {xxhash.xxh64_intdigest(one) for one in shingles(text, 5)}
        rows += [number] * len(found)
        columns += list(found)
    _, numbered = np.unique(np.array(columns, dtype=np.uint64), return_inverse=True)
    matrix = sparse.csr_matrix((np.ones(len(rows), np.int32), (rows, numbered)))
    sizes = np.asarray(matrix.sum(axis=1)).ravel()
    common = (matrix @ matrix.T).tocoo()
    jaccard = common.data / (sizes[common.row] + sizes[common.col] - common.data)
    wanted = (common.row < common.col) & (jaccard >= at_least)
    return set(zip(common.row[wanted].tolist(), common.col[wanted].tolist(), strict=True))


def meeting_pairs(texts: list[str], config: DedupConfig) -> set[tuple[int, int]]:
    """Every pair that shares a band."""
    batch = Batch.from_texts(texts)
    keys = describe(batch.text, batch.offsets, config).keys
    assert keys.shape == (len(texts), config.layout.bands)
    pairs: set[tuple[int, int]] = set()
    for band in range(config.layout.bands):
        buckets: dict[int, list[int]] = {}
        for number, key in enumerate(keys[:, band].tolist()):
            buckets.setdefault(key, []).append(number)
        for bucket in buckets.values():
            pairs.update(combinations(bucket, 2))
    return pairs


@needs_corpus
@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("zh_law", 300, 500), ("spdx_licences", 0, 400), ("tldr", 0, 1500), ("zh_poetry", 0, 2500)],
)
def test_real_pairs_above_the_threshold_are_found(name: str, first: int, last: int) -> None:
    config = DedupConfig()
    texts = texts_of(name)[first:last]
    similar = similar_pairs(texts, config.threshold + 0.05)
    assert similar
    meeting = meeting_pairs(texts, config)
    assert len(similar - meeting) <= 0.02 * len(similar)
    assert len(meeting) < 0.1 * len(texts) ** 2 / 2  # not because everything meets


def test_generated_pairs_a_little_above_the_threshold_are_found() -> None:
    generator = np.random.default_rng(0)
    texts = []
    for family in range(400):
        words = [f"{family}w{number}" for number in range(300)]
        copy = words.copy()
        for at in range(5, 300, 60):  # each replaced word costs five shingles: 271 / 321 = 0.844
            copy[at + int(generator.integers(0, 50))] = "other"
        texts += [" ".join(words), " ".join(copy)]
    config = DedupConfig(threshold=0.79)
    similar = similar_pairs(texts, config.threshold + 0.05)
    assert len(similar) >= 400
    assert len(similar - meeting_pairs(texts, config)) <= 0.02 * len(similar)


@needs_corpus
@pytest.mark.parametrize(("name", "count"), [("zh_law", 150), ("spdx_licences", 200), ("tldr", 400)])
def test_real_text_is_decided_as_the_reference_decides(name: str, count: int) -> None:
    texts = texts_of(name)[:count]
    found = list(dedup_documents({"text": text, "position": position} for position, text in enumerate(texts)))
    assert [one["position"] for one in found] == dedup_texts(texts, DedupConfig()).kept


@needs_corpus
@pytest.mark.parametrize(("name", "least"), [("zh_law", 10), ("spdx_licences", 50), ("tldr", 1), ("zh_poetry", 5)])
def test_nothing_real_is_dropped_below_the_threshold(name: str, least: int) -> None:
    texts, config = texts_of(name), DedupConfig()
    batch = Batch.from_texts(texts)
    with Resolver(config) as resolver:
        decisions = resolver.resolve(describe(batch.text, batch.offsets, config))
    kept = np.flatnonzero(decisions.verdicts == KEPT).tolist()
    dropped = np.flatnonzero(decisions.verdicts == NEAR).tolist()
    assert len(dropped) >= least
    for number in dropped:
        one, other = (set(shingles(texts[at], 5)) for at in (number, kept[decisions.twins[number]]))
        similarity = len(one & other) / len(one | other)
        assert similarity >= config.threshold - 0.001  # sets are compared by 32-bit hashes
        assert abs(similarity - decisions.similarities[number]) < 0.001
