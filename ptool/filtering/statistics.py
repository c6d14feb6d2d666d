"""What a stream holds: documents, bytes, words and lengths, per source, and languages where they are asked for.

One pass, as quick as filtering; lengths go into a histogram of powers of two, so that memory does not grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from ptool.executors import ordered_map
from ptool.formats.documents import NO_SOURCE
from ptool.formats.streams import Lines, StreamReader
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import Keys, WordRule, decode
from ptool.units import format_bytes, format_count

_LANGUAGE_CHARS = 1000
_WORKER_MODULES = ("ptool.text.words", "ptool.text.counts", "ptool.text.profile")


class Totals(msgspec.Struct):
    """Documents added up. `lengths[k]` counts texts of 2^(k-1) to 2^k - 1 characters, `lengths[0]` empty ones."""

    documents: int = 0
    text_bytes: int = 0
    chars: int = 0
    words: int = 0
    lengths: dict[int, int] = {}

    def add(self, other: Totals) -> None:
        """Count more documents."""
        self.documents += other.documents
        self.text_bytes += other.text_bytes
        self.chars += other.chars
        self.words += other.words
        for power, count in other.lengths.items():
            self.lengths[power] = self.lengths.get(power, 0) + count


class Statistics(msgspec.Struct):
    """A stream in numbers; `languages` is empty unless they were asked for."""

    total: Totals = msgspec.field(default_factory=Totals)
    by_source: dict[str, Totals] = {}
    languages: dict[str, int] = {}
    bad_lines: int = 0


def find_statistics(
    inputs: Sequence[str | Path],
    *,
    keys: Keys | None = None,
    words: WordRule = "cjk",
    languages: bool = False,
    jobs: int = 1,
    reporter: Reporter = SILENT,
) -> Statistics:
    """Count everything in `inputs` (none: stdin). Lines that are no documents are counted, and do not end it."""
    found = Statistics()
    names: Counter[str] = Counter()
    work = partial(_of_batch, keys=keys or Keys(), words=words, languages=languages)
    reader = StreamReader(inputs, reporter=reporter, allow_empty=True)
    for part in ordered_map(work, reader, jobs=jobs, preload=_WORKER_MODULES):
        found.total.add(part.total)
        for source, totals in part.by_source.items():
            found.by_source.setdefault(source, Totals()).add(totals)
        names.update(part.languages)
        found.bad_lines += part.bad_lines
    found.by_source = dict(sorted(found.by_source.items()))
    found.languages = dict(sorted(names.items(), key=lambda item: (-item[1], item[0])))
    return found


def _of_batch(lines: Lines, *, keys: Keys, words: WordRule, languages: bool) -> Statistics:
    batch, bad = decode(lines, keys, word_rule=words)
    found = Statistics(bad_lines=len(bad))
    if not len(batch):
        return found
    powers = np.frexp(batch.num_chars.astype(np.float64))[1]
    columns = np.diff(batch.offsets), batch.num_chars, batch.num_words, powers
    for source, size, num_chars, num_words, power in zip(
        batch.sources, *(column.tolist() for column in columns), strict=True
    ):  # one by one: every document may be of another source
        totals = found.by_source.setdefault(source or NO_SOURCE, Totals())
        totals.documents += 1
        totals.text_bytes += size
        totals.chars += num_chars
        totals.words += num_words
        totals.lengths[power] = totals.lengths.get(power, 0) + 1
    for totals in found.by_source.values():
        found.total.add(totals)
    if languages:
        from ptool.filtering.languages import likeliest

        found.languages = dict(Counter(likeliest(batch, _LANGUAGE_CHARS)))
    return found


def totals_table(found: Statistics) -> tuple[list[str], list[list[str]]]:
    """A row for each source, and one for all."""
    rows = [
        [
            name,
            f"{totals.documents:,}",
            format_bytes(totals.text_bytes),
            format_count(totals.chars),
            format_count(totals.words),
            f"{totals.words / totals.documents:,.0f}" if totals.documents else "-",
        ]
        for name, totals in [*found.by_source.items(), ("all", found.total)]
    ]
    return ["source", "documents", "text", "characters", "words", "words each"], rows


def lengths_table(found: Statistics) -> tuple[list[str], list[list[str]]]:
    """How many texts have which length."""
    rows = []
    for power, count in sorted(found.total.lengths.items()):
        span = "0" if power == 0 else f"{2 ** (power - 1):,} to {2**power - 1:,}"
        rows.append([span, f"{count:,}", f"{100 * count / found.total.documents:.1f} %"])
    return ["characters", "documents", "share"], rows


def languages_table(found: Statistics) -> tuple[list[str], list[list[str]]]:
    """How many texts are in which language."""
    total = sum(found.languages.values())
    rows = [[name, f"{count:,}", f"{100 * count / total:.1f} %"] for name, count in found.languages.items()]
    return ["language", "documents", "share"], rows
