"""Phases, tokens and the learning rate: pure functions against brute force."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import InputError, UsageError
from ptool.training import data, schedule
from ptool.training.course import Course
from ptool.training.resolving import settings_table
from tests.training.plans import facts, folder, phase, resolved

pieces = st.lists(
    st.builds(
        lambda steps, rows, seq_len: phase(steps=steps, batch_tokens=rows * seq_len, seq_len=seq_len),
        st.integers(1, 7),
        st.integers(1, 5),
        st.sampled_from([4, 8]),
    ),
    min_size=1,
    max_size=4,
)
skips = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)).map(lambda t: (t[0], sum(t))), max_size=4)


@given(pieces, skips)
def test_steps_tokens_and_samples_are_those_of_counting_one_by_one(phases, skipped):
    course = Course(phases)
    step = tokens = cursor = 0
    firsts = course.first_samples(skipped)
    for index, one in enumerate(phases):
        assert firsts[index] == cursor
        assert course.first_steps[index] == step + 1
        for _ in range(one.steps):
            _, cursor = data.take(cursor, one.rows, skipped)
            step, tokens = step + 1, tokens + one.batch_tokens
            assert (course.index(step), course.phase(step), course.tokens(step)) == (index, one, tokens)
    assert (course.num_steps, course.num_tokens) == (step, tokens)


@given(st.integers(1, 400), st.data(), st.sampled_from(["cosine", "linear"]))
def test_the_rate_rises_to_the_peak_and_falls_to_a_tenth(steps, draw, shape):
    warmup = draw.draw(st.integers(0, steps - 1))
    course = Course([phase(steps=steps, shape=shape, warmup_tokens=warmup * 256, curve_tokens=steps * 256)])
    rates = [course.learning_rate(step) for step in range(1, steps + 1)]
    assert course.warmup_steps == warmup
    assert all(math.isclose(rate, step / warmup) for step, rate in enumerate(rates[:warmup], start=1))
    assert all(a >= b for a, b in pairwise(rates[warmup:]))
    assert math.isclose(rates[-1], 0.1)
    assert max(rates) <= 1.0


def test_linear_is_a_line_and_cosine_half_a_wave():
    line = Course([phase(shape="linear", end_lr=0.0)])
    wave = Course([phase(shape="cosine", end_lr=0.0)])
    for step in range(1, 101):
        assert math.isclose(line.learning_rate(step), 1 - step / 100, abs_tol=1e-12)
        assert math.isclose(wave.learning_rate(step), (1 + math.cos(math.pi * step / 100)) / 2, abs_tol=1e-12)


def test_wsd_is_stable_and_then_decays_by_one_minus_the_root():
    course = Course([phase(shape="wsd", end_lr=0.0, warmup_tokens=10 * 256, decay_tokens=20 * 256)])
    rates = [course.learning_rate(step) for step in range(1, 101)]
    assert rates[9:80] == [1.0] * 71
    assert all(math.isclose(rates[80 + k - 1], 1 - math.sqrt(k / 20), abs_tol=1e-12) for k in range(1, 21))


def test_a_rollback_halves_the_rate_and_lets_it_come_back():
    factor = [schedule.after_rollbacks(0.5, 200, [100], step) for step in (100, 101, 201, 301, 302)]
    assert factor == [1.0, 0.5, 0.75, 1.0, 1.0]
    assert schedule.after_rollbacks(0.5, 200, [100, 100], 101) == 0.25


def test_a_curve_goes_on_through_a_change_of_batch():
    whole = Course([phase(steps=100, shape="cosine")])
    cut = Course([phase(steps=50, shape="cosine"), phase(steps=25, batch_tokens=512, shape="cosine")])
    assert [cut.learning_rate(50 + k) for k in range(1, 26)] == [whole.learning_rate(50 + 2 * k) for k in range(1, 26)]


def test_only_a_change_that_moves_the_loss_begins_the_detectors_memory_anew():
    same = phase(name="b", peak_lr=0.5)
    course = Course([phase(), same, phase(weights=(0.0, 1.0)), phase(seq_len=64), phase(seq_len=64, batch_tokens=512)])
    assert [step for step in range(1, 501) if course.begins_anew(step)] == [201, 301, 401]


def test_phases_follow_the_runs_curve_unless_they_have_their_own():
    two = facts(folder("web"), folder("code", num_tokens=1_000_000))
    config = resolved(
        two,
        optimizer={"peak_lr": 1e-3},
        batch={"tokens": 8192},
        phase=[
            {"name": "stable", "tokens": "8M", "mix": {"web": 0.7, "code": 0.3}},
            {"name": "anneal", "tokens": "2M", "mix": {"code": 1}, "peak_lr": 5e-4, "end_lr": 0.0},
        ],
    )
    stable, anneal = config.phase
    assert (stable.weights, anneal.weights) == ((0.7, 0.3), (0.0, 1.0))
    assert (stable.shape, stable.curve_start, stable.curve_tokens) == ("cosine", 0, config.run.tokens)
    assert (anneal.shape, anneal.peak_lr, anneal.end_lr) == ("linear", 5e-4, 0.0)
    assert anneal.curve_start == stable.steps * 8192
    assert Course(config.phase).learning_rate(config.run.max_steps) == 0.0
    assert config.run.tokens == (-(-8_000_000 // 8192) + -(-2_000_000 // 8192)) * 8192


def test_the_batch_stays_in_tokens_when_the_length_changes():
    two = facts(folder("short"), folder("long", seq_len=2048))
    config = resolved(
        two,
        batch={"tokens": 16_384},
        phase=[{"tokens": "1M", "mix": {"short": 1}}, {"tokens": "1M", "mix": {"long": 1}}],
    )
    assert [(p.seq_len, p.rows, p.batch_tokens) for p in config.phase] == [(512, 32, 16_384), (2048, 8, 16_384)]
    assert config.model_config.max_seq_len == 2048


def test_a_growing_batch_doubles_in_equal_parts_of_its_tokens():
    config = resolved(batch={"tokens": 16_384, "warmup_from": 2048, "warmup_tokens": 300_000}, run={"tokens": "1M"})
    assert [p.batch_tokens for p in config.phase] == [2048, 4096, 8192, 16_384]
    assert [p.steps * p.batch_tokens for p in config.phase[:3]] == [-(-100_000 // b) * b for b in (2048, 4096, 8192)]
    assert {p.curve_tokens for p in config.phase} == {config.run.tokens}
    steps = config.schedule.warmup_steps
    assert config.schedule.warmup_tokens == Course(config.phase).tokens(steps), "its own steps' tokens"


@pytest.mark.parametrize("steps", [3, 60, 100])
def test_as_many_steps_as_asked_for_also_where_the_first_have_smaller_batches(steps):
    growing = {"tokens": 16_384, "warmup_from": 2048, "warmup_tokens": 300_000}
    assert resolved(batch=growing, run={"max_steps": steps}).run.max_steps == steps


def test_without_a_mix_every_token_of_every_folder_comes_once():
    two = facts(folder("web"), folder("code", num_rows=2000, num_tokens=900_000))
    config = resolved(two, batch={"tokens": 8192})
    assert config.phase[0].weights == (5_120_000.0, 900_000.0)
    assert config.run.tokens == 12_000 * 512 // 8192 * 8192


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ({"data": {"mix": {"wbe": 1.0}}}, "did you mean web"),
        ({"data": {"mix": {"web": 0.0}}}, "no positive share"),
        ({"data": {"mix": {"web": -1.0, "long": 2.0}}}, "no positive share"),
        ({}, "one step cannot mix them"),
        ({"phase": [{"mix": {"web": 1.0}}]}, "has no tokens"),
        ({"phase": [{"tokens": 1, "mix": {"web": 1.0}, "seq_len": 77}]}, "seq_len 77"),
        ({"phase": [{"tokens": 1, "mix": {"web": 1.0}}], "run": {"tokens": 5}}, "phases say how long"),
        ({"phase": [{"tokens": 1, "mxi": {"web": 1.0}}]}, "did you mean mix"),
        ({"phase": {"tokens": 1}}, "list of tables"),
    ],
)
def test_phases_that_cannot_be_are_refused_with_a_word_on_what_to_write(tables, complaint):
    two = facts(folder("web"), folder("long", seq_len=2048))
    with pytest.raises(UsageError) as raised:
        resolved(two, **tables)
    assert complaint in str(raised.value)


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])), min_size=1, max_size=4
    )
)
def test_a_folder_that_stands_in_several_phases_goes_on_where_it_was(parts):
    """Every row of a folder once before any of its rows twice, through all phases."""
    rows, firsts, first = [13, 7], [], 0
    for count, weights in parts:
        firsts.append((first, weights))
        first += count
    order = data.SampleOrder(firsts, rows, [13, 7], seed=3, fingerprint="x")
    places = order.places(np.arange(first))
    for number, size in enumerate(rows):
        drawn = places.rows[places.folders == number]
        for start in range(0, len(drawn), size):
            epoch = drawn[start : start + size].tolist()
            assert len(set(epoch)) == len(epoch)


def test_the_shipped_recipe_anneals_to_nothing_over_four_mixes():
    names = ("textbooks", "questions", "papers", "forums", "maths", "code", "general", "instructions")
    table = settings_table(Path("annealing"))
    config = resolved(facts(*map(folder, names)), **table)
    course = Course(config.phase)
    assert [p.peak_lr for p in config.phase] == [3e-4, 8e-5, 5e-5, 3e-5]
    assert course.learning_rate(course.num_steps) == 0.0
    assert [round(sum(p.weights), 9) for p in config.phase] == [1.0, 1.0, 1.0, 1.05]
    assert config.phase[1].weights[4] == 0.60
    with pytest.raises(InputError, match="cannot read"):
        settings_table(Path("annealling"))


def test_passes_count_every_draw_of_a_folder_over_all_phases():
    rows, tokens = [100, 50], [3200, 800]  # the second folder is half padding
    phases = [phase(steps=10, weights=(1.0, 1.0)), phase(steps=5, weights=(0.0, 1.0))]
    first = Course(phases[:1]).passes(rows, tokens)
    assert first == pytest.approx([80 * (1 / 3) / 100, 80 * (2 / 3) / 50])
    assert Course(phases).passes(rows, tokens) == pytest.approx([first[0], first[1] + 40 / 50])
