"""The compiled resolver against the quadratic reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.dedup.config import DedupConfig
from ptool.dedup.resolver import RULES, Resolver
from ptool.dedup.signatures import Description, band_keys, describe
from ptool.dedup.similarity import jaccard, spread_out
from ptool.dedup.walk import KEPT
from ptool.text.batch import Batch
from tests.dedup.reference import Outcome, Verdict, dedup_signatures, dedup_texts, mutated_texts


def resolve_texts(texts: list[str], config: DedupConfig, batch_size: int = 1000) -> Outcome:
    resolver = Resolver(config)
    verdicts = []
    for first in range(0, len(texts), batch_size):
        batch = Batch.from_texts(texts[first : first + batch_size])
        verdicts += run_batch(resolver, describe(batch.text, batch.offsets, config))
    return Outcome(verdicts, resolver.counters)


def run_batch(resolver: Resolver, description: Description) -> list[Verdict]:
    decisions = resolver.resolve(description)
    found = zip(
        *(column.tolist() for column in (decisions.verdicts, decisions.twins, decisions.similarities)), strict=True
    )
    return [
        Verdict(RULES[verdict] if verdict != KEPT else "kept", twin, similarity) for verdict, twin, similarity in found
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 0.6},
        {"verify": "signature"},
        {"verify": "none"},
        {"max_bucket": 1},
        {"mode": "exact"},
        {"threshold": 0.4, "num_perm": 20, "max_bucket": 3},
    ],
)
def test_families_of_near_duplicates_are_decided_as_the_reference_decides(options: dict[str, object]) -> None:
    config = DedupConfig(**options)  # type: ignore[arg-type]
    texts = mutated_texts(1, num_families=40, copies=8)
    expected = dedup_texts(texts, config)
    assert resolve_texts(texts, config) == expected
    assert 0 < len(expected.kept) < len(texts)


short_texts = st.lists(
    st.lists(st.sampled_from(["a", "bb", "深", "圳", "é", "1"]), max_size=9).map(" ".join), min_size=1, max_size=25
)


@settings(deadline=None, max_examples=60)
@given(short_texts, st.integers(1, 6), st.integers(1, 30), st.sampled_from([0.3, 0.8, 1.0]))
def test_short_and_empty_texts_are_decided_as_the_reference_decides(
    texts: list[str], ngram: int, batch_size: int, threshold: float
) -> None:
    config = DedupConfig(ngram=ngram, threshold=threshold, num_perm=64, max_bucket=2)
    assert resolve_texts(texts, config, batch_size) == dedup_texts(texts, config)


def described(signatures: np.ndarray, config: DedupConfig, texts: np.ndarray | None = None) -> Description:
    """Descriptions of made-up texts: `texts` are numbers, equal for equal texts (default: all different)."""
    count = len(signatures)
    numbers = np.arange(count) if texts is None else texts
    # Spread over 64 bits, as a hash is; odd, so a bijection.
    high = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    signatures = np.ascontiguousarray(signatures, dtype=np.uint32)
    return Description(
        np.stack([high, high], axis=1),
        band_keys(signatures, config),
        np.ones(count, np.int64),
        signatures if config.verify != "exact" else signatures[:, :0],
        np.repeat(numbers.astype(np.uint32), 200) if config.verify == "exact" else np.zeros(0, np.uint32),
        np.arange(count + 1) * (200 if config.verify == "exact" else 0),
    )


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 256]), st.sampled_from(["signature", "none"]))
def test_tables_that_grow_and_buckets_that_fill_decide_as_the_reference_decides(
    seed: int, max_bucket: int, verify: str
) -> None:
    generator = np.random.default_rng(seed)
    config = DedupConfig(num_perm=12, bands=6, rows=2, threshold=0.7, max_bucket=max_bucket, verify=verify)  # type: ignore[arg-type]
    count = 4000
    # Values are few where buckets should fill, many where tables should grow past their first size.
    signatures = generator.integers(0, generator.choice([8, 60, 2**32]), (count, 12), dtype=np.uint32)
    texts = generator.integers(0, count * 4, count)
    expected = dedup_signatures(list(zip(texts.tolist(), map(tuple, signatures.tolist()), strict=True)), config)
    resolver = Resolver(config)
    found: list[Verdict] = []
    while len(found) < count:
        size = int(generator.integers(1, 700))
        part = slice(len(found), len(found) + size)
        found += run_batch(resolver, described(signatures[part], config, texts[part]))
    assert found == expected.verdicts
    assert resolver.counters == expected.counters
    assert resolver.num_kept == len(expected.kept)


def test_a_giant_bucket_is_compared_with_its_first_documents_only_and_the_rest_is_counted() -> None:
    config = DedupConfig(max_bucket=10, verify="signature")
    count = 5000
    signatures = np.random.default_rng(0).integers(0, 2**32, (count, 112), dtype=np.uint32)
    signatures[:, :8] = 7  # one band that everybody shares
    resolver = Resolver(config)
    run_batch(resolver, described(signatures, config))
    assert resolver.num_kept == count
    assert resolver.counters == {
        "candidates": sum(min(number, 10) for number in range(count)),
        "refused_by_verification": sum(min(number, 10) for number in range(count)),
        "not_compared": sum(max(0, number - 10) for number in range(count)),
        "below_threshold_unchecked": 0,
    }


def test_the_most_similar_twin_is_named_and_the_earliest_of_equals() -> None:
    config = DedupConfig(num_perm=4, bands=4, rows=1, threshold=0.5, verify="signature")
    resolver = Resolver(config)
    signatures = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 7, 8], [5, 6, 3, 4], [1, 6, 7, 8], [5, 9, 9, 9]])
    assert run_batch(resolver, described(signatures, config)) == [
        Verdict("kept", -1, 0),
        Verdict("kept", -1, 0),
        Verdict("near-duplicate", 0, 0.5),
        Verdict("near-duplicate", 0, 0.5),
        Verdict("near-duplicate", 1, 0.75),
        Verdict("kept", -1, 0),
    ]


def test_wordless_texts_are_compared_by_their_exact_text_only() -> None:
    found = resolve_texts(["", " ", "\n", "", " ", "\u3000"], DedupConfig())
    assert found.kept == [0, 1, 2, 5]
    assert found.counters["candidates"] == 0


def test_what_was_kept_once_is_kept_again() -> None:
    texts = mutated_texts(8, num_families=50, copies=5)
    kept = [texts[position] for position in resolve_texts(texts, DedupConfig()).kept]
    assert resolve_texts(kept, DedupConfig()).kept == list(range(len(kept)))


def test_a_document_is_not_dropped_for_its_likeness_to_a_dropped_one() -> None:
    words = [f"w{number}" for number in range(400)]
    chain = [" ".join([f"new{number}" for number in range(10 * step)] + words[10 * step :]) for step in range(20)]
    outcome = resolve_texts(chain, DedupConfig())
    assert outcome == dedup_texts(chain, DedupConfig())
    assert len(outcome.kept) > 1  # a transitive meaning would leave one


def test_stamps_start_again_before_they_run_out() -> None:
    config = DedupConfig(verify="signature")
    resolver = Resolver(config)
    signature = np.arange(112)[None]
    assert run_batch(resolver, described(signature, config)) == [Verdict("kept", -1, 0)]
    assert resolver._near is not None
    resolver._stamp = 2**32 - 1  # as if four billion documents had been walked since
    assert resolver._near.stamps.array[0, 0] == 0  # nobody has met it yet
    resolver._near.stamps.array[0, 0] = 1
    assert run_batch(resolver, described(signature, config, np.array([2]))) == [Verdict("near-duplicate", 0, 1.0)]


@pytest.mark.parametrize(("verify", "bound"), [("exact", 400), ("signature", 700)])
def test_an_index_stays_below_its_bytes_a_document_while_it_grows(verify: Any, bound: int) -> None:
    config = DedupConfig(verify=verify)
    resolver = Resolver(config)
    generator = np.random.default_rng(0)
    for first in range(0, 40_000, 500):
        signatures = generator.integers(0, 2**32, (500, 112), dtype=np.uint32)
        resolver.resolve(described(signatures, config, np.arange(first, first + 500)))
        if first > 20_000:  # below, the least a column grows by (64 KiB) counts
            assert resolver.num_bytes / resolver.num_kept < bound


def test_similarity_equal_to_the_threshold_is_not_below_it() -> None:
    few, many = np.arange(8, dtype=np.uint32), np.arange(10, dtype=np.uint32)
    for one, other in ((few, many), (many, few)):
        spread = spread_out(one, np.zeros(16, dtype=np.uint32))
        assert jaccard(one, spread, other, 0.8) == 0.8
