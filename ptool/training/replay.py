"""A run's spikes decided again, with other thresholds: what `ptool train --replay-spikes RUN/` prints.

Every attempted step is in metrics.jsonl (accepted) or attempts.jsonl (refused, or undone by a kill or a rollback). In
the order in which they were tried they go through the same pure functions as in the run (spikes.py). With the run's own
settings the answer is the run's own decisions, which is how this is tested.

What it cannot know: what a step that was never taken would have looked like. Where the new thresholds refuse a step
that the run accepted, the steps after it are judged as they were seen; where they accept one that was refused, the
observed numbers count as accepted. A rollback goes to the step that its rule asks for, whether or not a checkpoint was
there. So a replay says how often thresholds would have spoken, not what the loss would have been.

Beside it stands the rule of thumb in circulation, a warning when the loss exceeds mean + 2 sigma of the recent ones: on
normal noise alone it is wrong 2.3 times in 100 steps, 228 times in 10,000. It warns, and never decides anything.
The cost is that of the run's own judging, about 0.1 ms a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from ptool.errors import InputError
from ptool.training import spikes
from ptool.training.config import Spike
from ptool.training.course import Course
from ptool.training.history import ATTEMPTS, METRICS, Record, read_lines
from ptool.training.spikes import Action, Decision, Observation, Window

KEPT_EVERY = 1000  # accepted steps; a window takes 2 KB, and 10 us a step to make again


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One batch as the run tried it: once, or twice where it was rerun."""

    attempt: int
    seen: list[Observation]
    refused: bool


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A decision of the replay; `refused` is what the run itself had done with the batch."""

    decision: Decision
    refused: bool


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What other thresholds would have decided in a run of `num_batches` tried batches."""

    num_batches: int
    num_refused: int
    outcomes: list[Outcome]
    num_clipped: int
    two_sigma: int
    """Warnings of mean + 2 sigma; `two_sigma_false` of them about batches that the run accepted."""
    two_sigma_false: int

    def count(self, action: Action) -> int:
        """How many decisions of a kind there would have been."""
        return sum(1 for outcome in self.outcomes if outcome.decision.action == action)

    def rows(self) -> list[tuple[str, str]]:
        """The counts for people."""
        return [
            ("batches tried", f"{self.num_batches:,}"),
            ("refused by the run", f"{self.num_refused:,}"),
            ("refused by these thresholds", f"{len(self.outcomes):,}"),
            ("  skipped", f"{self.count(Action.SKIP):,}"),
            ("  rolled back", f"{self.count(Action.ROLLBACK):,}"),
            ("  halted", f"{self.count(Action.HALT):,}"),
            ("clipped harder", f"{self.num_clipped:,}"),
            ("mean + 2 sigma would have warned", f"{self.two_sigma:,}"),
            ("  false: the run accepted the batch", f"{self.two_sigma_false:,}"),
        ]


def replay(run: Path, config: Spike, *, course: Course) -> Replay:
    """Judge every batch that `run` tried by `config`. Raises InputError for a folder without steps."""
    tried = tried_batches(run)
    if not tried:
        raise InputError("there are no steps to replay", where=str(run), hint="is this a run folder of ptool train?")
    accepted: list[Observation] = []
    outcomes: list[Outcome] = []
    decisions: list[Decision] = []
    judged: set[tuple[int, int]] = set()
    kept: dict[int, Window] = {}  # by how many steps it had seen: an attempt does not begin with all of them again
    window, attempt = Window(), tried[0].attempt
    warmup_steps = course.warmup_steps
    num_clipped = two_sigma = two_sigma_false = 0
    for batch in tried:
        first = batch.seen[0]
        if batch.attempt != attempt:
            attempt = batch.attempt
            accepted = [now for now in accepted if now.step < first.step]
            near = len(accepted) // KEPT_EVERY * KEPT_EVERY
            window = kept.get(near, Window())
            for now in accepted[near:]:
                window = spikes.accept(config, Window() if course.begins_anew(now.step) else window, now)
        if course.begins_anew(first.step):
            window = Window()
        if len(window.losses) >= config.min_history and spikes.exceeds_two_sigma(window, first):
            two_sigma += 1
            two_sigma_false += not batch.refused
        now = first
        verdict = spikes.judge(config, window, decisions, now, warmup_steps=warmup_steps)
        if verdict.action == Action.RERUN:
            now = batch.seen[-1]
            verdict = spikes.judge(config, window, decisions, now, first=first, warmup_steps=warmup_steps)
        if verdict.action == Action.ACCEPT:
            accepted.append(now)
            num_clipped += verdict.clip < 1.0
            window = spikes.accept(config, window, now)
            if len(accepted) % KEPT_EVERY == 0:
                kept[len(accepted)] = window
        elif now.samples not in judged:  # after a kill the run does not try again what it left out
            judged.add(now.samples)
            decision = _decision(config, window, decisions, now, verdict, course)
            decisions.append(decision)
            outcomes.append(Outcome(decision=decision, refused=batch.refused))
    return Replay(
        num_batches=len(tried),
        num_refused=sum(batch.refused for batch in tried),
        outcomes=outcomes,
        num_clipped=num_clipped,
        two_sigma=two_sigma,
        two_sigma_false=two_sigma_false,
    )


def tried_batches(run: Path) -> list[Tried]:
    """Every batch of a run in the order in which it was tried; a rerun belongs to its batch."""
    records = [*read_lines(run / ATTEMPTS), *read_lines(run / METRICS)]
    # Within an attempt the data only goes forward, and a refusal comes before the rerun that was accepted.
    records.sort(key=lambda record: (record["attempt"], *record["samples"], "refused" not in record))
    found = []
    for (attempt, _, _), group in groupby(records, key=lambda r: (r["attempt"], tuple(r["samples"]), r["step"])):
        batch = list(group)
        found.append(
            Tried(
                attempt=attempt,
                seen=[_observation(record) for record in batch],
                refused=all("refused" in r for r in batch),
            )
        )
    return found


def _observation(record: Record) -> Observation:
    """A number that was not finite is null in the files."""
    loss, norm = (math.nan if record[name] is None else float(record[name]) for name in ("loss", "grad_norm"))
    first, last = record["samples"]
    return Observation(step=record["step"], samples=(first, last), loss=loss, grad_norm=norm)


def _decision(
    config: Spike,
    window: Window,
    decisions: Sequence[Decision],
    now: Observation,
    verdict: spikes.Verdict,
    course: Course,
) -> Decision:
    target, skip = None, now.samples
    if verdict.action == Action.ROLLBACK:
        onset, first = spikes.onset(config, window, decisions, now)
        target = max(0, spikes.latest_target(config, decisions, onset))
        began = course.mix_began(now.step, [decision.skip for decision in decisions])
        skip = spikes.guilty(config, decisions, onset, first, now, cursor=began)
    return Decision(
        action=verdict.action.value,
        step=now.step - 1,
        skip=skip,
        reason=verdict.reason,
        loss=now.loss if math.isfinite(now.loss) else None,
        grad_norm=now.grad_norm if math.isfinite(now.grad_norm) else None,
        target=target,
    )
