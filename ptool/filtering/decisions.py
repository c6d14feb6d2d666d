"""What a recipe decides about a batch.

`decide` is the heart of the stage: a pure function from raw lines to the bytes to write and the reasons for the rest.
It runs in any process, so output is the same for every number of jobs. All rules measure the whole batch and the first
one that a document fails, in the recipe's order, is its reason; skipping documents that are lost already would save
little, since most of the cost is splitting words, once for all rules. An edit makes a new batch for the steps after it.

A dropped document is reported as it came in, never as an edit left it, so that nothing is lost.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from ptool.filtering.annotations import annotated
from ptool.filtering.protocol import Measured, Rule
from ptool.filtering.recipe import EditStep, Recipe, Step
from ptool.formats.streams import Lines
from ptool.text.batch import BadLine, Batch, Keys, decode


class Change(msgspec.Struct, frozen=True):
    """What an edit did to n texts: which it changed (bool[n]), and their characters before and after (int64[n])."""

    changed: npt.NDArray[np.bool_]
    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]


class Verdicts(msgspec.Struct, frozen=True):
    """What a recipe says about n documents.

    `failed` is the position of the first step each document fails, -1 for none (int64[n]); `values` is what every step
    measured (float64[num_steps, n], nan for edits and for what a document lacks) and `outside` whether that drops it
    (bool[num_steps, n]). `batch` has the texts after all edits, and `changes` what each of these did.
    """

    failed: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    outside: npt.NDArray[np.bool_]
    batch: Batch
    changes: dict[int, Change]

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        """bool[n]: documents that any edit changed."""
        found = np.zeros(len(self.failed), dtype=np.bool_)
        for change in self.changes.values():
            found |= change.changed
        return found


class Failure(msgspec.Struct, frozen=True):
    """A step that a document fails, and what it measured; nan where the document lacks what is measured."""

    step: int
    value: float


class Dropped(msgspec.Struct, frozen=True):
    """A document outside the range of a step; `line` is empty where lines were not asked for.

    `also` holds the later steps that it fails, where they were asked for; `chars` its length before the recipe and
    where the step measured it, None where no edit had changed it by then.
    """

    number: int
    line: bytes
    failure: Failure
    also: tuple[Failure, ...] = ()
    chars: tuple[int, int] | None = None


class Edited(msgspec.Struct):
    """What one edit did to the documents that had passed every step before it."""

    documents: int = 0
    chars_before: int = 0
    chars_after: int = 0

    def add(self, other: Edited) -> None:
        """Count another batch."""
        self.documents += other.documents
        self.chars_before += other.chars_before
        self.chars_after += other.chars_after


class Decided(msgspec.Struct, frozen=True):
    """A batch after its decisions: kept lines, and in input order what was not kept. `edited` is by step."""

    lines: Lines
    kept: bytes
    num_kept: int
    removed: list[Dropped | BadLine]
    edited: dict[int, Edited] = {}


def judge(batch: Batch, recipe: Recipe) -> Verdicts:
    """Measure every document by every step."""
    if recipe.edits:
        from ptool.text.whole_texts import differ  # numba starts with the first measurement
    failed = np.full(len(batch), -1, dtype=np.int64)
    values = np.full((len(recipe.steps), len(batch)), np.nan, dtype=np.float64)
    outside = np.zeros(values.shape, dtype=np.bool_)
    changes = {}
    for position, step in enumerate(recipe.steps):
        if isinstance(step, EditStep):
            num_chars = batch.num_chars
            if batch.is_large:
                batch.forget()  # of a document of 50 MB, some hundred megabytes
            edited = batch.with_texts(step.edit.apply(batch))
            batch.forget()
            changed = differ(batch.text, batch.offsets, edited.text, edited.offsets)
            changes[position] = Change(changed, num_chars, edited.num_chars)
            batch = edited
        else:
            values[position] = step.rule.measure(batch)
            outside[position] = _outside(step, values[position], batch)
            failed[(failed < 0) & outside[position]] = position
    return Verdicts(failed, values, outside, batch, changes)


def decide(
    lines: Lines,
    recipe: Recipe,
    keys: Keys,
    *,
    with_lines: bool = True,
    explain_all: bool = False,
    annotate: bool = False,
) -> Decided:
    """The kept lines of a batch, and every other line with its reason.

    `with_lines` copies dropped lines too; `explain_all` names every rule that a dropped document fails. `annotate`
    keeps every document, as it came in, with what was measured.
    """
    batch, bad = decode(lines, keys, word_rule=recipe.words)
    verdicts = judge(batch, recipe)
    if annotate:
        origin = msgspec.structs.replace(lines, data=b"")
        return Decided(origin, annotated(batch, recipe, verdicts.values), len(batch), list(bad))
    keep = verdicts.failed < 0
    removed: list[Dropped | BadLine] = [
        Dropped(
            number=int(batch.numbers[index]),
            line=batch.line(index) if with_lines else b"",
            failure=_failure(verdicts, int(verdicts.failed[index]), index),
            also=_also(verdicts, index) if explain_all else (),
            chars=_chars(verdicts, index),
        )
        for index in np.flatnonzero(~keep).tolist()
    ]
    if bad:
        removed = sorted([*removed, *bad], key=lambda one: one.number)
    # The lines themselves need not travel back from a worker: where they came from is enough.
    origin = msgspec.structs.replace(lines, data=b"")
    return Decided(
        lines=origin,
        kept=_kept_lines(batch, verdicts, keep, keys),
        num_kept=int(keep.sum()),
        removed=removed,
        edited=_edited(verdicts),
    )


def _outside(step: Step, values: Measured, batch: Batch) -> npt.NDArray[np.bool_]:
    """Which documents the step drops: outside the range, and not of the fraction that is kept all the same."""
    rule: Rule = step.rule
    outside = ~rule.accept.accepts(values)
    if getattr(rule, "missing", "drop") == "keep":
        outside &= ~np.isnan(values)
    if rule.keep_fraction:
        seed = xxhash.xxh32_intdigest(step.name.encode())  # two rules choose independently
        most = rule.keep_fraction * 2.0**64
        for index in np.flatnonzero(outside).tolist():
            outside[index] = xxhash.xxh3_64_intdigest(batch.text_of(index), seed=seed) >= most
    return outside


def _failure(verdicts: Verdicts, step: int, index: int) -> Failure:
    return Failure(step, float(verdicts.values[step, index]))


def _also(verdicts: Verdicts, index: int) -> tuple[Failure, ...]:
    failing = np.flatnonzero(verdicts.outside[:, index]).tolist()
    return tuple(_failure(verdicts, step, index) for step in failing[1:])


def _chars(verdicts: Verdicts, index: int) -> tuple[int, int] | None:
    until = [change for step, change in verdicts.changes.items() if step < verdicts.failed[index]]
    if not any(change.changed[index] for change in until):
        return None
    return int(until[0].before[index]), int(until[-1].after[index])


def _edited(verdicts: Verdicts) -> dict[int, Edited]:
    edited = {}
    for position, change in verdicts.changes.items():
        alive = (verdicts.failed < 0) | (verdicts.failed > position)
        num_changed = int(np.count_nonzero(change.changed & alive))
        edited[position] = Edited(num_changed, int(change.before[alive].sum()), int(change.after[alive].sum()))
    return edited


def _kept_lines(batch: Batch, verdicts: Verdicts, keep: npt.NDArray[np.bool_], keys: Keys) -> bytes:
    """The kept lines; where an edit changed the text, with the new one in place of the old."""
    changed = keep & verdicts.changed
    if not changed.any():
        return batch.select(keep)
    from ptool.text.rewriting import replace_texts

    edited = verdicts.batch
    which = np.flatnonzero(changed)
    texts = [edited.text_of(index) for index in which.tolist()]
    rewritten = iter(replace_texts(batch.lines, batch.line_starts, keys.text, which, texts))
    return b"".join(
        [next(rewritten) if changed[index] else batch.line(index) for index in np.flatnonzero(keep).tolist()]
    )
