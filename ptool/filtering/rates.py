"""What a recipe would drop, rule by rule, found on a sample; nothing is written.

The sample is the first documents of each input: cheap on any stream, and not random. A file sorted by quality, date or
site will mislead it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from ptool.filtering.decisions import judge
from ptool.filtering.protocol import Range
from ptool.filtering.recipe import Recipe
from ptool.formats.streams import STDIN, Lines, StreamReader
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import Keys, decode

SAMPLE = 10_000
"""Documents of each input that are looked at by default."""


class RuleRates(msgspec.Struct, frozen=True):
    """A step on a sample: documents that fail it, and those for which it is the first to fail."""

    rule: str
    accept: Range
    fails: int
    drops: int


class Rates(msgspec.Struct, frozen=True):
    """What a recipe would do to a sample of `num_documents` documents and `num_bad` lines that are none."""

    num_documents: int
    num_kept: int
    num_bad: int
    rates: list[RuleRates]


def find_rates(
    inputs: Sequence[str | Path],
    recipe: Recipe,
    *,
    keys: Keys | None = None,
    sample: int = SAMPLE,
    reporter: Reporter = SILENT,
) -> Rates:
    """What `recipe` would drop among the first `sample` lines of each input; nothing is written.

    Lines that are no documents are counted, and do not end it.
    """
    keys = keys or Keys()
    fails = np.zeros(len(recipe.steps), dtype=np.int64)
    drops = np.zeros(len(recipe.steps), dtype=np.int64)
    num_documents = num_bad = 0
    for source in inputs or [STDIN]:
        left = sample
        for lines in StreamReader([source], reporter=reporter, allow_empty=True):
            batch, bad = decode(_first_lines(lines, left), keys, word_rule=recipe.words)
            verdicts = judge(batch, recipe)
            fails += np.count_nonzero(verdicts.outside, axis=1)
            drops += np.bincount(verdicts.failed[verdicts.failed >= 0], minlength=len(drops))
            num_documents += len(batch)
            num_bad += len(bad)
            left -= len(batch) + len(bad)
            if left <= 0:
                break
    rates = [
        RuleRates(rule=step.name, accept=step.rule.accept, fails=int(fails[position]), drops=int(drops[position]))
        for position, step in recipe.rules
    ]
    return Rates(num_documents=num_documents, num_kept=num_documents - int(drops.sum()), num_bad=num_bad, rates=rates)


def _first_lines(lines: Lines, most: int) -> Lines:
    """The first `most` lines that are not blank."""
    end = 0
    for _ in range(most):
        start = end
        end = lines.data.find(b"\n", end) + 1
        while end and not lines.data[start:end].strip():
            start = end
            end = lines.data.find(b"\n", end) + 1
        if not end:
            return lines
    return msgspec.structs.replace(lines, data=lines.data[:end])
