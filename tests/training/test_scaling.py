"""The loss scale as a function of what happened."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptool.training.scaling import FIRST, GROW_AFTER, HIGHEST, LOWEST, LossScale


def test_an_overflow_halves_it_down_to_its_floor_and_no_further():
    scale = LossScale()
    for halvings in range(1, 17):
        assert scale.overflowed()
        assert scale.value == FIRST / 2**halvings
    assert scale.value == LOWEST
    assert not scale.overflowed()
    assert scale.value == LOWEST


def test_it_doubles_after_enough_applied_steps_in_a_row():
    scale = LossScale()
    for _ in range(GROW_AFTER - 1):
        scale.applied()
    assert scale.value == FIRST
    scale.overflowed()
    for _ in range(GROW_AFTER - 1):
        scale.applied()
    assert scale.value == FIRST / 2, "an overflow begins the count again"
    scale.applied()
    assert scale.value == FIRST


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 60))
def test_it_goes_on_from_its_saved_state_as_if_nothing_had_happened(overflows, cut):
    def go(scale, events):
        seen = []
        for overflow in events:
            scale.overflowed() if overflow else scale.applied()
            seen.append(scale.value)
        return seen

    scale = LossScale(value=HIGHEST, applied_steps=GROW_AFTER - 5)
    go(scale, overflows[:cut])
    again = LossScale()
    again.restore(scale.state())
    assert go(again, overflows[cut:]) == go(scale, overflows[cut:])
    assert LOWEST <= scale.value <= HIGHEST


def test_the_state_of_another_precision_changes_nothing():
    scale = LossScale(value=8.0, applied_steps=3)
    scale.restore({})
    assert scale == LossScale(value=8.0, applied_steps=3)
