"""What a recipe would drop, rule by rule, found on a sample; nothing is written.

The sample is some documents of each input: of files that allow it (sampling.py) from random frames, by a seed; of all
others the first ones, which are no random sample: a file sorted by quality, date or site will mislead it. `sampling`
says which it was. Languages are told by the bundled model on the first 300 characters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.filtering.decisions import judge
from ptool.filtering.languages import likeliest
from ptool.filtering.protocol import Range
from ptool.filtering.recipe import Recipe
from ptool.filtering.sampling import MOST_PIECES, Piece, random_pieces
from ptool.formats.documents import NO_SOURCE
from ptool.formats.streams import STDIN, Lines, StreamReader, labels
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import Batch, Keys, decode

SAMPLE = 10_000
"""Documents of each input that are looked at by default."""
EXAMPLES = 3
"""Ids of dropped documents that are shown for each rule."""
FIRST = "first documents"
RANDOM = "random frames, seed {seed}"

_LANGUAGE_CHARS = 300


class RuleRates(msgspec.Struct, frozen=True):
    """A step on a sample: documents that fail it, and those for which it is the first to fail."""

    rule: str
    accept: Range
    fails: int
    drops: int


class GroupRates(msgspec.Struct):
    """The documents of one source or language in a sample, those kept, and how many each rule is the first to drop."""

    documents: int = 0
    kept: int = 0
    dropped_by: dict[str, int] = {}


class Rates(msgspec.Struct, frozen=True):
    """What a recipe would do to a sample of `num_documents` documents and `num_bad` lines that are none.

    `sampling` says of each input how it was sampled. `examples` has the ids of the first documents that each rule
    drops. `seconds` (of one worker) and `output_bytes` are for all of the inputs, taken from the sample; None where
    their size is unknown.
    """

    num_documents: int
    num_kept: int
    num_bad: int
    rates: list[RuleRates]
    by_source: dict[str, GroupRates] = {}
    by_language: dict[str, GroupRates] = {}
    sampling: dict[str, str] = {}
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


class _Taken(msgspec.Struct, frozen=True):
    """Lines of a sample, out of `raw_bytes` that were unpacked from `packed_bytes` of the input."""

    lines: Lines
    raw_bytes: int
    packed_bytes: int


def find_rates(
    inputs: Sequence[str | Path],
    recipe: Recipe,
    *,
    keys: Keys | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> Rates:
    """What `recipe` would drop among `sample` lines of each input; nothing is written.

    Lines that are no documents are counted, and do not end it.
    """
    keys = keys or Keys()
    tally = _Tally(recipe)
    judge(
        Batch.from_texts(["the"], word_rule=recipe.words, lines=[b"{}\n"]), recipe
    )  # kernels are loaded before timing
    sampling: dict[str, str] = {}
    total: int | None = 0
    raw_bytes = packed_bytes = 0
    sources = [str(source) for source in inputs] or [STDIN]
    names = labels(sources)
    started = time.monotonic()
    for source, name in zip(sources, names, strict=True):
        size = Path(source).stat().st_size if source != STDIN and Path(source).is_file() else None
        total = None if total is None or size is None else total + size
        pieces = random_pieces(source, seed)
        sampling[source] = FIRST if pieces is None else RANDOM.format(seed=seed)
        taken = _first(source, sample, reporter) if pieces is None else _random(pieces, name, sample)
        for one in taken:
            raw_bytes += one.raw_bytes
            packed_bytes += one.packed_bytes
            tally.add(one.lines, keys)
    seconds = time.monotonic() - started - tally.seconds_on_languages
    known = total is not None and packed_bytes > 0 and tally.bytes_seen > 0
    all_bytes = raw_bytes * (total or 0) / max(1, packed_bytes)
    return tally.rates(
        sampling,
        seconds=seconds * all_bytes / tally.bytes_seen if known else None,
        output_bytes=round((total or 0) * tally.bytes_kept / tally.bytes_seen) if known else None,
    )


def _first(source: str, sample: int, reporter: Reporter) -> Iterator[_Taken]:
    position = _Position(reporter)
    batches = iter(StreamReader([source], reporter=position, allow_empty=True))
    before = 0
    left = sample
    lines = next(batches, None)
    while lines is not None and left > 0:
        following = next(batches, None)  # the reader says how far it came when it is asked for more
        some = _first_lines(lines, left)
        yield _Taken(some, len(lines.data), position.done - before)
        before = position.done
        left -= _num_filled(some)
        lines = following


def _random(pieces: Sequence[Piece], name: str, sample: int) -> Iterator[_Taken]:
    """As many lines of each piece as make up the sample; where a piece has fewer, the next ones give more."""
    left = sample
    planned = min(MOST_PIECES, len(pieces))
    for index, piece in enumerate(pieces):
        if left <= 0:
            break
        data = piece.read()
        lines = Lines(data=data, origin=f"{name}[piece {piece.number}]", path=piece.path, first_number=1)
        some = _first_lines(lines, -(-left // max(1, planned - index)))
        yield _Taken(some, len(data), piece.size)
        left -= _num_filled(some)


class _Tally:
    """What became of the documents of a sample so far."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._fails = np.zeros(len(recipe.steps), dtype=np.int64)
        self._drops = np.zeros(len(recipe.steps), dtype=np.int64)
        self._num_documents = self._num_bad = 0
        self._by_source: dict[str, GroupRates] = {}
        self._by_language: dict[str, GroupRates] = {}
        self._examples: dict[str, list[str]] = {}
        self.bytes_seen = self.bytes_kept = 0
        self.seconds_on_languages = 0.0

    def add(self, lines: Lines, keys: Keys) -> None:
        """Judge some lines."""
        batch, bad = decode(lines, keys, word_rule=self._recipe.words)
        verdicts = judge(batch, self._recipe)
        failed = verdicts.failed
        self._fails += np.count_nonzero(verdicts.outside, axis=1)
        self._drops += np.bincount(failed[failed >= 0], minlength=len(self._drops))
        for index in np.flatnonzero(failed >= 0).tolist():
            found = self._examples.setdefault(self._recipe.steps[failed[index]].name, [])
            if len(found) < EXAMPLES:
                found.append(batch.ids[index])
        sizes = np.diff(batch.line_starts)
        self.bytes_seen += int(sizes.sum())
        self.bytes_kept += int(sizes[failed < 0].sum())
        self._num_documents += len(batch)
        self._num_bad += len(bad)
        self._count([source or NO_SOURCE for source in batch.sources], failed, self._by_source)
        started = time.monotonic()
        self._count(likeliest(batch, _LANGUAGE_CHARS), failed, self._by_language)
        self.seconds_on_languages += time.monotonic() - started

    def rates(self, sampling: dict[str, str], *, seconds: float | None, output_bytes: int | None) -> Rates:
        """The result; languages are ordered by their documents."""
        languages = sorted(self._by_language.items(), key=lambda item: (-item[1].documents, item[0]))
        return Rates(
            num_documents=self._num_documents,
            num_kept=self._num_documents - int(self._drops.sum()),
            num_bad=self._num_bad,
            rates=[
                RuleRates(step.name, step.rule.accept, int(self._fails[position]), int(self._drops[position]))
                for position, step in self._recipe.rules
            ],
            by_source=dict(sorted(self._by_source.items())),
            by_language=dict(languages),
            sampling=sampling,
            examples=self._examples,
            seconds=seconds,
            output_bytes=output_bytes,
        )

    def _count(self, groups: Sequence[str], failed: npt.NDArray[np.int64], rates: dict[str, GroupRates]) -> None:
        for group, step in zip(groups, failed.tolist(), strict=True):
            found = rates.setdefault(group, GroupRates())
            found.documents += 1
            if step < 0:
                found.kept += 1
            else:
                name = self._recipe.steps[step].name
                found.dropped_by[name] = found.dropped_by.get(name, 0) + 1


def _num_filled(lines: Lines) -> int:
    return sum(bool(line.strip()) for line in lines.data.split(b"\n"))


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
