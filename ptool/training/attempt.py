"""One attempt at an optimiser step: everything up to the update, which happens only if the verdict is to accept.

    rows of the next samples -> forward and backward, micro-batch by micro-batch
    one sum over the ranks: loss, targets, stop flag
    the optimiser's gate: rank 0 judges loss and gradient norm, all ranks follow

The loss is the sum over all targets of the global batch divided by their number, and so is its gradient: ranks and
micro-batches average the gradients of (sum / a constant), and the gate's factor corrects by the true count. So the
result does not depend on how rows with few targets fall on ranks, up to the order of floating-point sums.

What a step depends on is (weights, moments, `State`, the ledger's decisions); the learning rate, the data and the
random numbers are functions of the step, the cursor and the seed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from ptool.formats.mixture import Samples as Places
from ptool.formats.packed import NO_TARGET, PackedRows
from ptool.training import data, schedule, spikes, utilisation
from ptool.training.config import RunConfig
from ptool.training.corpus import Corpus
from ptool.training.engine import Engine
from ptool.training.faults import FaultyBatches
from ptool.training.history import StepRecord
from ptool.training.instruments import Instruments
from ptool.training.ranks import Ranks
from ptool.training.sources import Integers, target_sources
from ptool.training.spikes import Action, Decision, Observation, Verdict, Window

_ACTIONS = list(Action)


class State(msgspec.Struct, kw_only=True):
    """Where the run stands, apart from weights and moments."""

    step: int = 0
    cursor: int = 0
    loss: float | None = None
    window: Window = Window()


class Asks(NamedTuple):
    """What a rank was told from outside, and all hear with the step: to stop, to save."""

    stop: bool = False
    save: bool = False


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: `cursor` is the next sample if it is accepted, `wants_…` whether any rank asks for that.

    `own_loss` is the summed loss of this rank's rows, `seconds` how long it took.
    """

    record: StepRecord
    now: Observation
    verdict: Verdict
    cursor: int
    wants_stop: bool
    wants_save: bool
    own_loss: float
    seconds: float


class _Accumulated(NamedTuple):
    """The global mean loss, and what turns the engine's gradients into those of that mean."""

    loss: float
    scale: float
    asked: Asks
    own_loss: float


class Stepper:
    """Takes attempts; holds nothing that outlives one, so `State` and the decisions are all of a run's memory."""

    def __init__(
        self, config: RunConfig, corpus: Corpus, engine: Engine, ranks: Ranks, instruments: Instruments
    ) -> None:
        self._config = config
        self._corpus = corpus
        self._course = corpus.course
        self._engine = engine
        self._ranks = ranks
        self._instruments = instruments
        self._faults = FaultyBatches(
            config.faults, batch=config.phase[0].rows, rank=ranks.rank, vocab_size=config.model_config.vocab_size
        )

    def attempt(
        self,
        state: State,
        decisions: Sequence[Decision],
        first: Observation | None,
        *,
        attempt: int,
        asks: Asks,
    ) -> Attempt:
        """Try the step after `state`; collective. `first`: the observation whose rerun this is.

        The weights change only where the verdict is to accept; `state` does not change here.
        """
        config, started, step = self._config, time.monotonic(), state.step + 1
        phase = self._course.phase(step)
        skipped = [decision.skip for decision in decisions]
        samples, cursor = data.take(state.cursor, phase.rows, skipped)
        torch.manual_seed((config.run.seed * 1_000_003 + step * 1_009 + self._ranks.rank) % 2**63)  # any seed there is
        accumulation = phase.accumulation(self._ranks.size)
        self._engine.set_accumulation(accumulation)
        lr = self._course.learning_rate(step) * self._after_rollbacks(config.spike.lr_factor, decisions, step)
        lr *= self._faults.lr_factor(samples)
        micro_batches = data.share(samples, self._ranks.rank, self._ranks.size, accumulation)
        broken = self._faults.loss_factor(samples)
        seen: list[tuple[Observation, Verdict]] = []
        is_whole, asked = False, Asks()
        while not is_whole:  # fp16 only: gradients that overflowed are computed again at a lower scale
            with self._instruments.passes(step, rerun=first is not None):
                found = self._accumulate(step, micro_batches, skipped, broken, asks=asks)
            self._instruments.take_gradients(found.scale)
            self._instruments.at(step, "updating")
            asked = Asks(*(before or now for before, now in zip(asked, found.asked, strict=True)))

            def gate(raw_norm: float, found: _Accumulated = found) -> float | None:
                norm = raw_norm * found.scale
                now = Observation(step=step, samples=(int(samples[0]), cursor), loss=found.loss, grad_norm=norm)
                verdict = self._judge(state.window, decisions, now, first)
                seen.append((now, verdict))
                if verdict.action != Action.ACCEPT:
                    return None
                factor = self._after_rollbacks(config.spike.clip_factor, decisions, step)
                limit = config.optimizer.clip * verdict.clip * factor
                return found.scale * min(1.0, limit / (norm + 1e-6))

            is_whole = self._engine.update(gate, lr, loss_is_finite=math.isfinite(found.loss))
        now, verdict = seen[0]
        seconds = time.monotonic() - started
        return Attempt(
            record=self._record(now, lr, seconds, attempt),
            now=now,
            verdict=verdict,
            cursor=cursor,
            wants_stop=asked.stop,
            wants_save=asked.save,
            own_loss=found.own_loss,
            seconds=seconds,
        )

    def _accumulate(
        self,
        step: int,
        micro_batches: Sequence[data.Samples],
        skipped: Sequence[data.Range],
        broken: float,
        *,
        asks: Asks,
    ) -> _Accumulated:
        """Forward and backward over this rank's micro-batches, and the sums over all ranks; `broken` is 1 or NaN."""
        phase, instruments = self._course.phase(step), self._instruments
        normaliser = float(phase.micro_rows * phase.seq_len)
        own_loss, num_targets = 0.0, 0
        for number, mine in enumerate(micro_batches, start=1):
            with instruments.reading(step):
                batch = self.tensors(self._rows(mine, self._corpus.places(mine, skipped)))
            loss, count = self._engine.accumulate(batch, normaliser / broken, last=number == len(micro_batches))
            instruments.lost(loss * broken, number)
            own_loss, num_targets = own_loss + loss * broken, num_targets + count
        instruments.at(step, "adding up")
        loss_sum, targets, *flags = self._ranks.sum([own_loss, float(num_targets), *map(float, asks)])
        return _Accumulated(
            loss=loss_sum / targets if targets else 0.0,
            scale=normaliser * len(micro_batches) * self._ranks.size / max(targets, 1.0),
            asked=Asks(*(flag > 0 for flag in flags)),
            own_loss=own_loss,
        )

    def rows_of(
        self, state: State, decisions: Sequence[Decision], names: Sequence[str]
    ) -> Iterator[tuple[PackedRows, Integers]]:
        """The micro-batches that this rank has in the step after `state`, with their targets' sources in `names`."""
        phase = self._course.phase(state.step + 1)
        skipped = [decision.skip for decision in decisions]
        samples, _ = data.take(state.cursor, phase.rows, skipped)
        for mine in data.share(samples, self._ranks.rank, self._ranks.size, phase.accumulation(self._ranks.size)):
            places = self._corpus.places(mine, skipped)
            splits = [dataset.train for dataset in self._corpus.datasets]
            sources = [
                target_sources(splits[folder], row, phase.seq_len, names)
                for folder, row in zip(places.folders.tolist(), places.rows.tolist(), strict=True)
            ]
            rows = self._rows(mine, places)
            yield rows, np.stack(sources) if sources else np.zeros_like(rows.targets)

    def probe(self) -> float:
        """Mean loss on the data's first row: the same on every rank, whatever was trained on."""
        loss, targets = self._engine.evaluate(self.tensors(self._corpus.first_row()))
        return float(loss) / max(1, int(targets))

    def epoch(self, cursor: int, decisions: Sequence[Decision]) -> int:
        """Which pass over its folder the sample before `cursor` is of, counted from 0."""
        if cursor == 0:
            return 0
        places = self._corpus.places(np.array([cursor - 1]), [decision.skip for decision in decisions])
        return int(places.epochs[0])

    def tensors(self, rows: PackedRows) -> dict[str, torch.Tensor]:
        """Rows as the model takes them, on the engine's device."""
        arrays = {
            "tokens": rows.tokens,
            "positions": rows.positions,
            "segments": rows.segments,
            "targets": rows.targets,
        }
        return {name: torch.as_tensor(array).to(self._engine.device) for name, array in arrays.items()}

    def _judge(
        self, window: Window, decisions: Sequence[Decision], now: Observation, first: Observation | None
    ) -> Verdict:
        """Rank 0's verdict, for all; a refusal travels as a record that every rank checks."""
        verdict = Verdict(action=Action.ACCEPT)
        if self._ranks.is_first:
            warmup = self._course.warmup_steps
            verdict = spikes.judge(self._config.spike, window, decisions, now, first=first, warmup_steps=warmup)
        action, clip = self._ranks.from_first([float(_ACTIONS.index(verdict.action)), verdict.clip])
        if _ACTIONS[int(action)] == Action.ACCEPT:
            return Verdict(action=Action.ACCEPT, clip=clip)
        return self._ranks.object_from_first(verdict, Verdict)

    def _record(self, now: Observation, lr: float, seconds: float, attempt: int) -> StepRecord:
        phase = self._course.phase(now.step)
        tokens_per_second = phase.batch_tokens / seconds
        flops = utilisation.flops_per_token(self._config.model_config, phase.seq_len)
        tflops = tokens_per_second * flops / self._ranks.size / 1e12
        peak = self._config.metrics.peak_tflops
        return StepRecord(
            step=now.step,
            tokens=self._course.tokens(now.step),
            loss=now.loss,
            lr=lr,
            grad_norm=now.grad_norm,
            tokens_per_second=round(tokens_per_second, 1),
            attempt=attempt,
            samples=now.samples,
            model_tflops=float(f"{tflops:.5g}"),
            mfu=round(tflops / peak, 4) if peak else None,
        )

    def _rows(self, samples: data.Samples, places: Places) -> PackedRows:
        if not len(samples):  # all ranks pass as often; a row without targets adds nothing
            idle = self._corpus.first_row()
            return idle._replace(targets=np.full_like(idle.targets, NO_TARGET))
        rows = self._corpus.rows(places)
        return rows._replace(targets=self._faults.targets(rows.targets, samples))

    def _after_rollbacks(self, factor: float, decisions: Sequence[Decision], step: int) -> float:
        """What rollbacks make of the learning rate or the clipping at `step`."""
        targets = spikes.rollback_targets(decisions)
        return schedule.after_rollbacks(factor, self._config.spike.ramp_steps, targets, step)
