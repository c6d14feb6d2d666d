"""What a resumed run may change: the past stays, the rest follows the new plan, and each change says what it means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ptool.errors import UsageError
from ptool.training.changing import Change, change_plan
from ptool.training.config import RunConfig
from ptool.training.course import Course
from ptool.training.resolving import DataFacts, check
from ptool.training.settings_text import as_tables
from tests.training.plans import facts, folder, resolved

TWO = facts(folder("web"), folder("code"))
STEP = 40


def run(**tables: Any) -> RunConfig:
    """100 steps of 16,384 tokens, a cosine."""
    given = {"batch": {"tokens": 16_384}, "run": {"max_steps": 100}, "optimizer": {"peak_lr": 1e-3}, **tables}
    return resolved(TWO, **given)


def changed(
    config: RunConfig, packed: DataFacts = TWO, /, *, step: int = STEP, **tables: Any
) -> tuple[RunConfig, list[Change]]:
    found, changes = change_plan(config, check(tables), packed, step)
    was, now = Course(config.phase), Course(found.phase)
    for number in range(1, step + 1):  # the past is what it was
        assert now.tokens(number) == was.tokens(number)
        assert now.learning_rate(number) == was.learning_rate(number)
        assert now.phase(number).weights == was.phase(number).weights[: len(now.phase(number).weights)]
    assert (found.run.max_steps, found.run.tokens) == (now.num_steps, now.num_tokens)
    return found, changes


def test_another_batch_takes_the_tokens_left_in_other_steps_on_the_same_curve():
    old = run()
    new, changes = changed(old, batch={"tokens": 32_768})
    was, now = Course(old.phase), Course(new.phase)
    assert (now.num_tokens, now.num_steps) == (was.num_tokens, 40 + 30)
    assert [now.learning_rate(40 + k) for k in range(1, 31)] == [was.learning_rate(40 + 2 * k) for k in range(1, 31)]
    assert [c.setting for c in changes] == ["batch.tokens"]
    assert "after step 40" in changes[0].meaning


def test_another_mix_begins_where_the_run_stands():
    old = run()
    new, _ = changed(old, data={"mix": {"code": 3.0, "web": 1.0}})
    assert [(p.steps, p.weights) for p in new.phase] == [(40, old.phase[0].weights), (60, (1.0, 3.0))]
    assert Course(new.phase).begins_anew(41)


def test_a_new_folder_with_longer_rows_keeps_the_batch_in_tokens():
    old = run()
    three = facts(folder("web"), folder("code"), folder("books", seq_len=2048))
    new, changes = changed(old, three, data={"packed": ["a", "b", "c"], "mix": {"books": 1.0}})
    assert [(p.seq_len, p.rows, p.batch_tokens) for p in new.phase] == [(512, 32, 16_384), (2048, 8, 16_384)]
    assert new.data.packed == tuple(f.packed for f in three.folders)
    assert any("not drawn again" in change.meaning for change in changes)
    with pytest.raises(UsageError, match="must stay"):
        change_plan(old, {}, facts(folder("books")), STEP)


def test_a_stable_run_can_decay_from_where_it_stands_also_when_it_is_finished():
    old = run(schedule={"shape": "wsd", "decay_tokens": 0})
    assert Course(old.phase).learning_rate(100) == 1e-3
    for step in (STEP, 100):
        new, changes = changed(old, step=step, schedule={"decay_tokens": 10 * 16_384})
        course = Course(new.phase)
        assert course.num_steps == step + 10
        rates = [course.learning_rate(number) for number in range(step, step + 11)]
        assert rates[0] == 1e-3
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] == pytest.approx(1e-4)
        assert any(change.setting == "length" for change in changes)
    with pytest.raises(UsageError, match="stable run"):
        changed(run(), schedule={"decay_tokens": 1})


def test_a_cosine_that_becomes_wsd_decays_over_a_tenth_of_the_run_or_what_is_left_of_it():
    for step, stable in ((STEP, 90), (95, 95)):
        new, _ = changed(run(), step=step, schedule={"shape": "wsd"})
        course = Course(new.phase)
        assert course.learning_rate(stable) == (1e-3 if step == STEP else pytest.approx(1e-4, rel=0.1))
        assert course.learning_rate(stable + 1) < 1e-3
        assert course.learning_rate(100) == pytest.approx(1e-4)
    again, _ = changed(new, step=97, optimizer={"peak_lr": 2e-3})
    assert Course(again.phase).learning_rate(100) == pytest.approx(2e-4)


def test_a_longer_run_stretches_its_curve_and_says_where_the_rate_jumps():
    new, changes = changed(run(), run={"tokens": 200 * 16_384})
    course = Course(new.phase)
    assert course.num_steps == 200
    assert course.learning_rate(200) == pytest.approx(1e-4)
    assert "would have been" in next(c.meaning for c in changes if c.setting == "learning rate")
    shorter, _ = changed(run(), run={"max_steps": 50})
    assert shorter.run.max_steps == 50
    with pytest.raises(UsageError, match="done already"):
        changed(run(), run={"tokens": 16_384})


def test_a_run_of_several_phases_ends_at_the_step_that_is_asked_for():
    parts = [{"tokens": 16_384 * 50, "mix": {"web": 1.0}}, {"tokens": 16_384 * 50, "mix": {"code": 1.0}}]
    old = resolved(TWO, batch={"tokens": 16_384}, phase=parts)
    for steps in (41, 50, 60, 120):
        new, _ = changed(old, run={"max_steps": steps})
        assert new.run.max_steps == steps
        assert sum(phase.steps for phase in new.phase if phase.weights[0]) == min(steps, 50)


def test_new_phases_replace_all_that_is_left():
    new, _ = changed(
        run(), phase=[{"name": "end", "tokens": 16_384 * 5, "mix": {"code": 1.0}, "peak_lr": 1e-4, "end_lr": 0}]
    )
    course = Course(new.phase)
    assert course.num_steps == 45
    assert course.learning_rate(45) == 0.0
    assert course.learning_rate(41) == pytest.approx(1e-4 * 4 / 5)


def test_other_ranks_take_the_same_steps():
    old = run()
    new, changes = changed(old, parallel={"ranks": 4, "zero": 3})
    assert (new.phase[-1].rows, new.phase[-1].batch_tokens) == (32, 16_384)
    assert new.phase[-1].accumulation(4) * 4 * new.phase[-1].micro_rows == 32
    assert all("order of sums" in change.meaning for change in changes)
    with pytest.raises(UsageError, match="cannot be shared by 3 ranks"):
        changed(old, parallel={"ranks": 3})
    free, _ = changed(old, parallel={"ranks": 3}, batch={"tokens": 16_384 - 512})
    assert free.phase[-1].rows % 3 == 0


def test_what_moves_no_step_changes_no_phase():
    old = run()
    new, changes = changed(old, checkpoint={"every_steps": 7}, spike={"loss_z": 5.0})
    assert new.phase == old.phase
    assert (new.checkpoint.every_steps, new.spike.loss_z, len(changes)) == (7, 5.0, 2)
    same, none = changed(old, batch={"tokens": 16_384})
    assert (same, none) == (old, [])


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"model": {"layers": 3}}, "shape"),
        ({"run": {"seed": 3}}, "drawn again"),
        ({"optimizer": {"name": "lion"}}, "moments"),
        ({"schedule": {"warmup_steps": 50}}, "warm-up is over"),
        ({"batch": {"warmup_from": 1024}}, "beginning"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(tables, reason):
    with pytest.raises(UsageError, match=reason):
        changed(run(), **tables)


def test_a_change_of_a_change_keeps_both():
    first, _ = changed(run(), batch={"tokens": 32_768})
    second, _ = changed(first, step=50, data={"mix": {"code": 1.0}})
    assert [(p.steps, p.batch_tokens) for p in second.phase] == [(40, 16_384), (10, 32_768), (20, 32_768)]
    assert msgspec.convert(as_tables(second), RunConfig) == second
