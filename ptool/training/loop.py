"""The loop over steps, and what is done with the verdict on each.

accepted   the update happened (attempt.py); metrics line; checkpoint when it is due
refused    nothing happened to weights and moments: rerun, skip, roll back or halt (spikes.py)
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import torch

from ptool.errors import DamagedInput, PtoolError, StoppedAndSaved
from ptool.formats import checkpoints as folders
from ptool.reporting import GOING_ON, Reporter
from ptool.training import evidence, spike_report, spikes, utilisation
from ptool.training.attempt import Asks, Attempt, State, Stepper
from ptool.training.checkpoints import Position
from ptool.training.config import RunConfig
from ptool.training.corpus import Corpus
from ptool.training.engine import Engine
from ptool.training.history import StepRecord
from ptool.training.instruments import Instruments
from ptool.training.ranks import Ranks
from ptool.training.saving import Saver
from ptool.training.signals import StopRequest
from ptool.training.sources import source_names
from ptool.training.spikes import Action, Observation, Window
from ptool.training.timeline import Timeline

PROBE_TOLERANCE = {"fp32": 1e-6, "bf16": 1e-2, "fp16": 1e-2}
"""Relative; the same kernels on the same weights give the same bits, other ranks and stages may have other kernels."""


class Trainer:
    """One rank's part of a run, from the newest good checkpoint (or the beginning) to the last step."""

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        corpus: Corpus,
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
        self._corpus = corpus
        self._course = corpus.course
        self._stop = stop
        self._reporter = reporter
        self._state = State()
        self._first_loss: float | None = None
        self.timeline = Timeline(run, config, ranks, reporter)
        self.instruments = Instruments(
            run,
            config,
            corpus.datasets,
            engine,
            ranks,
            stop=stop,
            reporter=reporter,
            record_event=self.timeline.record,
            tokens_per_forward=config.phase[0].micro_rows * config.phase[0].seq_len,
        )
        self._stepper = Stepper(config, corpus, engine, ranks, self.instruments)
        self._saver = Saver(
            run, config, engine, ranks, self.timeline, last_step=self._course.num_steps, notice=self._notice
        )

    def start(self) -> None:
        """Begin, or go on from the newest checkpoint that verifies and belongs to the run's present; collective.

        Raises DamagedInput where checkpoints were saved and none can be read: never silently from the beginning.
        """
        timeline = self.timeline
        checkpoint = timeline.find_start()
        if checkpoint is not None:
            position = self._go_back_to(checkpoint.step)
            self._notice(f"going on from the checkpoint of step {checkpoint.step:,}")
            changed = [f"{name} {old}" for name, old in position.versions.items() if _versions().get(name) != old]
            if changed:
                self._notice(f"it was written by {', '.join(changed)}: the steps to come may differ in their last bits")
        elif timeline.attempt > 1:
            self._notice("no checkpoint was saved yet: beginning again")
        timeline.record("start", attempt=timeline.attempt, step=self._state.step, ranks=self.ranks.size, **_where())
        timeline.forget_after(self._state.step)
        self.instruments.forget_after(self._state.step)
        if self.ranks.is_first:
            self._reporter.progress(self._state.step, self._course.num_steps, unit="steps", detail=GOING_ON)
        if checkpoint is None:
            self._saver.save_now(0, self._position)
        self._validate()  # what a stop cut short

    def train(self) -> None:
        """Take the steps that are left. Raises StoppedAndSaved after a signal, PtoolError when the run must end."""
        first_attempt: Observation | None = None
        while self._state.step < self._course.num_steps:
            tried = self._try_step(first_attempt)
            first_attempt = None
            if tried.verdict.action == Action.ACCEPT:
                wants_stop = self._advance(tried)
                if wants_stop and self._state.step < self._course.num_steps:
                    self._stop_here()
            elif tried.verdict.action == Action.RERUN:
                first_attempt, self._first_loss = tried.now, tried.own_loss
            else:
                self._carry_out(tried)
        if self.instruments.is_cut_short:  # no step is left, but the measurement after the last one
            self._stop_here()
        self._saver.save_now(self._state.step, self._position)

    def _try_step(self, first_attempt: Observation | None) -> Attempt:
        state, timeline = self._state, self.timeline
        if self._course.begins_anew(state.step + 1):
            state.window = Window()
        self.instruments.saves_take(timeline.slowest_save)
        asks = Asks(stop=self._stop.reason is not None, save=self._saver.is_late())
        tried = self._stepper.attempt(state, timeline.decisions, first_attempt, attempt=timeline.attempt, asks=asks)
        if tried.verdict.action != Action.ACCEPT:
            timeline.refused(tried.record, tried.verdict.reason)
        return tried

    def _stop_here(self) -> None:
        self._saver.save_now(self._state.step, self._position)
        reasons = [reason for reason in self.ranks.gather(self._stop.reason) if reason]
        self.timeline.record("stop", step=self._state.step, reason="; ".join(dict.fromkeys(reasons)))
        self.close(finished=False)  # rank 0's dashboards take their time, up to half a minute
        self.ranks.barrier()  # the first rank to end takes the others with it
        message = f"stopped and saved at step {self._state.step:,}: {reasons[0]}"
        raise StoppedAndSaved(message, hint=f"ptool resume {self.run}")

    def _advance(self, tried: Attempt) -> bool:
        """Go on to the next step; whether the run shall stop before it."""
        config, state, record = self.config, self._state, tried.record
        window, state.window = state.window, spikes.accept(config.spike, state.window, tried.now)
        state.step, state.cursor, state.loss = record.step, tried.cursor, tried.now.loss
        self.timeline.accepted(record)
        self.instruments.accepted(record, window, tried.seconds)
        self._report(record)
        took_long = self._validate()
        self.instruments.at(state.step, "saving")
        self._saver.after_step(state.step, self._position, by_clock=tried.wants_save)
        if not (took_long or tried.wants_save or self._saver.is_scheduled(state.step)):
            return tried.wants_stop
        return self.ranks.sum([float(tried.wants_stop or self._stop.reason is not None)])[0] > 0

    def _validate(self) -> bool:
        step, course = self._state.step, self._course
        tokens, is_last = course.tokens(step), step == course.num_steps
        return self.instruments.validate(step, tokens=tokens, attempt=self.timeline.attempt, is_last=is_last)

    def _carry_out(self, tried: Attempt) -> None:
        """Skip, roll back or halt: the decision is on the disk and agreed before anything is done."""
        now, verdict = tried.now, tried.verdict
        if verdict.action == Action.ROLLBACK:
            self._saver.finish()  # what is being written may be what to go back to
        decision = self.timeline.decide(now, verdict, self._state.window, self._saver.anchors)
        guilty = self._explain(decision, tried)
        if decision.action == Action.SKIP:
            self._notice(f"step {now.step:,} refused twice, its batch is left out: {decision.reason}")
        elif decision.action == Action.ROLLBACK and decision.target is not None:
            first, last = decision.skip
            self._notice(
                f"step {now.step:,}: {decision.reason}; going back to step {decision.target:,} "
                f"and leaving out samples {first:,} to {last - 1:,}"
            )
            self.timeline.forget_after(decision.target)
            self.instruments.forget_after(decision.target)
            self._go_back_to(decision.target)
            self.timeline.attempt += 1
        else:
            self._saver.save_now(self._state.step, self._position)
            self.timeline.record("halt", step=self._state.step, reason=verdict.reason, ranks=guilty)
            raise PtoolError(
                f"halted at step {self._state.step:,}: {decision.reason}{f': {guilty}' if guilty else ''}",
                where=str(self.run),
                hint="see events.jsonl and attempts.jsonl there; the state before the step is saved",
            )

    def _explain(self, decision: spikes.Decision, tried: Attempt) -> str:
        """Write the spike report; whatever goes wrong with it, the run goes on. Returns the ranks to blame, if any."""
        earlier = [other for other in self.timeline.decisions if other is not decision]
        names = source_names(self._corpus.datasets)
        found = evidence.collect(
            self.ranks,
            finding=self.instruments.finding,
            first=self._first_loss,
            again=tried.own_loss,
            rows=self._stepper.rows_of(self._state, earlier, names),
            names=names,
            token_losses=self.instruments.token_losses,
        )
        if self.ranks.is_first:
            asked = self.run, self._corpus, decision, tried.now, self._state.window, earlier, found
            try:
                report = spike_report.make_report(*asked)
                path = spike_report.write_report(self.run, report)
                self._notice(f"{path}: {'; '.join(report.findings())}")
            except Exception as error:  # noqa: BLE001 (an explanation must not end what it explains)
                self._notice(f"no report on the refused step: {error}")
        return found.guilty_ranks()

    def _go_back_to(self, step: int) -> Position:
        """Put the engine into the state of an anchor or a checkpoint; its probe loss must come out again."""
        position = self._saver.go_back_to(step, lambda step: folders.open_checkpoint(self.run, step, verify=False))
        self._state = State(step=position.step, cursor=position.cursor, loss=position.loss, window=position.window)
        probe = self._stepper.probe()
        tolerance = PROBE_TOLERANCE[self.config.parallel.precision] * abs(position.probe_loss)
        if not abs(probe - position.probe_loss) <= tolerance:
            message = f"a fixed batch had loss {position.probe_loss:.8g} when it was saved and has {probe:.8g} now"
            where = f"{self.run}, step {step}"
            raise DamagedInput(message, where=where, hint="the state did not come back whole")
        return position

    def _position(self, scheduled: bool) -> Position:
        state = self._state
        return Position(
            step=state.step,
            tokens=self._course.tokens(state.step),
            cursor=state.cursor,
            decisions=len(self.timeline.decisions),
            attempt=self.timeline.attempt,
            loss=state.loss,
            probe_loss=self._stepper.probe(),
            window=state.window,
            world_size=self.ranks.size,
            zero=self.config.parallel.zero,
            versions=_versions(),
            epoch=self._stepper.epoch(state.cursor, self.timeline.decisions),
            phase=self._course.index(state.step),
            scheduled=scheduled,
            validation_loss=self.instruments.validation_loss(state.step),
        )

    def _report(self, record: StepRecord) -> None:
        if self.ranks.is_first:
            detail = (
                f"loss {record.loss:.4f}, lr {record.lr:.2e}, gradient norm {record.grad_norm:.3g}, "
                f"{record.tokens_per_second:,.0f} tokens/s"
            )
            if record.mfu is not None:
                detail += f", MFU {record.mfu:.1%} ({utilisation.CONVENTION})"
            if self._saver.last_saved:
                detail += f", saved at {self._saver.last_saved:,}"
            self._reporter.progress(record.step, self._course.num_steps, unit="steps", detail=detail)

    def close(self, *, finished: bool) -> None:
        """Close the files and end the threads; a second time nothing is left to do."""
        self.instruments.close(finished=finished)
        self.timeline.close()

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
