"""A run's past on the disk, and which part of it is the present one.

A rollback leaves checkpoints and metrics behind that belong to a history which was undone. The ledger decides: a
checkpoint stands unless a rollback that was decided after it was written went back past it. So a kill at any point of a
rollback is harmless: whoever comes next reads the same decisions, finds the same checkpoint, and clears the rest away.

Rank 0 decides and writes; what it decided reaches the others as one record, which all compare (ranks.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from ptool.errors import DamagedInput
from ptool.formats import checkpoints as folders
from ptool.formats.checkpoints import Checkpoint
from ptool.reporting import Reporter
from ptool.training import checkpoints, spikes
from ptool.training.config import RunConfig
from ptool.training.course import Course
from ptool.training.history import Ledger, Metrics, StepRecord, next_attempt, stands
from ptool.training.ranks import Ranks
from ptool.training.spikes import Action, Decision, Observation, Verdict, Window


class RollbackStates(Protocol):
    """States to go back to that are no saves (anchors.py)."""

    def verified(self, at_most: int) -> list[int]:
        """Their steps, rising, as far as they are whole on all ranks; collective."""

    def cursor_of(self, step: int) -> int:
        """The next sample of one of them."""


class Timeline:
    """Ledger, metrics and checkpoints of a run; all methods but `record` and the reports of steps are collective."""

    def __init__(self, run: Path, config: RunConfig, ranks: Ranks, reporter: Reporter) -> None:
        self.run = run
        self._config = config
        self._ranks = ranks
        self._reporter = reporter
        self._ledger = Ledger(run) if ranks.is_first else None
        self._metrics = Metrics(run) if ranks.is_first else None
        known = self._ledger.decisions if self._ledger else []
        self.decisions: list[Decision] = ranks.object_from_first(known, list[Decision])
        self.attempt = ranks.on_first(lambda: next_attempt(run), int)

    def find_start(self) -> Checkpoint | None:
        """The newest checkpoint that verifies and stands, or None where none was ever saved; newer ones are removed.

        Raises DamagedInput where checkpoints were saved and none can be read: never silently from the beginning.
        """
        step = self._ranks.on_first(self._start_step, int)
        return None if step < 0 else folders.open_checkpoint(self.run, step, verify=False)  # rank 0 has done it

    def decide(
        self, now: Observation, verdict: Verdict, window: Window, states: RollbackStates | None = None
    ) -> Decision:
        """What becomes of a refused step; on the disk before it returns, unless it is a halt.

        `states`: what there is to go back to besides saves.
        """
        good: dict[int, int] = {}
        if verdict.action == Action.ROLLBACK and states is not None:
            at_most = self._ranks.on_first(lambda: self._latest_target(now, window), int)
            good = {step: states.cursor_of(step) for step in states.verified(at_most)}
        decision = self._ranks.on_first(lambda: self._decision(now, verdict, window, good), Decision)
        if decision.action != Action.HALT:
            if self._ledger is not None:
                self._ledger.decide(decision)
            self.decisions.append(decision)
            self._ranks.barrier()
        return decision

    def forget_after(self, step: int) -> None:
        """Make `step` the end of the history: later checkpoints go, later metrics become attempts."""
        if self._metrics is not None:
            checkpoints.remove(self.run, [other for other in folders.steps_of(self.run) if other > step])
            self._metrics.rewind(step)
        self._ranks.barrier()

    def accepted(self, record: StepRecord) -> None:
        """Add a step to the history."""
        if self._metrics is not None:
            self._metrics.append(record)

    def refused(self, record: StepRecord, reason: str) -> None:
        """Note an attempt that was not applied."""
        if self._metrics is not None:
            self._metrics.refuse(record, reason)

    def sync(self) -> None:
        """Bring the history to the disk: before a checkpoint is published, whose steps must not be lost."""
        if self._metrics is not None:
            self._metrics.sync()

    def record(self, event: str, **fields: object) -> None:
        """Append an event to the ledger."""
        if self._ledger is not None:
            self._ledger.record(event, **fields)

    @property
    def slowest_save(self) -> float:
        """Seconds that a save takes at most, by the last few in the ledger; 0.0 before any, and on the other ranks."""
        return 0.0 if self._ledger is None else self._ledger.slowest_save

    def close(self) -> None:
        """Close the files."""
        for file in (self._ledger, self._metrics):
            if file is not None:
                file.close()

    def _start_step(self) -> int:
        checkpoints.clear_leftovers(self.run)
        for checkpoint in folders.verified(self.run, reporter=self._reporter):
            if self._stands(checkpoint):
                newer = [step for step in folders.steps_of(self.run) if step > checkpoint.step]
                checkpoints.remove(self.run, newer)
                return checkpoint.step
        if self._ledger is not None and self._ledger.has("save"):
            raise DamagedInput(
                "checkpoints were saved here, and none of them can be read",
                where=str(self.run / folders.FOLDER),
                hint="bring one back, or train anew into another folder",
            )
        return -1

    def _decision(self, now: Observation, verdict: Verdict, window: Window, anchors: Mapping[int, int]) -> Decision:
        config = self._config.spike
        refused = Decision(
            action=verdict.action.value,
            step=now.step - 1,
            skip=now.samples,
            reason=verdict.reason,
            loss=now.loss if math.isfinite(now.loss) else None,
            grad_norm=now.grad_norm if math.isfinite(now.grad_norm) else None,
        )
        if verdict.action != Action.ROLLBACK:
            return refused
        onset_step, first = spikes.onset(config, window, self.decisions, now)
        found = self._rollback_target(self._latest_target(now, window), anchors)
        if found is None:
            reason = f"{verdict.reason}; no checkpoint is left to go back to"
            return msgspec.structs.replace(refused, action=Action.HALT.value, reason=reason)
        target, cursor = found
        began = Course(self._config.phase).mix_began(now.step, [decision.skip for decision in self.decisions])
        skip = spikes.guilty(config, self.decisions, onset_step, first, now, max(cursor, began))
        return msgspec.structs.replace(refused, skip=skip, target=target)

    def _latest_target(self, now: Observation, window: Window) -> int:
        onset_step, _ = spikes.onset(self._config.spike, window, self.decisions, now)
        return spikes.latest_target(self._config.spike, self.decisions, onset_step)

    def _rollback_target(self, at_most: int, anchors: Mapping[int, int]) -> tuple[int, int] | None:
        """(step, cursor) of the newest good state of the step schedule up to `at_most`, else of the oldest there is.

        `anchors` are such states already, by step.
        """
        newest = max(anchors, default=-1)
        oldest: tuple[int, int] | None = None
        for checkpoint in folders.verified(self.run, reporter=self._reporter, above=newest if anchors else None):
            position = checkpoints.position_of(checkpoint)
            if not position.scheduled or not self._stands(checkpoint):
                continue
            if checkpoint.step <= at_most:
                return checkpoint.step, position.cursor
            oldest = checkpoint.step, position.cursor
        return (newest, anchors[newest]) if anchors else oldest

    def _stands(self, checkpoint: Checkpoint) -> bool:
        return stands(checkpoint.step, checkpoints.position_of(checkpoint).decisions, self.decisions)
