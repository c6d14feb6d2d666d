"""Data order: pure functions against brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ptool.training import data
from tests.training import plans


def order(num_rows: int, *, seed: int = 0, fingerprint: str = "a") -> data.SampleOrder:
    return data.SampleOrder([(0, (1.0,))], [num_rows], [num_rows], seed=seed, fingerprint=fingerprint)


@given(st.integers(1, 300), st.integers(0, 5), st.integers(0, 3))
def test_every_epoch_visits_every_row_once(num_rows, seed, epoch):
    places = order(num_rows, seed=seed).places(np.arange(epoch * num_rows, (epoch + 1) * num_rows))
    assert sorted(places.rows) == list(range(num_rows))
    assert set(places.epochs) == {epoch}


def test_a_sample_is_the_same_row_whoever_asks_and_in_whatever_company():
    samples = np.arange(5000)
    together = order(1000).places(samples).rows
    assert [int(order(1000).places(samples[g : g + 1]).rows[0]) for g in range(0, 5000, 97)] == together[::97].tolist()
    gaps = samples[samples % 7 != 3]
    assert (order(1000).places(gaps).rows == together[gaps]).all()


def test_seed_fingerprint_and_epoch_each_change_the_order():
    samples = np.arange(1000)
    orders = [
        order(1000, seed=seed, fingerprint=print_).places(samples + shift).rows
        for seed, print_, shift in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1000))
    ]
    for i, one in enumerate(orders):
        assert abs(np.corrcoef(one, samples)[0, 1]) < 0.15, "not shuffled"
        assert all((one != other).mean() > 0.9 for other in orders[:i])


def test_the_first_rows_of_a_known_order_never_change():
    assert order(1000, seed=7, fingerprint="xxh3-128:0123").places(np.arange(6)).rows.tolist() == KNOWN


KNOWN = [44, 234, 728, 965, 495, 478]


ranges = st.lists(st.tuples(st.integers(0, 80), st.integers(1, 20)).map(lambda t: (t[0], t[0] + t[1])), max_size=5)


@given(st.integers(0, 60), st.integers(0, 40), ranges)
def test_taking_samples_equals_counting_them_one_by_one(cursor, count, skipped):
    expected, g = [], cursor
    while len(expected) < count:
        if not any(first <= g < last for first, last in skipped):
            expected.append(g)
        g += 1
    samples, after = data.take(cursor, count, skipped)
    assert samples.tolist() == expected
    assert after == (expected[-1] + 1 if expected else cursor)
    assert data.advance(cursor, count, skipped) == after


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_the_ranks_shares_are_the_step_whatever_their_number(ranks, accumulation, micro_rows):
    samples = np.arange(100, 100 + ranks * accumulation * micro_rows)
    shares = [np.concatenate(data.share(samples, rank, ranks, accumulation)) for rank in range(ranks)]
    assert np.concatenate(shares).tolist() == samples.tolist()
    assert all(len(part) == micro_rows for part in data.share(samples, 0, ranks, accumulation))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4))
def test_ranks_that_a_batch_was_not_planned_for_share_all_of_it(rows, ranks, micro_rows):
    """A rollback past a change of ranks takes steps of the old plan: no row is lost, and all ranks pass as often."""
    samples = np.arange(rows)
    accumulation = plans.phase(batch_tokens=rows * 32, micro_rows=micro_rows).accumulation(ranks)
    shares = [data.share(samples, rank, ranks, accumulation) for rank in range(ranks)]
    assert np.concatenate([part for parts in shares for part in parts]).tolist() == samples.tolist()
    assert {len(parts) for parts in shares} == {accumulation}
    assert max(len(part) for parts in shares for part in parts) <= micro_rows
