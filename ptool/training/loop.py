"""The step, and what is done with the verdict on it.

    rows of the next samples -> forward and backward, micro-batch by micro-batch
    one sum over the ranks: loss, targets, stop flag
    the optimiser's gate: rank 0 judges loss and gradient norm, all ranks follow
        accepted   the update happens; metrics line; checkpoint when it is due
        refused    nothing happened to weights and moments: rerun, skip, roll back or halt (spikes.py)

The loss is the sum over all targets of the global batch divided by their number, and so is its gradient: ranks and
micro-batches average the gradients of (sum / a constant), and the gate's factor corrects by the true count. So the
result does not depend on how rows with few targets fall on ranks, up to the order of floating-point sums.

All state that a step depends on is (weights, moments, `_State`, the ledger's decisions); the learning rate, the data
and the random numbers are functions of the step, the cursor and the seed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import torch

from ptool.errors import DamagedInput, PtoolError, StoppedAndSaved
from ptool.formats import checkpoints as folders
from ptool.formats.checkpoints import Checkpoint
from ptool.formats.packed import PackedDataset
from ptool.reporting import Reporter
from ptool.training import checkpoints, data, schedule, spikes
from ptool.training.checkpoints import Position
from ptool.training.config import RunConfig
from ptool.training.engine import Engine
from ptool.training.history import Ledger, Metrics, StepRecord, next_attempt, stands
from ptool.training.ranks import Ranks
from ptool.training.signals import StopRequest
from ptool.training.spikes import Action, Decision, Observation, Verdict, Window
from ptool.training.tensorboard import Curves

PROBE_TOLERANCE = {"fp32": 1e-6, "bf16": 1e-2}  # relative; the same kernels on the same weights give the same bits
_ACTIONS = list(Action)


class _State(msgspec.Struct, kw_only=True):
    """Where the run stands, apart from weights and moments."""

    step: int = 0
    cursor: int = 0
    loss: float | None = None
    window: Window = Window()


class Trainer:
    """One rank's part of a run, from the newest good checkpoint (or the beginning) to the last step."""

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        dataset: PackedDataset,
        engine: Engine,
        ranks: Ranks,
        *,
        stop: StopRequest,
        reporter: Reporter,
    ) -> None:
        self.run = run
        self.config = config
        self.engine = engine
        self.ranks = ranks
        self._split = dataset.train
        self._order = data.SampleOrder(dataset.train.num_rows, seed=config.run.seed, fingerprint=dataset.fingerprint)
        self._stop = stop
        self._reporter = reporter
        self._state = _State()
        self._attempt = 1
        self._saved_step: int | None = None
        first = ranks.is_first
        self._ledger = Ledger(run) if first else None
        self._metrics = Metrics(run) if first else None
        self._curves = Curves(run) if first and config.metrics.tensorboard else None
        self._decisions: list[Decision] = []

    def start(self) -> None:
        """Begin, or go on from the newest checkpoint that verifies and belongs to the run's present; collective.

        Raises DamagedInput where checkpoints were saved and none can be read: never silently from the beginning.
        """
        known = self._ledger.decisions if self._ledger else []
        self._decisions = self.ranks.object_from_first(known, list[Decision])
        attempt = self.ranks.on_first(lambda: next_attempt(self.run), int)
        found = self.ranks.on_first(self._find_start, int)
        step = None if found < 0 else found
        if step is not None:
            self._go_back_to(step)
            self._notice(f"going on from the checkpoint of step {step:,}")
        self._attempt = attempt
        self._record("start", attempt=attempt, step=self._state.step, ranks=self.ranks.size, **_where())
        if self._metrics:
            self._metrics.rewind(self._state.step)
        if step is None:
            self._save()

    def train(self) -> None:
        """Take the steps that are left. Raises StoppedAndSaved after a signal, PtoolError when the run must end."""
        first_attempt: Observation | None = None
        while self._state.step < self.config.run.max_steps:
            now, verdict, wants_stop = self._attempt_step(first_attempt)
            first_attempt = None
            if verdict.action == Action.ACCEPT:
                if wants_stop:
                    self._save_if_new()
                    self._record("stop", step=self._state.step)
                    message = f"stopped and saved at step {self._state.step:,}"
                    raise StoppedAndSaved(message, hint=f"ptool resume {self.run}")
            elif verdict.action == Action.RERUN:
                first_attempt = now
            else:
                self._carry_out(now, verdict)
        self._save_if_new()

    def close(self) -> None:
        """Close the files."""
        for file in (self._ledger, self._metrics, self._curves):
            if file is not None:
                file.close()

    def _attempt_step(self, first_attempt: Observation | None) -> tuple[Observation, Verdict, bool]:
        config, state, started = self.config, self._state, time.monotonic()
        step = state.step + 1
        samples, cursor = data.take(state.cursor, config.rows_per_step, [d.skip for d in self._decisions])
        torch.manual_seed(config.run.seed * 1_000_003 + step * 1_009 + self.ranks.rank)
        normaliser = float(config.batch.micro_rows * config.data.seq_len)
        loss_sum, num_targets = 0.0, 0
        micro_batches = data.share(samples, self.ranks.rank, self.ranks.size, config.accumulation)
        for number, mine in enumerate(micro_batches, start=1):
            batch = self._load(mine)
            loss, count = self.engine.accumulate(batch, normaliser, last=number == len(micro_batches))
            loss_sum, num_targets = loss_sum + loss, num_targets + count
        flag = float(self._stop.signal is not None)
        loss_sum, targets, flags = self.ranks.sum([loss_sum, float(num_targets), flag])
        mean_loss = loss_sum / targets if targets else 0.0
        scale = normaliser * len(micro_batches) * self.ranks.size / max(targets, 1.0)
        seen: list[tuple[Observation, Verdict]] = []

        def gate(raw_norm: float) -> float | None:
            norm = raw_norm * scale
            now = Observation(step=step, samples=(int(samples[0]), cursor), loss=mean_loss, grad_norm=norm)
            verdict = self._judge(now, first_attempt)
            seen.append((now, verdict))
            if verdict.action != Action.ACCEPT:
                return None
            limit = config.optimizer.clip * verdict.clip * self._factor(config.spike.clip_factor, step)
            return scale * min(1.0, limit / (norm + 1e-6))

        lr = schedule.learning_rate(config, step) * self._factor(config.spike.lr_factor, step)
        self.engine.update(gate, lr)
        now, verdict = seen[0]
        record = StepRecord(
            step=step,
            tokens=step * config.batch.tokens,
            loss=now.loss,
            lr=lr,
            grad_norm=now.grad_norm,
            tokens_per_second=round(config.batch.tokens / (time.monotonic() - started), 1),
            attempt=self._attempt,
            samples=now.samples,
        )
        if verdict.action == Action.ACCEPT:
            self._advance(record, now, cursor)
        elif self._metrics:
            self._metrics.refuse(record, verdict.reason)
        return now, verdict, flags > 0

    def _judge(self, now: Observation, first: Observation | None) -> Verdict:
        """Rank 0's verdict, for all; a refusal travels as a record that every rank checks."""
        config = self.config
        verdict = Verdict(action=Action.ACCEPT)
        if self.ranks.is_first:
            warmup = config.schedule.warmup_steps
            verdict = spikes.judge(
                config.spike, self._state.window, self._decisions, now, first=first, warmup_steps=warmup
            )
        action, clip = self.ranks.from_first([float(_ACTIONS.index(verdict.action)), verdict.clip])
        if _ACTIONS[int(action)] == Action.ACCEPT:
            return Verdict(action=Action.ACCEPT, clip=clip)
        return self.ranks.object_from_first(verdict, Verdict)

    def _advance(self, record: StepRecord, now: Observation, cursor: int) -> None:
        config, state = self.config, self._state
        state.window = spikes.accept(config.spike, state.window, now)
        state.step, state.cursor, state.loss = record.step, cursor, now.loss
        if self._metrics:
            self._metrics.append(record)
        if self._curves:
            self._curves.add(record)
        self._report(record)
        if state.step % config.checkpoint.every_steps == 0 or state.step == config.run.max_steps:
            self._save()

    def _carry_out(self, now: Observation, verdict: Verdict) -> None:
        """Skip, roll back or halt: the decision is on the disk and agreed before anything is done."""
        decision = self.ranks.on_first(lambda: self._decide(now, verdict), Decision)
        if self._ledger is None:
            self._decisions.append(decision)
        if decision.action == Action.SKIP:
            self._notice(f"step {now.step:,} refused twice, its batch is left out: {decision.reason}")
        elif decision.action == Action.ROLLBACK and decision.target is not None:
            first, last = decision.skip
            self._notice(
                f"step {now.step:,}: {decision.reason}; going back to step {decision.target:,} "
                f"and leaving out samples {first:,} to {last - 1:,}"
            )
            self._forget_after(decision.target)
            self._go_back_to(decision.target)
            self._attempt += 1
            if self._metrics:
                self._metrics.rewind(decision.target)
        else:
            self._save_if_new()
            self._record("halt", step=self._state.step, reason=verdict.reason)
            raise PtoolError(
                f"halted at step {self._state.step:,}: {decision.reason}",
                where=str(self.run),
                hint="see events.jsonl and attempts.jsonl there; the state before the step is saved",
            )

    def _decide(self, now: Observation, verdict: Verdict) -> Decision:
        """The decision record on rank 0, appended to the ledger (a halt is not: nothing depends on it later)."""
        config, window, reason = self.config.spike, self._state.window, verdict.reason
        refused = Decision(
            action=verdict.action.value,
            step=self._state.step,
            skip=now.samples,
            reason=reason,
            loss=_finite(now.loss),
            grad_norm=_finite(now.grad_norm),
        )
        if verdict.action == Action.SKIP:
            return self._enter(refused)
        if verdict.action == Action.ROLLBACK:
            onset_step, first = spikes.onset(config, window, self._decisions, now)
            target = self._rollback_target(spikes.latest_target(config, self._decisions, onset_step))
            if target is not None:
                cursor = checkpoints.position_of(target).cursor
                skip = spikes.guilty(config, self._decisions, onset_step, first, now, cursor)
                return self._enter(msgspec.structs.replace(refused, skip=skip, target=target.step))
            reason += "; no checkpoint is left to go back to"
        return msgspec.structs.replace(refused, action=Action.HALT.value, reason=reason)

    def _enter(self, decision: Decision) -> Decision:
        if self._ledger is not None:
            self._ledger.decide(decision)
            self._decisions = self._ledger.decisions
        return decision

    def _rollback_target(self, at_most: int) -> Checkpoint | None:
        """The newest verified checkpoint of at most this step, else the oldest there is."""
        present = [c for c in folders.verified(self.run, reporter=self._reporter) if self._stands(c)]
        early = [c for c in present if c.step <= at_most] or present[-1:]
        return early[0] if early else None

    def _forget_after(self, step: int) -> None:
        """Remove the checkpoints that the rollback left behind: they belong to a history that was undone."""
        if self.ranks.is_first:
            checkpoints.remove(self.run, [other for other in folders.steps_of(self.run) if other > step])
        self.ranks.barrier()

    def _find_start(self) -> int:
        """The step of the checkpoint to go on from; -1 where none was ever saved."""
        checkpoints.clear_leftovers(self.run)
        for checkpoint in folders.verified(self.run, reporter=self._reporter):
            if self._stands(checkpoint):
                self._forget_stale(checkpoint.step)
                return checkpoint.step
        if any(event.get("event") == "save" for event in self._events()):
            raise DamagedInput(
                "checkpoints were saved here, and none of them can be read",
                where=str(self.run / folders.FOLDER),
                hint="bring one back, or train anew into another folder",
            )
        return -1

    def _forget_stale(self, step: int) -> None:
        """Remove newer checkpoints: broken ones, and ones from before a rollback that was decided and not finished."""
        checkpoints.remove(self.run, [other for other in folders.steps_of(self.run) if other > step])

    def _stands(self, checkpoint: Checkpoint) -> bool:
        return stands(checkpoint.step, checkpoints.position_of(checkpoint).decisions, self._decisions)

    def _events(self) -> list[dict[str, object]]:
        from ptool.training.history import EVENTS, read_lines

        return list(read_lines(self.run / EVENTS))

    def _go_back_to(self, step: int) -> None:
        """Load the checkpoint of `step` into the running engine, and check that its probe loss comes out again."""
        checkpoint = folders.open_checkpoint(self.run, step)
        position = checkpoints.load(checkpoint, self.engine, self.ranks)
        self._state = _State(step=step, cursor=position.cursor, loss=position.loss, window=position.window)
        self._saved_step = step
        probe = self._probe()
        tolerance = PROBE_TOLERANCE[self.config.parallel.precision] * abs(position.probe_loss)
        if not abs(probe - position.probe_loss) <= tolerance:
            message = f"a fixed batch had loss {position.probe_loss:.8g} when it was saved and has {probe:.8g} now"
            raise DamagedInput(message, where=str(checkpoint.path), hint="the state did not come back whole")

    def _save_if_new(self) -> None:
        if self._saved_step != self._state.step:
            self._save()

    def _save(self) -> None:
        config, state = self.config, self._state
        position = Position(
            step=state.step,
            tokens=state.step * config.batch.tokens,
            cursor=state.cursor,
            decisions=len(self._decisions),
            attempt=self._attempt,
            loss=state.loss,
            probe_loss=self._probe(),
            window=state.window,
            world_size=self.ranks.size,
            zero=config.parallel.zero,
            versions=_versions(),
        )
        started = time.monotonic()
        if self._metrics:
            self._metrics.sync()
        self._record("saving", step=state.step)
        checkpoints.save(self.run, position, config, self.engine, self.ranks)
        self._record("save", step=state.step, seconds=round(time.monotonic() - started, 3))
        self._saved_step = state.step
        if self.ranks.is_first:
            is_last = state.step == config.run.max_steps
            back_off = None if is_last else config.spike.back_off
            checkpoints.rotate(self.run, keep_last=config.checkpoint.keep_last, back_off=back_off)

    def _probe(self) -> float:
        """Mean loss on the split's first row: the same on every rank, whatever was trained on."""
        rows = self._split.rows([0])
        loss, targets = self.engine.evaluate(self._tensors(rows.tokens, rows.positions, rows.segments, rows.targets))
        return float(loss) / max(1, targets)

    def _load(self, samples: data.Samples) -> dict[str, torch.Tensor]:
        rows = self._split.rows(self._order.rows(samples))
        faults, batch = self.config.faults, self.config.rows_per_step
        targets = rows.targets
        if faults.bad_batch_at:
            first = (faults.bad_batch_at - 1) * batch
            bad = (first, first + faults.bad_batches * batch)
            targets = data.spoil(targets, samples, bad, self.config.model_config.vocab_size)
        return self._tensors(rows.tokens, rows.positions, rows.segments, targets)

    def _tensors(self, *arrays: object) -> dict[str, torch.Tensor]:
        names = ("tokens", "positions", "segments", "targets")
        device = self.engine.device
        return {name: torch.as_tensor(array).to(device) for name, array in zip(names, arrays, strict=True)}

    def _factor(self, factor: float, step: int) -> float:
        """What rollbacks make of the learning rate or the clipping at `step`."""
        targets = spikes.rollback_targets(self._decisions)
        return schedule.after_rollbacks(factor, self.config.spike.ramp_steps, targets, step)

    def _report(self, record: StepRecord) -> None:
        if self.ranks.is_first:
            detail = f"loss {record.loss:.4f}, lr {record.lr:.2e}, {record.tokens_per_second:,.0f} tokens/s"
            self._reporter.progress(record.step, self.config.run.max_steps, unit="steps", detail=detail)

    def _record(self, event: str, **fields: object) -> None:
        if self._ledger is not None:
            self._ledger.record(event, **fields)

    def _notice(self, text: str) -> None:
        if self.ranks.is_first:
            self._reporter.notice(text)


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _where() -> dict[str, object]:
    import os
    import socket

    return {"host": socket.gethostname(), "pid": os.getpid()}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from ptool import __version__

    python = ".".join(map(str, sys.version_info[:3]))
    return {"ptool": __version__, "python": python, "torch": str(torch.__version__), "deepspeed": version("deepspeed")}
