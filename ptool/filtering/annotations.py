"""Measurements as fields of the documents, and what thresholds on them would drop.

`annotated` writes what each rule measured into the object `measured` of a line, so that a threshold can be looked at
again and again without the text: `sweep` reads that object alone (the rest of a line is skipped, 1 GB/s) and counts how
many documents lie below and above each of some values. `--rule field:measured.NAME:min=` then filters by it. Memory is
8 bytes per document and rule that is swept.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.errors import BadDocument, InputError
from ptool.filtering.recipe import Recipe, load_rule
from ptool.formats.ledger import splice
from ptool.formats.streams import Lines, StreamReader
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import Batch, decode
from ptool.text.fields import read_fields

MEASURED = "measured"
"""The field with what was measured: an object, rule by rule."""

_FIELD = "field:"
_SHARES = (0.0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)


class Point(msgspec.Struct, frozen=True):
    """A threshold: documents whose value is less, which it would drop as `min`, and more, as `max`."""

    threshold: float
    below: int
    above: int
    note: str = ""


class Sweep(msgspec.Struct, frozen=True):
    """A rule's values in `num_documents` documents; `num_missing` others have none."""

    rule: str
    num_documents: int
    num_missing: int
    points: list[Point]


def names_of(recipe: Recipe) -> list[str]:
    """The rules' names in `measured`, in the recipe's order; a name that comes again gets a number."""
    names: list[str] = []
    for _, step in recipe.rules:
        times = sum(name == step.name or name.startswith(f"{step.name}#") for name in names)
        names.append(f"{step.name}#{times + 1}" if times else step.name)
    return names


def annotated(batch: Batch, recipe: Recipe, values: npt.NDArray[np.float64]) -> bytes:
    """All lines of the batch with `measured` in front; `values` is float64[num_steps, n]."""
    names = names_of(recipe)
    columns = values[[position for position, _ in recipe.rules]].T.tolist()
    before = batch.fields(MEASURED)
    lines = []
    for index, row in enumerate(columns):
        measured = {name: value for name, value in zip(names, row, strict=True) if math.isfinite(value)}
        line = batch.line(index) if before[index] is None else _without(batch.line(index))
        lines.append(splice(line, b'"measured":' + msgspec.json.encode(measured)))
    return b"".join(lines)


def sweep(inputs: Sequence[str | Path], names: Sequence[str], *, reporter: Reporter = SILENT) -> list[Sweep]:
    """What thresholds would drop, for each rule in `names` (or `field:NAME`), from annotated documents.

    Raises UsageError for an unknown rule, InputError where no document has the value.
    """
    for name in names:
        if not name.startswith(_FIELD):
            load_rule(name.partition("#")[0])
    paths = [name.removeprefix(_FIELD) if name.startswith(_FIELD) else f"{MEASURED}.{name}" for name in names]
    found: list[list[npt.NDArray[np.float64]]] = [[] for _ in names]
    for lines in StreamReader(inputs, reporter=reporter, allow_empty=True):
        for index, values in enumerate(_values(lines, paths)):
            found[index].append(values)
    return [_sweep(name, np.concatenate([*columns, np.empty(0)])) for name, columns in zip(names, found, strict=True)]


def sweep_rows(found: Sweep) -> list[list[str]]:
    """A line for each threshold: the value, what it drops as `min` and as `max`, and what it is known as."""
    return [
        [
            f"{point.threshold:.6g}",
            f"{100 * point.below / found.num_documents:.2f} %",
            f"{100 * point.above / found.num_documents:.2f} %",
            point.note,
        ]
        for point in found.points
    ]


def _values(lines: Lines, paths: Sequence[str]) -> list[npt.NDArray[np.float64]]:
    """The numbers under each path, line by line; blank lines left out, and no text looked at."""
    kept = [line + b"\n" for line in lines.data.split(b"\n") if line.strip()]
    starts = np.array([0, *itertools.accumulate(map(len, kept))], dtype=np.int64)
    data = b"".join(kept)
    try:
        columns = [read_fields(data, starts, path) for path in paths]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # some line is no document
        _, bad = decode(lines)
        raise BadDocument(bad[0].message, where=f"{lines.path}:{bad[0].number}") from None
    return [np.array([_number(value) for value in column], dtype=np.float64) for column in columns]


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or abs(value) > sys.float_info.max:  # of integers, most floats cannot hold
        return math.nan
    return float(value)


def _sweep(name: str, values: npt.NDArray[np.float64]) -> Sweep:
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        what = "a number there" if name.startswith(_FIELD) else f"{MEASURED}.{name}"
        raise InputError(f"no document has {what}", where=name, hint="ptool filter … --annotate writes measurements")
    bounds = {} if name.startswith(_FIELD) else _default_bounds(name)
    quantiles = np.quantile(known, _SHARES, method="inverted_cdf").tolist()
    points = [
        Point(
            threshold=threshold,
            below=int(np.searchsorted(known, threshold, side="left")),
            above=len(known) - int(np.searchsorted(known, threshold, side="right")),
            note=bounds.get(threshold, ""),
        )
        for threshold in sorted({*quantiles, *bounds})
    ]
    return Sweep(name, len(known), len(values) - len(known), points)


def _default_bounds(name: str) -> dict[float, str]:
    accept = load_rule(name.partition("#")[0])().accept
    found: dict[float, str] = {}
    for side, bound in (("min", accept.min), ("max", accept.max)):
        if bound is not None:
            found[bound] = f"the default {side}"
    return found


def _without(line: bytes) -> bytes:
    """The line without the measurements of an earlier run."""
    fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    del fields[MEASURED]
    return msgspec.json.encode(fields) + b"\n"
