"""What every step of a run is, before it is taken: its phase, its tokens, its learning rate, its rows.

A run is a list of phases in which nothing changes but the learning rate along a curve (config.Phase). So all that a
step needs, except weights and moments, is a pure function of its number and of the decisions about spikes, and a
resumed run needs no counter of anybody's: not the engine's, not a scheduler's.

    step    counts accepted optimiser steps, from 1
    tokens  row slots of accepted steps, padding included
    sample  a place in data order; those of refused batches are left out and count as neither

Where a phase begins in data order depends on what was left out before it, so `first_samples` takes the skips.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate

from ptool.training import schedule
from ptool.training.config import Phase
from ptool.training.data import Range, advance


class Course:
    """The steps of a run, from its resolved phases."""

    def __init__(self, phases: Sequence[Phase]) -> None:
        self.phases = list(phases)
        self._ends = list(accumulate(phase.steps for phase in phases))
        self._first_tokens = list(accumulate((p.steps * p.batch_tokens for p in phases), initial=0))

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self._ends[-1]

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole run."""
        return self._first_tokens[-1]

    @property
    def first_steps(self) -> list[int]:
        """The number of each phase's first step."""
        return [end - phase.steps + 1 for end, phase in zip(self._ends, self.phases, strict=True)]

    def index(self, step: int) -> int:
        """Which phase step number `step` belongs to; steps after the last count to the last phase."""
        return min(bisect_left(self._ends, step), len(self._ends) - 1)

    def phase(self, step: int) -> Phase:
        """The phase of step number `step`."""
        return self.phases[self.index(step)]

    def tokens(self, step: int) -> int:
        """Tokens of all steps up to and with `step`; 0 before the first."""
        index = self.index(step)
        before = self._ends[index - 1] if index else 0
        return self._first_tokens[index] + (step - before) * self.phases[index].batch_tokens

    def learning_rate(self, step: int) -> float:
        """The rate of `step`, counted from 1, before any rollback's factor."""
        return schedule.learning_rate(self.phase(step), self.tokens(step))

    @cached_property
    def warmup_steps(self) -> int:
        """Steps at the beginning during which the learning rate rises."""
        warmup = self.phases[0].warmup_tokens
        low, high = 0, self.num_steps
        while low < high:  # the most steps whose tokens are within the warm-up
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.tokens(middle) <= warmup else (low, middle - 1)
        return low

    def passes(self, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """How often the rows of each folder are taken in the whole run, `rows` and (real) `tokens` of each given."""
        drawn = [0.0] * len(rows)
        for phase in self.phases:  # weights count tokens, and a folder with more padding has fewer in a row
            sizes = zip(phase.weights, rows, tokens, strict=False)
            shares = [weight * row / token if weight else 0.0 for weight, row, token in sizes]
            for folder, share in enumerate(shares):
                drawn[folder] += phase.steps * phase.rows * share / sum(shares)
        return [taken / max(1, there) for taken, there in zip(drawn, rows, strict=True)]

    def begins_anew(self, step: int) -> bool:
        """Whether `step` cannot be compared with those before it: mix, length or batch changed."""
        index = self.index(step)
        if index == 0 or self._ends[index - 1] + 1 != step:
            return False
        before, now = self.phases[index - 1], self.phases[index]
        changing = ("weights", "seq_len", "batch_tokens")
        return any(getattr(before, name) != getattr(now, name) for name in changing)

    def mix_began(self, step: int, skipped: Iterable[Range]) -> int:
        """The sample in data order from which on rows were drawn by the mix of `step`.

        What is left out because of `step` must not begin before it: the phase before would take its last steps from
        after the hole, by its own mix, and the guilty rows of this one would only come later.
        """
        index = self.index(step)
        while index and self.phases[index - 1].weights == self.phases[index].weights:
            index -= 1
        return self.first_samples(skipped)[index]

    def first_samples(self, skipped: Iterable[Range]) -> list[int]:
        """The sample in data order at which each phase begins, given what is left out."""
        ranges = list(skipped)
        cursor, firsts = 0, []
        for phase in self.phases:
            firsts.append(cursor)
            cursor = advance(cursor, phase.steps * phase.rows, ranges)
        return firsts
