"""The loss on held-out rows while training, for each source.

Every `validation.every_steps` steps and at the end, on the packed folders' holdout split: no row of it is ever trained
on. The rows are the same every time, `validation.tokens` of them at most, evenly over the folders. They are shared out
over the ranks in rounds of equal shape, as ZeRO-3 needs; each token's loss is added to its own source, in fp64. So
every number of ranks gives the same figures, up to the rounding of the forward pass, and nothing random is used: the
steps of a run are the same bits with validation and without.

A stop signal ends a measurement between two rounds: it is then not written, and made up for when the run goes on. The
cost is a forward pass, a third of a training step's work per token: at the defaults, the tokens of ten batches every
500 steps, at most 0.7 % of a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from ptool.formats.packed import NO_TARGET, PackedDataset, PackedRows, PackedSplit
from ptool.training.sources import Integers, source_names, sums_by_source, target_sources


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """The mean loss in nats over `num_targets` targets."""

    loss: float
    num_targets: int


class ValidationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A line of validation.jsonl."""

    step: int
    tokens: int
    loss: float
    num_targets: int
    sources: dict[str, Measure]
    seconds: float
    attempt: int

    def loss_of(self, source: str) -> float | None:
        """The loss of one source, None where nothing of it is held out; of all together for an empty name."""
        if not source:
            return self.loss
        return self.sources[source].loss if source in self.sources else None


class Adds(Protocol):
    """What is needed of the ranks (ranks.py)."""

    rank: int
    size: int

    def sum(self, values: Sequence[float]) -> list[float]:
        """Elementwise sum over the ranks."""


BATCHES, MOST_TOKENS = 10, 1_000_000
"""What is measured unless something else is asked for: enough for two digits, and less than 1 % of a run."""

TokenLosses = Callable[[PackedRows], Any]
"""Rows -> the loss of each target in nats, [rows, seq_len]; collective."""


class Validation:
    """The held-out rows of a run, and how they are measured."""

    def __init__(
        self, datasets: Sequence[PackedDataset], *, tokens: int, tokens_per_forward: int, rank: int, ranks: int
    ) -> None:
        """`tokens` of held-out rows at most, `tokens_per_forward` of them at once on each of `ranks` ranks."""
        self._names = source_names(datasets)
        self._rank = rank
        self._ranks = ranks
        self._parts: list[tuple[PackedSplit, int, Integers]] = []
        self._per_forward = tokens_per_forward
        held_out = [dataset for dataset in datasets if dataset.holdout.num_rows]
        for dataset in held_out:
            most = max(1, tokens // len(held_out) // dataset.seq_len)
            self._parts.append((dataset.holdout, dataset.seq_len, evenly(dataset.holdout.num_rows, most)))
        self._sources: dict[tuple[int, int], Integers] = {}

    @property
    def num_rows(self) -> int:
        """Rows that are measured; 0 where nothing was held out."""
        return sum(len(rows) for _, _, rows in self._parts)

    def measure(
        self, token_losses: TokenLosses, ranks: Adds, *, is_stopping: Callable[[], bool], beat: Callable[[], None]
    ) -> tuple[Measure, dict[str, Measure]] | None:
        """The loss of all rows and of each source; None where any rank was told to stop before the end. Collective."""
        loss, count = np.zeros(len(self._names)), np.zeros(len(self._names))
        for rows, sources in self._rounds():
            beat()
            losses = np.asarray(token_losses(rows), dtype=np.float64)
            more, targets = sums_by_source(losses, rows.targets, sources, len(self._names))
            loss, count = loss + more, count + targets
            if ranks.sum([float(is_stopping())])[0]:
                return None
        totals = ranks.sum([*loss.tolist(), *count.tolist()])
        sums, counts = totals[: len(self._names)], totals[len(self._names) :]
        found = {
            name: Measure(loss=total / number, num_targets=int(number))
            for name, total, number in zip(self._names, sums, counts, strict=True)
            if number
        }
        return Measure(loss=sum(sums) / max(1.0, sum(counts)), num_targets=int(sum(counts))), found

    def _rounds(self) -> Iterator[tuple[PackedRows, Integers]]:
        """The rows of each round on this rank, with their targets' sources; a round is equally large on every rank."""
        for part, (split, seq_len, rows) in enumerate(self._parts):
            mine = max(1, self._per_forward // seq_len)
            for start in range(0, len(rows), mine * self._ranks):
                here = rows[start : start + mine * self._ranks]
                share = -(-len(here) // self._ranks)
                chosen = here[self._rank * share : (self._rank + 1) * share]
                filled = np.concatenate([chosen, np.repeat(here[:1], share - len(chosen))])
                batch = split.rows(filled)
                batch.targets[len(chosen) :] = NO_TARGET
                yield batch, np.stack([self._sources_of(part, int(row)) for row in filled])

    def _sources_of(self, part: int, row: int) -> Integers:
        if (part, row) not in self._sources:
            split, seq_len, _ = self._parts[part]
            self._sources[part, row] = target_sources(split, row, seq_len, self._names)
        return self._sources[part, row]


def evenly(num_rows: int, most: int) -> Integers:
    """`most` of `num_rows` rows at equal distances, or all of them: documents of one source often stand together."""
    count = min(num_rows, most)
    return (np.arange(count, dtype=np.int64) * num_rows) // max(1, count)


def held_out_tokens(asked: int, batch_tokens: int) -> int:
    """How many tokens are measured where `asked` for, 0 being the default, in a run of such batches."""
    return asked or min(BATCHES * batch_tokens, MOST_TOKENS)


def record_of(
    found: tuple[Measure, dict[str, Measure]], *, step: int, tokens: int, attempt: int, started: float
) -> ValidationRecord:
    """The line of a measurement that began at `started` (monotonic)."""
    total, sources = found
    return ValidationRecord(
        step=step,
        tokens=tokens,
        loss=total.loss,
        num_targets=total.num_targets,
        sources=sources,
        seconds=round(time.monotonic() - started, 3),
        attempt=attempt,
    )
