"""Held-out documents are chosen by their text alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.packing.holdout import choose_holdout, mix

HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=60)


def choose(hashes, fraction, seed=0, has_text=None):
    array = np.array(hashes, dtype=np.uint64)
    with_text = np.ones(len(hashes), dtype=bool) if has_text is None else np.array(has_text, dtype=bool)
    return choose_holdout(array, with_text, fraction, seed)


def splitmix(value: int, seed: int) -> int:
    """SplitMix64's finaliser in plain integers."""
    value = (value + (seed + 1) * 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


@given(st.integers(0, 2**64 - 1), st.integers(0, 9))
def test_the_mix_is_splitmix64(value, seed) -> None:
    assert int(mix(np.array([value], dtype=np.uint64), seed)[0]) == splitmix(value, seed)


@settings(max_examples=300)
@given(HASHES, st.floats(0, 0.999), st.integers(0, 3), st.data())
def test_the_choice_is_of_texts_and_leaves_something_on_both_sides(hashes, fraction, seed, data) -> None:
    hashes += data.draw(st.lists(st.sampled_from(hashes), max_size=9)) if hashes else []
    held = choose(hashes, fraction, seed)
    sides = {value: set() for value in hashes}
    for value, side in zip(hashes, held.tolist(), strict=True):
        sides[value].add(side)
    assert all(len(side) == 1 for side in sides.values()), "equal texts are on one side"
    if fraction > 0 and len(sides) > 1:
        assert 0 < held.sum() < len(hashes)
    else:
        assert not held.any()
    order = np.array(data.draw(st.permutations(range(len(hashes)))), dtype=int)
    assert choose([hashes[index] for index in order], fraction, seed).tolist() == held[order].tolist()


def test_the_share_is_about_the_fraction_and_grows_with_it() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    shares = [choose(hashes, fraction) for fraction in (0.005, 0.01, 0.5, 0.999)]
    assert [round(float(held.mean()), 2) for held in shares] == [0.0, 0.01, 0.5, 1.0]
    assert 400 < shares[0].sum() < 600
    for smaller, larger in pairwise(shares):
        assert (larger | ~smaller).all(), "what a smaller share holds out, a larger one does too"
    assert (choose(hashes, 0.5, seed=1) != shares[2]).any()


def test_documents_without_text_are_never_held_out() -> None:
    assert choose([1, 2, 3], 0.9, has_text=[False, False, False]).tolist() == [False] * 3
    assert choose([1, 2], 0.9, has_text=[True, False]).tolist() == [False] * 2
    assert not choose([1, 2, 3, 4], 0.9, has_text=[True, True, False, True])[2]
