"""Data order, schedule: pure functions against brute force."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ptool.training import data, schedule
from ptool.training.config import Optimizer, RunConfig, RunLength, Schedule


@given(st.integers(1, 300), st.integers(0, 5), st.integers(0, 3))
def test_every_epoch_visits_every_row_once(num_rows, seed, epoch):
    order = data.SampleOrder(num_rows, seed=seed, fingerprint="xxh3-128:00")
    samples = np.arange(epoch * num_rows, (epoch + 1) * num_rows)
    assert sorted(order.rows(samples)) == list(range(num_rows))


def test_a_sample_is_the_same_row_whoever_asks_and_in_whatever_company():
    order = data.SampleOrder(1000, seed=1, fingerprint="a")
    samples = np.arange(5000)
    together = order.rows(samples)
    assert [int(order.rows(samples[g : g + 1])[0]) for g in range(0, 5000, 97)] == together[::97].tolist()
    shuffled = np.random.default_rng(0).permutation(samples)
    assert (order.rows(shuffled) == together[shuffled]).all()


def test_seed_fingerprint_and_epoch_each_change_the_order():
    samples = np.arange(1000)
    orders = [
        data.SampleOrder(1000, seed=seed, fingerprint=print_).rows(samples + shift)
        for seed, print_, shift in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1000))
    ]
    for i, one in enumerate(orders):
        assert abs(np.corrcoef(one, samples)[0, 1]) < 0.15, "not shuffled"
        assert all((one != other).mean() > 0.9 for other in orders[:i])


def test_the_first_rows_of_a_known_order_never_change():
    order = data.SampleOrder(1000, seed=7, fingerprint="xxh3-128:0123")
    assert order.rows(np.arange(6)).tolist() == KNOWN


KNOWN = [926, 598, 306, 455, 432, 706]


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


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_the_ranks_shares_are_the_step_whatever_their_number(ranks, accumulation, micro_rows):
    samples = np.arange(100, 100 + ranks * accumulation * micro_rows)
    shares = [np.concatenate(data.share(samples, rank, ranks, accumulation)) for rank in range(ranks)]
    assert np.concatenate(shares).tolist() == samples.tolist()
    assert all(len(part) == micro_rows for part in data.share(samples, 0, ranks, accumulation))


def test_spoilt_targets_are_random_the_same_every_time_and_only_where_asked():
    targets = np.tile(np.arange(64), (4, 1))
    targets[:, -1] = -100
    samples = np.array([9, 10, 11, 12])
    once, twice = (data.spoil(targets, samples, (10, 12), 64) for _ in range(2))
    assert (once == twice).all()
    assert (once[[0, 3]] == targets[[0, 3]]).all()
    assert (once[:, -1] == -100).all()
    assert (once[1:3, :-1] != targets[1:3, :-1]).mean() > 0.9
    alone = data.spoil(targets[1:2], samples[1:2], (10, 12), 64)
    assert (alone == once[1:2]).all(), "depends on the company"


def config(steps: int, warmup: int) -> RunConfig:
    return RunConfig(
        model={},
        optimizer=Optimizer(peak_lr=1.0),
        run=RunLength(max_steps=steps),
        schedule=Schedule(warmup_steps=warmup),
    )


@given(st.integers(1, 400), st.data())
def test_the_rate_rises_to_the_peak_and_falls_to_a_tenth(steps, draw):
    warmup = draw.draw(st.integers(0, steps - 1))
    rates = [schedule.learning_rate(config(steps, warmup), step) for step in range(1, steps + 1)]
    assert all(math.isclose(rate, step / warmup) for step, rate in enumerate(rates[:warmup], start=1))
    after = rates[warmup:]
    assert all(a >= b for a, b in pairwise(after))
    assert math.isclose(rates[-1], 0.1)
    assert max(rates) <= 1.0


def test_a_rollback_halves_the_rate_and_lets_it_come_back():
    factor = [schedule.after_rollbacks(0.5, 200, [100], step) for step in (100, 101, 201, 301, 302)]
    assert factor == [1.0, 0.5, 0.75, 1.0, 1.0]
    both = schedule.after_rollbacks(0.5, 200, [100, 100], 101)
    assert both == 0.25


def test_a_fraction_of_the_peak_can_be_the_end():
    flat = msgspec.structs.replace(config(10, 0), schedule=Schedule(warmup_steps=0, min_lr_ratio=1.0))
    assert {schedule.learning_rate(flat, step) for step in range(1, 11)} == {1.0}
