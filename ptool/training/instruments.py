"""Everything that watches a run from one rank, and changes nothing in it.

    every step              signs of life at every place, a point on the curves and dashboards, the deadline's clock
    every layers_every      gradient norms and activations of the layers
    every every_steps       the held-out loss by source
    a rerun                 the first number that is not finite
    a refused step          what the ranks know of it (evidence.py)

The loop calls it at fixed points; each method that needs all ranks says so. Taken away, the run has the same bits.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch

from ptool.formats.packed import PackedDataset, PackedRows
from ptool.reporting import Reporter
from ptool.training import spikes, tensorboard
from ptool.training.config import RunConfig, Spike
from ptool.training.deadlines import Deadline
from ptool.training.engine import Engine
from ptool.training.evidence import Finding
from ptool.training.heartbeat import Heartbeat
from ptool.training.history import Record, StepRecord
from ptool.training.layers import LayerStatistics
from ptool.training.nonfinite import Watcher
from ptool.training.ranks import Ranks
from ptool.training.series import LAYERS, VALIDATION, Series
from ptool.training.settings_text import as_tables
from ptool.training.signals import StopRequest
from ptool.training.spikes import Observation, Window
from ptool.training.stopwatch import ForwardTimes
from ptool.training.trackers import Trackers
from ptool.training.validation import Validation, ValidationRecord, held_out_tokens, record_of

RecordEvent = Callable[..., None]
"""`Ledger.record`: the event's name, then its fields."""


class Instruments:
    """One rank's. `close` it at the end, whatever the end is."""

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        datasets: list[PackedDataset],
        engine: Engine,
        ranks: Ranks,
        *,
        stop: StopRequest,
        reporter: Reporter,
        record_event: RecordEvent,
        tokens_per_forward: int,
    ) -> None:
        self._config = config
        self._engine = engine
        self._ranks = ranks
        self._stop = stop
        self._reporter = reporter
        self._record_event = record_event
        parallel = config.parallel
        self._heart = Heartbeat(
            run,
            rank=ranks.rank,
            ranks=ranks.size,
            every_seconds=parallel.heartbeat_seconds,
            hang_seconds=parallel.hang_seconds or parallel.timeout_seconds / 2,
            tell=self._tell,
        )
        self._heart.__enter__()
        self._forward = ForwardTimes(engine.module, engine.device) if parallel.zero < 3 else None
        self._reading = 0.0
        self._validation = Validation(
            datasets,
            tokens=held_out_tokens(config.validation.tokens, config.batch.tokens),
            tokens_per_forward=tokens_per_forward,
            rank=ranks.rank,
            ranks=ranks.size,
        )
        self._layers: LayerStatistics | None = None
        self._watcher: Watcher | None = None
        self._last_validation: ValidationRecord | None = None
        self.is_cut_short = False
        """Whether a stop ended the last measurement of the held-out loss: it is still to be taken."""
        first = ranks.is_first
        self._series = {name: Series(run, name) for name in (VALIDATION, LAYERS)} if first else {}
        self._curves = tensorboard.Curves(run) if first and config.metrics.tensorboard else None
        self._trackers = Trackers(run, config.metrics, as_tables(config), reporter.notice) if first else None
        if first:
            stop.deadline = Deadline()

    @property
    def diagnosis(self) -> str | None:
        """Which rank hangs, where one does; for the error of the collective that fails from it."""
        return self._heart.diagnosis

    @property
    def finding(self) -> Finding | None:
        """The first number that was not finite in the last rerun, on this rank."""
        return None if self._watcher is None else self._watcher.finding

    def at(self, step: int, place: str) -> None:
        """Note a place that every rank passes."""
        self._heart.at(step, place)

    @contextmanager
    def passes(self, step: int, *, rerun: bool) -> Iterator[None]:
        """Around the forward and backward passes of one attempt."""
        every = self._config.metrics.layers_every
        module = self._engine.module
        compiled = self._config.execution.compile
        self._layers = LayerStatistics(module, compiled=compiled) if every and step % every == 0 else None
        self._watcher = Watcher(module, rank=self._ranks.rank, host=socket.gethostname()) if rerun else None
        self._reading = 0.0
        if self._forward is not None:
            self._forward.take()  # what was measured of probes and held-out rows
        with ExitStack() as stack:
            if self._layers is not None:
                stack.enter_context(self._layers.watched())
            if self._watcher is not None:
                stack.enter_context(self._watcher.watched())
            yield

    @contextmanager
    def reading(self, step: int) -> Iterator[None]:
        """Around the reading of a micro-batch's rows."""
        self.at(step, "reading rows")
        started = time.perf_counter()
        yield
        self._reading += time.perf_counter() - started
        self.at(step, "forward and backward")

    def lost(self, loss: float, micro_batch: int) -> None:
        """Note a micro-batch's summed loss."""
        if self._watcher is not None:
            self._watcher.note_loss(loss, micro_batch)

    def take_gradients(self, scale: float) -> None:
        """Between backward and update; `scale` makes the gradients those of the mean loss. Collective."""
        if self._layers is not None:
            self._layers.take_gradients(self._ranks, scale / self._engine.loss_scale)

    def accepted(self, record: StepRecord, window: Window, seconds: float) -> None:
        """After an accepted step, which took `seconds`; `window` is the detector's before it. Collective."""
        if self._layers is not None:
            line = self._layers.record(self._ranks, step=record.step, tokens=record.tokens, attempt=record.attempt)
            self._layers = None
            self._publish(LAYERS, record.step, line, layer_values(line))
        self._heart.took(self._reading + (0.0 if self._forward is None else self._forward.take()))
        if not self._ranks.is_first:
            return
        self._took(step=seconds)
        values = tensorboard.values_of(record)
        if self._curves is not None:
            self._curves.add_values(record.step, values)
        if self._trackers is not None:
            self._trackers.add(record.step, {**values, "tokens": float(record.tokens)})
        warning = two_sigma_warning(self._config.spike, window, record)
        if warning is not None:
            self._reporter.notice(warning)
            self._record_event("two_sigma", step=record.step, loss=record.loss)

    def validate(self, step: int, *, tokens: int, attempt: int, is_last: bool) -> bool:
        """Measure the held-out loss where it is due and not yet there; whether it took time. Collective."""
        every = self._config.validation.every_steps
        if not every or not self._validation.num_rows or not step or (step % every and not is_last):
            return False
        if self._ranks.on_first(lambda: self._series[VALIDATION].has(step), bool):
            return False
        started = time.monotonic()
        found = self._validation.measure(
            self.token_losses,
            self._ranks,
            is_stopping=lambda: self._stop.reason is not None,
            beat=lambda: self.at(step, "validating"),
        )
        self.is_cut_short = found is None
        if found is None:
            return True
        record = record_of(found, step=step, tokens=tokens, attempt=attempt, started=started)
        self._last_validation = record
        values = {"validation/loss": record.loss}
        values |= {f"validation/{name}": measure.loss for name, measure in record.sources.items()}
        self._publish(VALIDATION, step, msgspec.to_builtins(record), values)
        return True

    def validation_loss(self, step: int) -> float | None:
        """What was measured at this very step."""
        last = self._last_validation
        if last is None or last.step != step:
            return None
        return last.loss_of(self._config.checkpoint.best_source)

    def token_losses(self, rows: PackedRows) -> Any:
        """The loss of each target; collective."""
        names = ("tokens", "positions", "segments", "targets")
        batch = {name: torch.as_tensor(getattr(rows, name)).to(self._engine.device) for name in names}
        return self._engine.token_losses(batch).cpu().numpy()

    def saves_take(self, seconds: float) -> None:
        """Note how long a save takes until it is published, for the deadline: the last one is waited for."""
        self._took(save=seconds)

    def forget_after(self, step: int) -> None:
        """Move what was measured after `step` to the undone lines."""
        for series in self._series.values():
            series.rewind(step)

    def close(self, *, finished: bool) -> None:
        """Stop the threads and close the files."""
        self._heart.__exit__()
        for series in self._series.values():
            series.close()
        if self._curves is not None:
            self._curves.close()
        if self._trackers is not None:
            self._trackers.close(finished=finished)

    def _publish(self, name: str, step: int, line: Record, values: Mapping[str, float]) -> None:
        if not self._ranks.is_first:
            return
        self._series[name].append(line)
        if self._curves is not None:
            self._curves.add_values(step, values)
        if self._trackers is not None:
            self._trackers.add(step, values)

    def _took(self, *, step: float = 0.0, save: float = 0.0) -> None:
        if self._stop.deadline is not None:
            self._stop.deadline.took(step=step, save=save)

    def _tell(self, event: str, sentence: str) -> None:
        """From the heartbeat's thread; where rank 0 is the one that hangs, another speaks, on stderr."""
        if self._ranks.is_first:
            self._record_event(event, what=sentence)
            self._reporter.notice(sentence)
        else:
            sys.stderr.write(f"ptool: {sentence}\n")
            sys.stderr.flush()


def layer_values(line: Record) -> dict[str, float]:
    """The curves of a line of layers.jsonl: `gradient_norm/layers.3` and so on."""
    kinds = ("gradient_norm", "activation_rms", "activation_max")
    return {
        f"{kind}/{layer}": value for kind in kinds for layer, value in line.get(kind, {}).items() if value is not None
    }


def two_sigma_warning(config: Spike, window: Window, record: StepRecord) -> str | None:
    """What to say of an accepted step by the rule of thumb that only warns; None for nothing, and where it is off."""
    if not config.warn_two_sigma or len(window.losses) < config.min_history:
        return None
    now = Observation(step=record.step, samples=record.samples, loss=record.loss, grad_norm=record.grad_norm)
    if not spikes.exceeds_two_sigma(window, now):
        return None
    return f"step {record.step:,}: loss {record.loss:.4f} is above mean + 2 sigma of the last steps; only a warning"
