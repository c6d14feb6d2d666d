"""A run's past on the disk, and which part of it is the present one.

A rollback leaves checkpoints and metrics behind that belong to a history which was undone. The ledger decides: a
checkpoint stands unless a rollback that was decided after it was written went back past it. So a kill at any point of a
rollback is harmless: whoever comes next reads the same decisions, finds the same checkpoint, and clears the rest away.

Rank 0 decides and writes; what it decided reaches the others as one record, which all compare (ranks.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from ptool.errors import DamagedInput, PtoolError
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
        checkpoint = self._newest_good(self._steps_to_start_from)
        self._ranks.on_first(lambda: self._start_at(checkpoint), int)
        return checkpoint

    def decide(
        self, now: Observation, verdict: Verdict, window: Window, states: RollbackStates | None = None
    ) -> Decision:
        """What becomes of a refused step; on the disk before it returns, unless it is a halt.

        `states`: what there is to go back to besides saves.
        """
        found = self._rollback_target(now, window, states) if verdict.action == Action.ROLLBACK else None
        decision = self._ranks.on_first(lambda: self._decision(now, verdict, window, found), Decision)
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

    def _steps_to_start_from(self) -> list[int]:
        checkpoints.clear_leftovers(self.run)
        return folders.steps_of(self.run)[::-1]

    def _start_at(self, checkpoint: Checkpoint | None) -> int:
        """Remove what is newer; raises DamagedInput where there should be something to start from."""
        if checkpoint is not None:
            checkpoints.remove(self.run, [step for step in folders.steps_of(self.run) if step > checkpoint.step])
        elif self._ledger is not None and self._ledger.has("save"):
            raise DamagedInput(
                "checkpoints were saved here, and none of them can be read",
                where=str(self.run / folders.FOLDER),
                hint="bring one back, or train anew into another folder",
            )
        return 0

    def _decision(self, now: Observation, verdict: Verdict, window: Window, found: tuple[int, int] | None) -> Decision:
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

    def _rollback_target(
        self, now: Observation, window: Window, states: RollbackStates | None
    ) -> tuple[int, int] | None:
        """(step, cursor) of the newest good state of the step schedule far enough back, else of the oldest there is."""
        at_most = self._ranks.on_first(lambda: self._latest_target(now, window), int)
        anchors = [] if states is None else states.verified(at_most)
        newest = max(anchors, default=-1)
        steps = self._ranks.on_first(lambda: folders.steps_of(self.run), list[int])
        saved = self._newest_good(lambda: [step for step in reversed(steps) if newest < step <= at_most], rollback=True)
        if saved is None and states is not None and anchors:
            return newest, states.cursor_of(newest)
        if saved is None:
            saved = self._newest_good(lambda: [step for step in steps if step > at_most], rollback=True)
        return None if saved is None else (saved.step, checkpoints.position_of(saved).cursor)

    def _newest_good(self, steps: Callable[[], list[int]], *, rollback: bool = False) -> Checkpoint | None:
        """The first of `steps` (asked on rank 0) that stands and verifies; for a `rollback`, one of the step schedule.

        No file is read of those that are not wanted anyway, and every rank reads its share of the others: a checkpoint
        can take one rank longer than the rest would wait.
        """
        for step in self._ranks.on_first(steps, list[int]):
            wanted = self._ranks.on_first(partial(self._is_wanted, step, rollback), bool)
            if wanted and self._verifies(step):
                return folders.open_checkpoint(self.run, step, verify=False)
        return None

    def _is_wanted(self, step: int, rollback: bool) -> bool:
        try:
            position = checkpoints.position_of(folders.open_checkpoint(self.run, step, verify=False))
        except (PtoolError, OSError) as error:
            self._reporter.notice(folders.left_aside(step, error))
            return False
        return stands(step, position.decisions, self.decisions) and (position.scheduled or not rollback)

    def _verifies(self, step: int) -> bool:
        problem = ""
        try:
            folders.verify_share(self.run, step, rank=self._ranks.rank, ranks=self._ranks.size)
        except (PtoolError, OSError) as error:
            problem = str(error)
        problems = [told for told in self._ranks.gather(problem) if told]
        if problems and self._ranks.is_first:
            self._reporter.notice(folders.left_aside(step, problems[0]))
        return not problems
