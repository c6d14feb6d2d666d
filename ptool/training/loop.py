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

import os
import socket
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
from ptool.training import checkpoints, data, schedule, spike_report, spikes, utilisation
from ptool.training.checkpoints import Position
from ptool.training.config import RunConfig
from ptool.training.engine import Engine
from ptool.training.history import StepRecord
from ptool.training.ranks import Ranks
from ptool.training.signals import StopRequest
from ptool.training.spikes import Action, Observation, Verdict, Window
from ptool.training.timeline import Timeline

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
        self._dataset = dataset
        self._split = dataset.train
        self._order = data.SampleOrder(dataset.train.num_rows, seed=config.run.seed, fingerprint=dataset.fingerprint)
        self._stop = stop
        self._reporter = reporter
        self._state = _State()
        self._saved_step: int | None = None
        self._flops_per_token = utilisation.flops_per_token(config.model_config, config.data.seq_len)
        self.timeline = Timeline(run, config, ranks, reporter)

    def start(self) -> None:
        """Begin, or go on from the newest checkpoint that verifies and belongs to the run's present; collective.

        Raises DamagedInput where checkpoints were saved and none can be read: never silently from the beginning.
        """
        timeline = self.timeline
        checkpoint = timeline.find_start()
        if checkpoint is not None:
            position = self._go_back_to(checkpoint)
            self._notice(f"going on from the checkpoint of step {checkpoint.step:,}")
            changed = [f"{name} {old}" for name, old in position.versions.items() if _versions().get(name) != old]
            if changed:
                self._notice(f"it was written by {', '.join(changed)}: the steps to come may differ in their last bits")
        elif timeline.attempt > 1:
            self._notice("no checkpoint was saved yet: beginning again")
        timeline.record("start", attempt=timeline.attempt, step=self._state.step, ranks=self.ranks.size, **_where())
        timeline.forget_after(self._state.step)
        if checkpoint is None:
            self._save()

    def train(self) -> None:
        """Take the steps that are left. Raises StoppedAndSaved after a signal, PtoolError when the run must end."""
        first_attempt: Observation | None = None
        while self._state.step < self.config.run.max_steps:
            now, verdict, wants_stop = self._attempt_step(first_attempt)
            first_attempt = None
            if verdict.action == Action.ACCEPT:
                if wants_stop and self._state.step < self.config.run.max_steps:
                    self._save_if_new()
                    self.timeline.record("stop", step=self._state.step)
                    self.ranks.barrier()  # the first rank to end takes the others with it
                    message = f"stopped and saved at step {self._state.step:,}"
                    raise StoppedAndSaved(message, hint=f"ptool resume {self.run}")
            elif verdict.action == Action.RERUN:
                first_attempt = now
            else:
                self._carry_out(now, verdict)
        self._save_if_new()

    def _attempt_step(self, first_attempt: Observation | None) -> tuple[Observation, Verdict, bool]:
        config, state, started = self.config, self._state, time.monotonic()
        step = state.step + 1
        samples, cursor = data.take(state.cursor, config.rows_per_step, [d.skip for d in self.timeline.decisions])
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
        tokens_per_second = config.batch.tokens / (time.monotonic() - started)
        tflops = tokens_per_second * self._flops_per_token / self.ranks.size / 1e12
        peak = config.metrics.peak_tflops
        record = StepRecord(
            step=step,
            tokens=step * config.batch.tokens,
            loss=now.loss,
            lr=lr,
            grad_norm=now.grad_norm,
            tokens_per_second=round(tokens_per_second, 1),
            attempt=self.timeline.attempt,
            samples=now.samples,
            model_tflops=float(f"{tflops:.5g}"),
            mfu=round(tflops / peak, 4) if peak else None,
        )
        if verdict.action == Action.ACCEPT:
            self._advance(record, now, cursor)
        else:
            self.timeline.refused(record, verdict.reason)
        return now, verdict, flags > 0

    def _judge(self, now: Observation, first: Observation | None) -> Verdict:
        """Rank 0's verdict, for all; a refusal travels as a record that every rank checks."""
        config = self.config
        verdict = Verdict(action=Action.ACCEPT)
        if self.ranks.is_first:
            warmup = config.schedule.warmup_steps
            verdict = spikes.judge(
                config.spike, self._state.window, self.timeline.decisions, now, first=first, warmup_steps=warmup
            )
        action, clip = self.ranks.from_first([float(_ACTIONS.index(verdict.action)), verdict.clip])
        if _ACTIONS[int(action)] == Action.ACCEPT:
            return Verdict(action=Action.ACCEPT, clip=clip)
        return self.ranks.object_from_first(verdict, Verdict)

    def _advance(self, record: StepRecord, now: Observation, cursor: int) -> None:
        config, state = self.config, self._state
        state.window = spikes.accept(config.spike, state.window, now)
        state.step, state.cursor, state.loss = record.step, cursor, now.loss
        self.timeline.accepted(record)
        self._report(record)
        if state.step % config.checkpoint.every_steps == 0 or state.step == config.run.max_steps:
            self._save()

    def _carry_out(self, now: Observation, verdict: Verdict) -> None:
        """Skip, roll back or halt: the decision is on the disk and agreed before anything is done."""
        decision = self.timeline.decide(now, verdict, self._state.window)
        self._explain(decision, now)
        if decision.action == Action.SKIP:
            self._notice(f"step {now.step:,} refused twice, its batch is left out: {decision.reason}")
        elif decision.action == Action.ROLLBACK and decision.target is not None:
            first, last = decision.skip
            self._notice(
                f"step {now.step:,}: {decision.reason}; going back to step {decision.target:,} "
                f"and leaving out samples {first:,} to {last - 1:,}"
            )
            self.timeline.forget_after(decision.target)
            self._go_back_to(folders.open_checkpoint(self.run, decision.target))
            self.timeline.attempt += 1
        else:
            self._save_if_new()
            self.timeline.record("halt", step=self._state.step, reason=verdict.reason)
            raise PtoolError(
                f"halted at step {self._state.step:,}: {decision.reason}",
                where=str(self.run),
                hint="see events.jsonl and attempts.jsonl there; the state before the step is saved",
            )

    def _explain(self, decision: spikes.Decision, now: Observation) -> None:
        """Write the spike report; whatever goes wrong with it, the run goes on."""
        if not self.ranks.is_first:
            return
        earlier = [other for other in self.timeline.decisions if other is not decision]
        try:
            report = spike_report.make_report(
                self.run, self.config, self._dataset, decision, now, self._state.window, earlier
            )
            path = spike_report.write_report(self.run, report)
        except Exception as error:  # noqa: BLE001 (an explanation must not end what it explains)
            self._notice(f"no report on the refused step: {error}")
            return
        self._notice(f"{path}: {'; '.join(report.findings())}")

    def _go_back_to(self, checkpoint: Checkpoint) -> Position:
        """Load a checkpoint into the running engine, and check that its probe loss comes out again."""
        position = checkpoints.load(checkpoint, self.engine, self.ranks)
        self._state = _State(step=position.step, cursor=position.cursor, loss=position.loss, window=position.window)
        self._saved_step = position.step
        probe = self._probe()
        tolerance = PROBE_TOLERANCE[self.config.parallel.precision] * abs(position.probe_loss)
        if not abs(probe - position.probe_loss) <= tolerance:
            message = f"a fixed batch had loss {position.probe_loss:.8g} when it was saved and has {probe:.8g} now"
            raise DamagedInput(message, where=str(checkpoint.path), hint="the state did not come back whole")
        return position

    def _save_if_new(self) -> None:
        if self._saved_step != self._state.step:
            self._save()

    def _save(self) -> None:
        config, state = self.config, self._state
        position = Position(
            step=state.step,
            tokens=state.step * config.batch.tokens,
            cursor=state.cursor,
            decisions=len(self.timeline.decisions),
            attempt=self.timeline.attempt,
            loss=state.loss,
            probe_loss=self._probe(),
            window=state.window,
            world_size=self.ranks.size,
            zero=config.parallel.zero,
            versions=_versions(),
        )
        started = time.monotonic()
        self.timeline.sync()
        self.timeline.record("saving", step=state.step)
        checkpoints.save(self.run, position, config, self.engine, self.ranks)
        self.timeline.record("save", step=state.step, seconds=round(time.monotonic() - started, 3))
        self._saved_step = state.step
        if self.ranks.is_first:
            is_last = state.step == config.run.max_steps
            back_off = None if is_last else config.spike.back_off
            checkpoints.rotate(self.run, keep_last=config.checkpoint.keep_last, back_off=back_off)

    def _probe(self) -> float:
        """Mean loss on the split's first row: the same on every rank, whatever was trained on."""
        rows = self._split.rows([0])
        loss, targets = self.engine.evaluate(self._tensors(rows.tokens, rows.positions, rows.segments, rows.targets))
        return float(loss) / max(1, int(targets))

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
        targets = spikes.rollback_targets(self.timeline.decisions)
        return schedule.after_rollbacks(factor, self.config.spike.ramp_steps, targets, step)

    def _report(self, record: StepRecord) -> None:
        if self.ranks.is_first:
            detail = (
                f"loss {record.loss:.4f}, lr {record.lr:.2e}, gradient norm {record.grad_norm:.3g}, "
                f"{record.tokens_per_second:,.0f} tokens/s"
            )
            if record.mfu is not None:
                detail += f", MFU {record.mfu:.1%} ({utilisation.CONVENTION})"
            if self._saved_step:
                detail += f", saved at {self._saved_step:,}"
            self._reporter.progress(record.step, self.config.run.max_steps, unit="steps", detail=detail)

    def _notice(self, text: str) -> None:
        if self.ranks.is_first:
            self._reporter.notice(text)


def _where() -> dict[str, object]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from ptool import __version__

    python = ".".join(map(str, sys.version_info[:3]))
    return {"ptool": __version__, "python": python, "torch": str(torch.__version__), "deepspeed": version("deepspeed")}
