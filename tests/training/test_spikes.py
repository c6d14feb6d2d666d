"""The state machine that refuses steps, on made-up histories."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.training import spikes
from ptool.training.config import Spike
from ptool.training.spikes import Action, Decision, Observation, Window

CONFIG = Spike()
BATCH = 8


def observe(step: int, loss: float, norm: float = 1.0, first: int | None = None) -> Observation:
    first = (step - 1) * BATCH if first is None else first
    return Observation(step=step, samples=(first, first + BATCH), loss=loss, grad_norm=norm)


def settled(steps: int = 200, seed: int = 0, level: float = 3.0) -> Window:
    """The window after a quiet stretch: 2 % of noise on the loss, 10 % on the norm."""
    rng, window = random.Random(seed), Window()
    for step in range(1, steps + 1):
        now = observe(step, level * math.exp(rng.gauss(0, 0.02)), math.exp(rng.gauss(0, 0.1)))
        window = spikes.accept(CONFIG, window, now)
    return window


def decision(action: Action, step: int, *, skip: tuple[int, int] = (0, 8), target: int | None = None) -> Decision:
    return Decision(action=action.value, step=step, skip=skip, reason="", loss=None, grad_norm=None, target=target)


@pytest.mark.parametrize("seed", range(5))
def test_two_thousand_clean_falling_steps_raise_no_alarm(seed):
    rng, window = random.Random(seed), Window()
    for step in range(1, 2001):
        loss = (2.5 + 6.5 * math.exp(-step / 150)) * math.exp(rng.gauss(0, 0.03))
        now = observe(step, loss, (0.5 + 3 * math.exp(-step / 60)) * math.exp(rng.gauss(0, 0.25)))
        verdict = spikes.judge(CONFIG, window, [], now, warmup_steps=40)
        assert verdict.action == Action.ACCEPT, (step, verdict)
        window = spikes.accept(CONFIG, window, now)


def test_a_single_outlier_is_rerun_and_skipped_and_nothing_is_rolled_back():
    window, bad = settled(), observe(201, 9.0)
    first = spikes.judge(CONFIG, window, [], bad)
    again = spikes.judge(CONFIG, window, [], bad, first=bad)
    assert (first.action, again.action) == (Action.RERUN, Action.SKIP)
    skipped = [decision(Action.SKIP, 200, skip=bad.samples)]
    assert spikes.judge(CONFIG, window, skipped, observe(201, 3.0, first=1608)).action == Action.ACCEPT


def test_more_bad_batches_than_may_be_skipped_are_a_rollback():
    window, bad = settled(), observe(201, 9.0)
    two = [decision(Action.SKIP, 200), decision(Action.SKIP, 200)]
    assert spikes.judge(CONFIG, window, two[:1], bad, first=bad).action == Action.SKIP
    assert spikes.judge(CONFIG, window, two, bad, first=bad).action == Action.ROLLBACK


def test_skips_of_long_ago_and_from_before_the_last_rollback_do_not_count():
    window, bad = settled(), observe(201, 9.0)
    old = [decision(Action.SKIP, 100), decision(Action.SKIP, 150)]
    undone = [decision(Action.SKIP, 200), decision(Action.SKIP, 200), decision(Action.ROLLBACK, 200, target=90)]
    assert spikes.judge(CONFIG, window, old, bad, first=bad).action == Action.SKIP
    assert spikes.judge(CONFIG, window, undone, bad, first=bad).action == Action.SKIP


def test_a_loss_that_stays_raised_is_a_rollback_although_no_step_is_an_outlier():
    rng, window = random.Random(1), Window()
    for step in range(1, 129):  # noise so wide that 1.6 times the median is within six deviations
        window = spikes.accept(CONFIG, window, observe(step, 3 * math.exp(rng.gauss(0, 0.2))))
    for step in range(129, 129 + CONFIG.raised_steps - 1):
        now = observe(step, 3 * 1.7)
        assert spikes.judge(CONFIG, window, [], now).action == Action.ACCEPT
        window = spikes.accept(CONFIG, window, now)
    last = observe(129 + CONFIG.raised_steps - 1, 3 * 1.7)
    assert spikes.judge(CONFIG, window, [], last).action == Action.RERUN
    assert spikes.judge(CONFIG, window, [], last, first=last).action == Action.ROLLBACK
    assert spikes.onset(CONFIG, window, [], last)[0] == 128


def test_a_raised_loss_never_enters_the_window_and_a_normal_one_ends_the_count():
    window = settled()
    raised = spikes.accept(CONFIG, window, observe(201, 3 * 1.6))
    assert (raised.losses, raised.raised) == (window.losses, 1)
    assert spikes.accept(CONFIG, raised, observe(202, 3.0)).raised == 0


@given(st.sampled_from([math.nan, math.inf, -math.inf]), st.booleans(), st.integers(0, 200))
def test_what_is_not_finite_is_refused_whatever_is_known(value, in_loss, steps):
    now = observe(201, value if in_loss else 3.0, 1.0 if in_loss else value)
    window = settled(steps) if steps else Window()
    assert spikes.judge(CONFIG, window, [], now).action == Action.RERUN
    off = msgspec.structs.replace(CONFIG, enabled=False)
    assert spikes.judge(off, window, [], now, first=now).action == Action.SKIP


@given(st.floats(0.1, 20), st.floats(0.01, 100), st.integers(0, 150))
def test_a_verdict_is_a_function_of_its_arguments_and_no_finite_step_before_the_history_is_refused(loss, norm, steps):
    window, now = settled(steps) if steps else Window(), observe(steps + 1, loss, norm)
    verdict = spikes.judge(CONFIG, window, [], now)
    assert verdict == spikes.judge(CONFIG, window, [], now)
    if steps < CONFIG.min_history:
        assert verdict.action == Action.ACCEPT


def test_nothing_finite_is_judged_during_warm_up():
    assert spikes.judge(CONFIG, settled(), [], observe(201, 9.0), warmup_steps=201).action == Action.ACCEPT


def test_a_rerun_that_comes_out_otherwise_means_hardware():
    window, bad = settled(), observe(201, 9.0)
    for other in (observe(201, 9.1), observe(201, 3.0), observe(201, math.nan)):
        verdict = spikes.judge(CONFIG, window, [], other, first=bad)
        assert verdict.action == Action.HALT
        assert "hardware" in verdict.reason
    assert spikes.judge(CONFIG, window, [], observe(201, 9.0001), first=bad).action == Action.SKIP


def test_a_gradient_norm_alone_is_accepted_and_clipped_harder():
    verdict = spikes.judge(CONFIG, settled(), [], observe(201, 3.0, 50.0))
    assert (verdict.action, verdict.clip) == (Action.ACCEPT, CONFIG.clip_factor)


def test_the_run_halts_when_its_rollbacks_are_spent_and_old_ones_are_forgiven():
    window, bad = settled(), observe(201, 9.0)
    config = msgspec.structs.replace(CONFIG, max_skips=0)
    spent = [decision(Action.ROLLBACK, 150 + k, target=50) for k in range(CONFIG.max_rollbacks)]
    assert spikes.judge(config, window, spent, bad, first=bad).action == Action.HALT
    later = observe(20_000, 9.0)
    assert spikes.judge(config, window, spent, later, first=later).action == Action.ROLLBACK


def test_a_rollback_goes_back_before_the_onset_and_leaves_out_the_guilty_samples_with_a_margin():
    window = settled()
    skips = [decision(Action.SKIP, 200, skip=(1600, 1608)), decision(Action.SKIP, 200, skip=(1608, 1616))]
    now = observe(201, 9.0, first=1616)
    onset, first = spikes.onset(CONFIG, window, skips, now)
    assert (onset, first) == (200, 1600)
    assert spikes.latest_target(CONFIG, skips, onset) == 100
    assert spikes.guilty(CONFIG, skips, onset, first, now, cursor=800) == (1592, 1632)
    assert spikes.guilty(CONFIG, skips, onset, first, now, cursor=1600) == (1600, 1632)


def test_a_spike_that_comes_back_goes_farther_back_and_leaves_out_twice_as_much():
    past = [decision(Action.ROLLBACK, 200, target=100)]
    now = observe(231, 9.0, first=2000)
    onset, first = spikes.onset(CONFIG, settled(), past, now)
    assert spikes.latest_target(CONFIG, past, onset) == onset - 2 * CONFIG.back_off
    start, end = spikes.guilty(CONFIG, past, onset, first, now, cursor=0)
    assert end - start == 2 * 3 * BATCH
