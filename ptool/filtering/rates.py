"""What a recipe would drop, rule by rule, found on a sample; nothing is written.

The sample is the first documents of each input: cheap on any stream, and not random. A file sorted by quality, date or
site will mislead it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.filtering.decisions import judge
from ptool.filtering.protocol import Range
from ptool.filtering.recipe import Recipe
from ptool.formats.documents import NO_SOURCE
from ptool.formats.streams import STDIN, Lines, StreamReader
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import Batch, Keys, decode

SAMPLE = 10_000
"""Documents of each input that are looked at by default."""
EXAMPLES = 3
"""Ids of dropped documents that are shown for each rule."""


class RuleRates(msgspec.Struct, frozen=True):
    """A step on a sample: documents that fail it, and those for which it is the first to fail."""

    rule: str
    accept: Range
    fails: int
    drops: int


class SourceRates(msgspec.Struct):
    """The documents of one source in a sample, those kept, and how many each rule is the first to drop."""

    documents: int = 0
    kept: int = 0
    dropped_by: dict[str, int] = {}


class Rates(msgspec.Struct, frozen=True):
    """What a recipe would do to a sample of `num_documents` documents and `num_bad` lines that are none.

    `examples` has the ids of the first documents that each rule drops. `seconds` (of one worker) and `output_bytes` are
    for all of the inputs, taken from the sample; None where their size is unknown.
    """

    num_documents: int
    num_kept: int
    num_bad: int
    rates: list[RuleRates]
    by_source: dict[str, SourceRates] = {}
    examples: dict[str, list[str]] = {}
    seconds: float | None = None
    output_bytes: int | None = None


class _Position:
    """How far a reader has come, overheard from its progress."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.done = 0

    def notice(self, text: str) -> None:
        self._reporter.notice(text)

    def progress(self, done: int, total: int | None, *, unit: str, detail: str = "") -> None:
        self.done = done
        self._reporter.progress(done, total, unit=unit, detail=detail)


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
    num_documents = num_bad = bytes_seen = bytes_kept = compressed = 0
    total: int | None = 0
    by_source: dict[str, SourceRates] = {}
    examples: dict[str, list[str]] = {}
    started = time.monotonic()
    for source in inputs or [STDIN]:
        left = sample
        position = _Position(reporter)
        reader = StreamReader([source], reporter=position, allow_empty=True)
        total = None if total is None or reader.total_bytes is None else total + reader.total_bytes
        for lines in reader:
            batch, bad = decode(_first_lines(lines, left), keys, word_rule=recipe.words)
            verdicts = judge(batch, recipe)
            fails += np.count_nonzero(verdicts.outside, axis=1)
            drops += np.bincount(verdicts.failed[verdicts.failed >= 0], minlength=len(drops))
            kept = verdicts.failed < 0
            _count_sources(batch, verdicts.failed, recipe, by_source)
            for index in np.flatnonzero(~kept).tolist():
                found = examples.setdefault(recipe.steps[verdicts.failed[index]].name, [])
                if len(found) < EXAMPLES:
                    found.append(batch.ids[index])
            sizes = np.diff(batch.line_starts)
            bytes_seen += int(sizes.sum())
            bytes_kept += int(sizes[kept].sum())
            num_documents += len(batch)
            num_bad += len(bad)
            left -= len(batch) + len(bad)
            if left <= 0:
                break
        compressed += position.done
    seconds = time.monotonic() - started
    rates = [
        RuleRates(rule=step.name, accept=step.rule.accept, fails=int(fails[position]), drops=int(drops[position]))
        for position, step in recipe.rules
    ]
    known = total is not None and compressed > 0 and bytes_seen > 0
    return Rates(
        num_documents=num_documents,
        num_kept=num_documents - int(drops.sum()),
        num_bad=num_bad,
        rates=rates,
        by_source=dict(sorted(by_source.items())),
        examples=examples,
        seconds=seconds * (total or 0) / compressed if known else None,
        output_bytes=round((total or 0) * bytes_kept / bytes_seen) if known else None,
    )


def _count_sources(
    batch: Batch, failed: npt.NDArray[np.int64], recipe: Recipe, by_source: dict[str, SourceRates]
) -> None:
    for source, step in zip(batch.sources, failed.tolist(), strict=True):
        rates = by_source.setdefault(source or NO_SOURCE, SourceRates())
        rates.documents += 1
        if step < 0:
            rates.kept += 1
        else:
            name = recipe.steps[step].name
            rates.dropped_by[name] = rates.dropped_by.get(name, 0) + 1


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
