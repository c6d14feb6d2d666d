"""Fertility: how many tokens a tokenizer needs for a text, per source and per language, side by side.

Tokens per word is what the field calls fertility: 1.3 for English under a good 32k vocabulary, 3 and more for languages
it was not trained on, which then cost as many times the compute and context. Words are those of text/words.py (every
ideograph and kana counts as one), so that the numbers of one text compare across tokenizers; across scripts compare
bytes per token. Unknown tokens are lost text; byte-fallback tokens are characters that the vocabulary does not hold.

One pass over the stream, whatever the number of tokenizers; memory is a batch and the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.errors import InputError
from ptool.executors import ordered_map
from ptool.formats.documents import NO_SOURCE
from ptool.formats.streams import Lines, StreamReader
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import BadLine, Batch, Keys, decode
from ptool.tokenizers.engines import FIRST_BYTES, CheckedEngine, Engine, open_engine
from ptool.tokenizers.loading import Tokenizer, load_tokenizer
from ptool.tokenizing.encoding import compare_first

GroupKind = Literal["all", "source", "language"]


class Fertility(msgspec.Struct, frozen=True, kw_only=True):
    """One tokenizer on one group of documents."""

    tokenizer: str
    by: GroupKind
    group: str
    documents: int
    bytes: int
    words: int
    tokens: int
    unknown: int
    byte_fallback: int

    @property
    def tokens_per_word(self) -> float:
        """Fertility."""
        return self.tokens / max(self.words, 1)

    @property
    def bytes_per_token(self) -> float:
        """Compression."""
        return self.bytes / max(self.tokens, 1)

    def as_row(self) -> dict[str, object]:
        """For JSON, with the ratios."""
        return {
            **msgspec.to_builtins(self),
            "tokens_per_word": self.tokens_per_word,
            "bytes_per_token": self.bytes_per_token,
            "unknown_rate": self.unknown / max(self.tokens, 1),
            "byte_fallback_rate": self.byte_fallback / max(self.tokens, 1),
        }


class _Counted(NamedTuple):
    """A batch: for every group, documents, bytes and words, then tokens, unknown and fallback of each tokenizer."""

    groups: dict[tuple[GroupKind, str], npt.NDArray[np.int64]]
    bad: list[BadLine]
    path: str


def measure_fertility(
    tokenizers: Sequence[Path],
    inputs: Sequence[str | Path],
    *,
    keys: Keys | None = None,
    language_key: str = "lang",
    jobs: int = 1,
    reporter: Reporter = SILENT,
) -> list[Fertility]:
    """Every tokenizer on all documents, then on each source and each language, the largest first.

    Raises InputError for a line that is no document, and where there is no text.
    """
    keys = keys or Keys()
    for path in tokenizers:
        open_engine("auto", load_tokenizer(path), reporter=reporter)
    totals: dict[tuple[GroupKind, str], npt.NDArray[np.int64]] = {}
    count = partial(_count, tuple(tokenizers), keys, language_key)
    lines = StreamReader(list(inputs), reporter=reporter, allow_empty=True)  # no text is refused below
    for counted in ordered_map(count, lines, jobs=jobs, preload=("ptool.text.words",)):
        for line in counted.bad:
            raise InputError(line.message, where=f"{counted.path}:{line.number}")
        for key, numbers in counted.groups.items():
            totals[key] = totals.get(key, 0) + numbers
    if not totals or totals["all", "all"][1] == 0:
        raise InputError("there is no text to measure on", hint="are all documents empty?")
    order = sorted(totals, key=lambda key: (("all", "source", "language").index(key[0]), -int(totals[key][1]), key[1]))
    names = [str(path) for path in tokenizers]
    return [
        Fertility(
            tokenizer=name,
            by=by,
            group=group,
            documents=int(totals[by, group][0]),
            bytes=int(totals[by, group][1]),
            words=int(totals[by, group][2]),
            tokens=int(totals[by, group][3 + 3 * number]),
            unknown=int(totals[by, group][4 + 3 * number]),
            byte_fallback=int(totals[by, group][5 + 3 * number]),
        )
        for by, group in order
        for number, name in enumerate(names)
    ]


def _count(tokenizers: tuple[Path, ...], keys: Keys, language_key: str, lines: Lines) -> _Counted:
    """One batch, in a worker."""
    batch, bad = decode(lines, keys)
    columns = [np.ones(len(batch), dtype=np.int64), np.diff(batch.offsets), batch.words.num_words]
    for path in tokenizers:
        columns.extend(_tokens(path, batch))
    table = np.stack(columns, axis=1).astype(np.int64)
    groups: dict[tuple[GroupKind, str], npt.NDArray[np.int64]] = {("all", "all"): table.sum(axis=0)}
    by_language = msgspec.structs.replace(keys, source=language_key) if language_key != keys.source else keys
    kinds: list[tuple[GroupKind, list[str | None]]] = [
        ("source", batch.sources),
        ("language", decode(lines, by_language)[0].sources),
    ]
    for kind, values in kinds:
        names = np.array([NO_SOURCE if value is None else value for value in values], dtype=object)
        for name in set(names.tolist()):
            groups[kind, name] = table[names == name].sum(axis=0)
    return _Counted(groups, bad, lines.path)


def _tokens(path: Path, batch: Batch) -> tuple[npt.NDArray[np.int64], ...]:
    """Tokens, unknown and byte-fallback tokens of each document."""
    tokenizer, engine = _loaded(path)
    if isinstance(engine, CheckedEngine) and compare_first(engine, batch, FIRST_BYTES // 16) is not None:
        engine = engine.reference
    encoded = engine.encode(batch.text, batch.offsets)
    marks = np.zeros(tokenizer.vocab_size, dtype=np.int8)
    marks[tokenizer.byte_ids] = 2
    if tokenizer.unk_id is not None:
        marks[tokenizer.unk_id] = 1
    found = marks[encoded.ids]
    bounds = encoded.offsets
    sums = [np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(found == mark)])[bounds] for mark in (1, 2)]
    return np.diff(bounds), np.diff(sums[0]), np.diff(sums[1])


@lru_cache(maxsize=16)
def _loaded(path: Path) -> tuple[Tokenizer, Engine]:
    tokenizer = load_tokenizer(path)
    return tokenizer, open_engine("auto", tokenizer, reporter=SILENT)


def draw_fertility(found: Sequence[Fertility], target: Path, *, most: int = 24) -> None:
    """Bars of tokens per word, for the `most` largest languages (sources where there are no languages)."""
    from ptool.formats.atomic import replacing

    by = "language" if any(one.by == "language" and one.group != NO_SOURCE for one in found) else "source"
    groups = list(dict.fromkeys(one.group for one in found if one.by == by and one.words))[:most]
    tokenizers = list(dict.fromkeys(one.tokenizer for one in found))

    import matplotlib as mpl

    mpl.use("agg")  # no display is needed
    from matplotlib import pyplot as plt

    height = 0.8 / len(tokenizers)
    figure, axes = plt.subplots(
        figsize=(8, 1.2 + 0.3 * len(groups) * max(1, len(tokenizers) / 2)), layout="constrained"
    )
    for number, tokenizer in enumerate(tokenizers):
        values = {one.group: one.tokens_per_word for one in found if one.by == by and one.tokenizer == tokenizer}
        places = [row + number * height for row in range(len(groups))]
        axes.barh(places, [values[group] for group in groups], height=height, label=tokenizer)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(groups))], groups)
    axes.invert_yaxis()
    axes.set_xlabel("tokens per word (every ideograph is a word)")
    axes.set_ylabel(by)
    axes.legend(frameon=False)
    axes.grid(axis="x", alpha=0.3)
    kind = target.suffix.lstrip(".") or "png"
    with replacing(target) as file:
        figure.savefig(file, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None)
    plt.close(figure)
