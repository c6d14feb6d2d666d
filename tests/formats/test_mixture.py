"""Mixing packed folders at run time: a pure function of seed, weights and sample number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import UsageError
from ptool.formats.mixture import Mixture, Phase, _floor_sum

folders = st.lists(
    st.tuples(st.integers(1, 50), st.integers(1, 9), st.sampled_from([0.0, 0.1, 1.0, 3.5])), min_size=1, max_size=4
).filter(lambda found: any(weight for _, _, weight in found))


def mixture(found: list[tuple[int, int, float]], seed: int = 0, *more: Phase) -> Mixture:
    rows = [count for count, _, _ in found]
    tokens = [count * each for count, each, _ in found]
    return Mixture(rows, tokens, [Phase(0, tuple(weight for _, _, weight in found)), *more], seed)


@given(folders, st.integers(0, 2**40), st.integers(0, 10**12), st.integers(0, 60))
def test_any_cut_of_the_numbers_gives_the_same_samples(found, seed: int, start: int, count: int) -> None:
    one = mixture(found, seed).samples(start, count)
    cut = count // 3
    two = [mixture(found, seed).samples(start, cut), mixture(found, seed).samples(start + cut, count - cut)]
    for whole, first, rest in zip(one, *two, strict=True):
        assert whole.tolist() == [*first.tolist(), *rest.tolist()]


@given(folders, st.integers(0, 99))
def test_what_was_drawn_is_what_counting_finds_and_every_epoch_has_every_row_once(found, seed: int) -> None:
    made = mixture(found, seed, Phase(100, tuple(2.0 if weight else 0.0 for _, _, weight in found)))
    samples = made.samples(0, 300)
    for number in (0, 1, 99, 100, 101, 300):
        assert made.drawn(number) == np.bincount(samples.folders[:number], minlength=len(found)).tolist()
    for folder, (rows, _, weight) in enumerate(found):
        here = samples.folders == folder
        assert here.any() == bool(weight) or not weight or here.sum() == 0
        for epoch in range(int(here.sum()) // rows):
            drawn = samples.rows[here & (samples.epochs == epoch)]
            assert sorted(drawn.tolist()) == list(range(rows))


def test_every_stretch_has_the_mix_in_tokens() -> None:
    rows, tokens, weights = [1000, 4000, 500], [2_000_000, 4_000_000, 900_000], (0.6, 0.3, 0.1)
    made = Mixture(rows, tokens, [Phase(0, weights)], seed=3)
    per_row = np.array(tokens) / np.array(rows)
    share = np.array(weights) / per_row / (np.array(weights) / per_row).sum()
    folders = made.samples(0, 200_000).folders
    for size in (64, 1000):
        windows = folders[: len(folders) // size * size].reshape(-1, size)
        for folder in range(3):
            assert np.abs((windows == folder).sum(axis=1) - share[folder] * size).max() < 4
    counts = np.bincount(folders) * per_row
    assert np.allclose(counts / counts.sum(), weights, atol=1e-4)


def test_a_new_phase_goes_on_where_each_folder_was() -> None:
    rows = [40, 40]
    before = Mixture(rows, rows, [Phase(0, (1, 1))], seed=1).samples(0, 30)
    made = Mixture(rows, rows, [Phase(0, (1, 1)), Phase(30, (0.0, 1.0))], seed=1)
    after = made.samples(0, 50)
    assert after.rows[:30].tolist() == before.rows.tolist()
    assert set(after.folders[30:].tolist()) == {1}
    seen = after.rows[after.folders == 1]
    assert len(set(seen.tolist())) == len(seen), "nothing comes again before the epoch is over"


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = [Mixture([100], [100], [Phase(0, (1.0,))], seed).samples(0, 200).rows.tolist() for seed in range(3)]
    halves = [tuple(order[:100]) for order in orders] + [tuple(order[100:]) for order in orders]
    assert len(set(halves)) == 6
    assert all(sorted(half) == list(range(100)) for half in halves)


@given(st.integers(0, 200), st.integers(1, 50), st.integers(0, 60), st.integers(0, 60))
def test_the_sum_of_floors_is_the_sum(count: int, modulus: int, step: int, offset: int) -> None:
    assert _floor_sum(count, modulus, step, offset) == sum((step * i + offset) // modulus for i in range(count))


@pytest.mark.parametrize(
    ("rows", "phases"),
    [
        ([5], []),
        ([5], [Phase(1, (1.0,))]),
        ([5], [Phase(0, (1.0,)), Phase(0, (1.0,))]),
        ([5], [Phase(0, (0.0,))]),
        ([5], [Phase(0, (float("nan"),))]),
        ([5], [Phase(0, (1.0, 1.0))]),
        ([5, 0], [Phase(0, (1.0, 1.0))]),
    ],
)
def test_mixes_that_cannot_be_are_refused(rows: list[int], phases: list[Phase]) -> None:
    with pytest.raises(UsageError):
        Mixture(rows, rows, phases, seed=0)


def test_a_micro_batch_of_many_folders_in_a_late_phase_costs_one_count_for_each_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sixty folders after six phases took 54 ms, each time rows were read."""
    calls: list[int] = []

    def counted(count: int, modulus: int, step: int, offset: int) -> int:
        calls.append(count)
        return _floor_sum(count, modulus, step, offset)

    phases = [Phase(first * 10**9, tuple(float(first + folder + 1) for folder in range(60))) for first in range(6)]
    made = Mixture([10**7] * 60, [10**10] * 60, phases, seed=3)
    monkeypatch.setattr("ptool.formats.mixture._floor_sum", counted)
    made.samples(55 * 10**8, 8)
    assert len(calls) == 61
