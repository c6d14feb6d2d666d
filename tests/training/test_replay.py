"""Spikes decided again from a run's files: the run's own settings give the run's own decisions."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import msgspec
import pytest

from ptool.errors import InputError
from ptool.training import spikes
from ptool.training.config import RunConfig, Spike
from ptool.training.course import Course
from ptool.training.history import JsonLines, Metrics, StepRecord
from ptool.training.replay import replay, tried_batches
from ptool.training.settings_text import to_toml
from ptool.training.spikes import Action, Decision, Observation, Window
from tests.training import plans, tiny

BATCH = 8
CONFIG = Spike(back_off=20)


def record(step: int, sample: int, loss: float, attempt: int) -> StepRecord:
    norm = 1.0 if math.isfinite(loss) else loss
    fields = {"tokens": step * 256, "lr": 1e-3, "tokens_per_second": 1.0, "attempt": attempt}
    return StepRecord(step=step, loss=loss, grad_norm=norm, samples=(sample, sample + BATCH), **fields)


def make_run(folder: Path, bad: dict[int, float], *, steps: int = 300, kill_at: int = 0) -> list[Decision]:
    """Train on made-up losses as the loop does, `bad` giving the loss of some batches; returns what was decided.

    After a rollback the bad batches that were skipped do not come again. A kill goes back 15 steps.
    """
    folder.mkdir(exist_ok=True)
    metrics, rng = Metrics(folder), random.Random(3)
    losses = [3 * math.exp(rng.gauss(0, 0.03)) for _ in range(4 * steps)]
    windows, cursors = [Window()], [0]
    decisions: list[Decision] = []
    step, sample, attempt = 0, 0, 1
    while step < steps:
        while any(first <= sample < last for first, last in (d.skip for d in decisions)):
            sample += BATCH
        number = sample // BATCH
        line = record(step + 1, sample, bad.get(number, losses[number]), attempt)
        now = Observation(step=step + 1, samples=line.samples, loss=line.loss, grad_norm=line.grad_norm)
        verdict = spikes.judge(CONFIG, windows[step], decisions, now)
        if verdict.action == Action.RERUN:
            metrics.refuse(line, verdict.reason)
            verdict = spikes.judge(CONFIG, windows[step], decisions, now, first=now)
        if verdict.action == Action.ACCEPT:
            metrics.append(line)
            step, sample = step + 1, sample + BATCH
            windows[step:], cursors[step:] = [spikes.accept(CONFIG, windows[step - 1], now)], [sample]
        else:
            metrics.refuse(line, verdict.reason)
            target, skip = None, now.samples
            if verdict.action == Action.ROLLBACK:
                onset, first = spikes.onset(CONFIG, windows[step], decisions, now)
                target = spikes.latest_target(CONFIG, decisions, onset)
                skip = spikes.guilty(CONFIG, decisions, onset, first, now, cursors[target])
            finite = line.loss if math.isfinite(line.loss) else None
            norm = line.grad_norm if math.isfinite(line.grad_norm) else None
            fields = {"reason": verdict.reason, "loss": finite, "grad_norm": norm, "target": target}
            decisions.append(Decision(action=verdict.action.value, step=step, skip=skip, **fields))
            if target is not None:
                metrics.rewind(target)
                step, sample, attempt = target, cursors[target], attempt + 1
        if step == kill_at:
            metrics.rewind(step - 15)
            step, sample, attempt, kill_at = step - 15, cursors[step - 15], attempt + 1, 0
    metrics.close()
    return decisions


COURSE = Course([plans.phase(steps=20_000)])


def test_the_runs_own_settings_give_its_own_decisions_also_over_a_kill_and_a_rollback(tmp_path: Path) -> None:
    bad = {100: math.nan, 150: 9.0, 200: 9.0, 201: 9.1, 202: 9.2}
    made = make_run(tmp_path, bad, kill_at=180)
    assert [d.action for d in made] == ["skip", "skip", "skip", "skip", "rollback"]
    found = replay(tmp_path, CONFIG, course=COURSE)
    assert [outcome.decision for outcome in found.outcomes] == made
    assert all(outcome.refused for outcome in found.outcomes)
    assert (found.num_refused, found.count(Action.ROLLBACK)) == (5, 1)


def test_a_run_of_many_attempts_is_not_judged_from_its_first_step_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_again_and_again(folder: Path) -> Path:
        """Every 300 steps; the last 20 are taken again."""
        folder.mkdir()
        accepted, undone = Metrics(folder), JsonLines(folder / "attempts.jsonl")
        for step in range(1, 6001):
            loss, place = 3.0 + 0.05 * math.sin(step * 1.7), (step - 1) * BATCH
            accepted.append(record(step, place, loss, 1 + (step + 19) // 300))
            if (step + 19) % 300 < 20 and step > 300:
                undone.append(record(step, place, loss, (step + 19) // 300))
        accepted.close()
        undone.close()
        return folder

    calls: list[int] = []
    accept = spikes.accept

    def counted(config: Spike, window: Window, now: Observation) -> Window:
        calls.append(now.step)
        return accept(config, window, now)

    monkeypatch.setattr(spikes, "accept", counted)
    run = killed_again_and_again(tmp_path / "run")
    keen = msgspec.structs.replace(CONFIG, loss_z=1.0)
    monkeypatch.setattr("ptool.training.replay.KEPT_EVERY", 10**9)
    from_the_first = replay(run, keen, course=COURSE)
    assert len(calls) > 40_000
    calls.clear()
    monkeypatch.setattr("ptool.training.replay.KEPT_EVERY", 1000)
    assert replay(run, keen, course=COURSE) == from_the_first
    assert len(calls) < 20_000


def test_other_thresholds_decide_otherwise(tmp_path: Path) -> None:
    make_run(tmp_path, {150: 9.0, 170: 3 * 1.12})
    deaf = msgspec.structs.replace(CONFIG, loss_z=1e6, joint_loss_z=1e6)
    assert replay(tmp_path, deaf, course=COURSE).outcomes == []
    keen = replay(tmp_path, msgspec.structs.replace(CONFIG, loss_z=3.5), course=COURSE)
    new = [outcome.decision.skip[0] // BATCH for outcome in keen.outcomes if not outcome.refused]
    assert 170 in new


def test_mean_plus_two_sigma_warns_about_228_times_in_10000_clean_steps_and_the_machine_never(tmp_path: Path) -> None:
    rng = random.Random(0)
    metrics = Metrics(tmp_path)
    num_steps = 10_000 + CONFIG.min_history
    for step in range(1, num_steps + 1):
        metrics.append(record(step, (step - 1) * BATCH, rng.gauss(3.0, 0.1), 1))
    metrics.close()
    found = replay(tmp_path, CONFIG, course=COURSE)
    assert found.outcomes == []
    assert found.two_sigma == found.two_sigma_false
    # 227.5 of a known normal; mean and sigma of 128 steps are themselves noisy: 1.992 sigma of Student's t, 242 +- 16
    assert 180 < found.two_sigma < 300


def test_batches_come_in_the_order_in_which_they_were_tried(tmp_path: Path) -> None:
    make_run(tmp_path, {100: 9.0}, kill_at=120)
    tried = tried_batches(tmp_path)
    assert [batch.attempt for batch in tried] == sorted(batch.attempt for batch in tried)
    assert [len(batch.seen) for batch in tried if batch.refused] == [2]
    first = [batch.seen[0].samples[0] for batch in tried if batch.attempt == 1]
    assert first == sorted(first)


def test_the_command_prints_counts_and_takes_spike_settings_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no steps"):
        replay(tmp_path, CONFIG, course=COURSE)
    make_run(tmp_path, {150: 9.0})
    config = RunConfig(model={"layers": 1}, spike=Spike(back_off=20), phase=(plans.phase(steps=20_000),))
    (tmp_path / "config.toml").write_text(to_toml(config))
    done = tiny.run("train", "--replay-spikes", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "skip" in done.stdout
    assert "mean + 2 sigma" in done.stdout
    told = tiny.run(
        "train", "--replay-spikes", tmp_path, "--set", "spike.loss_z=1e6", "--set", "spike.joint_loss_z=1e6", "--json"
    )
    assert json.loads(told.stdout)["outcomes"] == []
    assert tiny.run("train", "--replay-spikes", tmp_path, "--set", "batch.tokens=5").returncode == 2
    assert tiny.run("train", "packed").returncode == 2
