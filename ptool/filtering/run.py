"""Filtering a stream: which documents a recipe keeps, and what becomes of the others.

`decide` is the heart: a pure function from raw lines to the bytes to write and the reasons for the rest. It runs in any
process, so output is the same for every number of jobs. All rules measure the whole batch and the first one that a
document fails, in the recipe's order, is its reason; skipping documents that are lost already would save little, since
the cost lies in splitting words, once for all rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.errors import BadDocument
from ptool.executors import ordered_map
from ptool.filtering.protocol import Range
from ptool.filtering.recipe import DEFAULT_PRESET, Recipe, load_preset
from ptool.formats.stages import StageReport, StreamOptions, TransformRun
from ptool.formats.streams import Lines, StreamReader
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import BadLine, Batch, Keys, decode
from ptool.text.characters import UNICODE_VERSION

Document = TypeVar("Document", bound=Mapping[str, Any])

_WORKER_MODULES = ("ptool.filtering.run", "ptool.text.words", "ptool.text.lines", "ptool.text.counts")

# Documents that `filter_documents` holds at once: enough to make numpy's cost per call small.
_DOCUMENTS_AT_ONCE = 256


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


class RuleRates(msgspec.Struct, frozen=True):
    """A step on a sample: documents that fail it, and those for which it is the first to fail."""

    rule: str
    accept: Range
    fails: int
    drops: int


class DryRun(msgspec.Struct, frozen=True):
    """What a recipe would do to a sample of `num_documents` documents and `num_bad` lines that are none."""

    num_documents: int
    num_kept: int
    num_bad: int
    rates: list[RuleRates]


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


def filter_stream(
    inputs: Sequence[str | Path],
    output: Path | Sequence[Path] | None,
    recipe: Recipe,
    *,
    keys: Keys | None = None,
    options: StreamOptions | None = None,
    labels: Sequence[str] | None = None,
    jobs: int = 1,
    reporter: Reporter = SILENT,
) -> StageReport:
    """Filter `inputs` (none: stdin) into `output`: a file, None for stdout, or one file for each input.

    Raises UsageError where an output stands that other work made, BadDocument for a line that is no document (unless
    the options reject such lines), TooManyRejected after finishing.
    """
    keys = keys or Keys()
    options = options or StreamOptions()
    config = {"recipe": recipe.config(), "keys": msgspec.to_builtins(keys), "unicode": UNICODE_VERSION}
    work = partial(decide, recipe=recipe, keys=keys, with_lines=options.policy.rejects is not None)
    run = TransformRun("filter", config, inputs, output, options=options, reporter=reporter, labels=labels)
    with run:
        if not run.up_to_date:
            for decided in ordered_map(work, run.lines(), jobs=jobs, preload=_WORKER_MODULES):
                _record(run, decided, recipe)
        return run.finish()


def filter_documents(
    documents: Iterable[Document], recipe: Recipe | str = DEFAULT_PRESET, *, keys: Keys | None = None
) -> Iterator[Document]:
    """The documents that `recipe` (or the preset of that name) keeps, the same objects in the same order.

    A document is a mapping with a string under `keys.text`. Documents are taken and judged 256 at a time. Raises
    BadDocument, with its position, for one that is no document.
    """
    text_key = (keys or Keys()).text
    recipe = load_preset(recipe) if isinstance(recipe, str) else recipe
    remaining = iter(documents)
    first = 0
    while group := list(islice(remaining, _DOCUMENTS_AT_ONCE)):
        texts = [_text_of(document, text_key, position) for position, document in enumerate(group, start=first)]
        verdicts = judge(Batch.from_texts(texts, word_rule=recipe.words), recipe)
        for document, failed in zip(group, verdicts.failed.tolist(), strict=True):
            if failed < 0:
                yield document
        first += len(group)


def dry_run(
    inputs: Sequence[str | Path],
    recipe: Recipe,
    *,
    keys: Keys | None = None,
    sample: int = 10_000,
    reporter: Reporter = SILENT,
) -> DryRun:
    """What `recipe` would drop among the first `sample` documents of each input; nothing is written.

    Lines that are no documents are counted, and do not end it.
    """
    keys = keys or Keys()
    fails = np.zeros(len(recipe.steps), dtype=np.int64)
    drops = np.zeros(len(recipe.steps), dtype=np.int64)
    num_documents = num_bad = 0
    for source in inputs or ["-"]:
        left = sample
        for lines in StreamReader([source], reporter=reporter, allow_empty=True):
            batch, bad = decode(_first_lines(lines, left), keys, word_rule=recipe.words)
            verdicts = judge(batch, recipe)
            for position, step in enumerate(recipe.steps):
                fails[position] += np.count_nonzero(~step.rule.accept.accepts(verdicts.values[position]))
                drops[position] += np.count_nonzero(verdicts.failed == position)
            num_documents += len(batch)
            num_bad += len(bad)
            left -= len(batch)
            if left <= 0:
                break
    rates = [
        RuleRates(rule=step.name, accept=step.rule.accept, fails=int(failing), drops=int(dropped))
        for step, failing, dropped in zip(recipe.steps, fails, drops, strict=True)
    ]
    return DryRun(num_documents=num_documents, num_kept=num_documents - int(drops.sum()), num_bad=num_bad, rates=rates)


def _record(run: TransformRun, decided: Decided, recipe: Recipe) -> None:
    run.at(decided.lines)
    run.keep(decided.kept, decided.num_kept)
    for one in decided.removed:
        if isinstance(one, BadLine):
            run.reject(one.raw + b"\n", path=decided.lines.path, number=one.number, message=one.message)
            continue
        step = recipe.steps[one.step]
        accept = [step.rule.accept.min, step.rule.accept.max]
        run.drop(one.line, {"rule": step.name, "value": one.value, "accept": accept})


def _text_of(document: Mapping[str, Any], key: str, position: int) -> str:
    text = document.get(key) if isinstance(document, Mapping) else None
    if not isinstance(text, str):
        raise BadDocument(f"no string under '{key}'", where=f"document {position}", hint="keys=Keys(text=...) names it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadDocument("a lone surrogate in the text", where=f"document {position}") from error
    return text


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
