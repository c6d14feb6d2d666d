"""What a recipe decides about a batch.

`decide` is the heart of the stage: a pure function from raw lines to the bytes to write and the reasons for the rest.
It runs in any process, so output is the same for every number of jobs. All rules measure the whole batch and the first
one that a document fails, in the recipe's order, is its reason; skipping documents that are lost already would save
little, since most of the cost is splitting words, once for all rules.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.filtering.recipe import Recipe
from ptool.formats.streams import Lines
from ptool.text.batch import BadLine, Batch, Keys, decode


class Verdicts(msgspec.Struct, frozen=True):
    """What a recipe says about n documents.

    `failed` is the position of the first step each document fails, -1 for none (int64[n]); `values` is what every step
    measured (float64[num_steps, n]).
    """

    failed: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class Dropped(msgspec.Struct, frozen=True):
    """A document outside the range of step `step`; `line` is empty where lines were not asked for."""

    number: int
    line: bytes
    step: int
    value: float


class Decided(msgspec.Struct, frozen=True):
    """A batch after its decisions: kept lines, and in input order what was not kept."""

    lines: Lines
    kept: bytes
    num_kept: int
    removed: list[Dropped | BadLine]


def judge(batch: Batch, recipe: Recipe) -> Verdicts:
    """Measure every document by every step."""
    failed = np.full(len(batch), -1, dtype=np.int64)
    values = np.empty((len(recipe.steps), len(batch)), dtype=np.float64)
    for position, step in enumerate(recipe.steps):
        values[position] = step.rule.measure(batch)
        failed[(failed < 0) & ~step.rule.accept.accepts(values[position])] = position
    return Verdicts(failed, values)


def decide(lines: Lines, recipe: Recipe, keys: Keys, *, with_lines: bool = True) -> Decided:
    """The kept lines of a batch, and every other line with its reason; `with_lines` copies dropped lines too."""
    batch, bad = decode(lines, keys, word_rule=recipe.words)
    verdicts = judge(batch, recipe)
    keep = verdicts.failed < 0
    removed: list[Dropped | BadLine] = [
        Dropped(
            number=int(batch.numbers[index]),
            line=batch.line(index) if with_lines else b"",
            step=int(verdicts.failed[index]),
            value=float(verdicts.values[verdicts.failed[index], index]),
        )
        for index in np.flatnonzero(~keep).tolist()
    ]
    if bad:
        removed = sorted([*removed, *bad], key=lambda one: one.number)
    # The lines themselves need not travel back from a worker: where they came from is enough.
    origin = msgspec.structs.replace(lines, data=b"")
    return Decided(lines=origin, kept=batch.select(keep), num_kept=int(keep.sum()), removed=removed)
