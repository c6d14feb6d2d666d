"""Runs as a picture: loss, learning rate, gradient norm and throughput, with what was undone, refused, and why.

Reads only a run folder's JSON lines, of a run that is finished, dead or still going. One run: the accepted history is
the line, held-out losses are dashed, steps that a kill or a rollback undid are drawn faint behind it, and decisions
stand where they were taken. Several runs: one colour each in the same panels, their decisions as marks in that colour,
no undone steps.

The same folders give the same bytes (with the same matplotlib): no date is written, SVG ids come from a fixed salt, and
the user's own matplotlib settings do not count. A line of more than `MOST_POINTS` steps is drawn through the lowest and
the highest of each stretch, so no spike is lost and an SVG stays small. Drawing takes about a second.
"""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ptool.errors import InputError, UsageError
from ptool.formats.artefacts import find_artefact
from ptool.formats.atomic import write_bytes
from ptool.training.history import ATTEMPTS, EVENTS, METRICS, Record, read_lines
from ptool.training.series import VALIDATION, file_of

Format = Literal["png", "svg"]
Axis = Literal["step", "tokens"]

MOST_POINTS = 4000  # of one line; a figure is 1,200 dots wide
MOST_SOURCES = 6  # whose held-out losses are drawn apart
_COLORS = ("tab:blue", "tab:red", "tab:green", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan")
_PANELS = (
    ("loss", "loss (nats per token)", "linear"),
    ("lr", "learning rate", "linear"),
    ("grad_norm", "gradient norm", "log"),
    ("tokens_per_second", "tokens per second", "linear"),
)
_MARKS = {  # what: colour where one run is drawn, line style, marker where several are
    "spike: batch skipped": ("tab:purple", ":", "v"),
    "spike: rolled back": ("tab:orange", "--", "<"),
    "resumed": ("tab:gray", "--", ">"),
    "stopped by the spike policy": ("tab:red", "-", "X"),
}


class RunHistory(NamedTuple):
    """What is drawn of one run."""

    name: str
    steps: list[Record]
    undone: list[Record]
    refused: list[Record]
    marks: list[tuple[str, int]]
    """(what, the step it was decided after), `what` being a key of the legend."""
    validation: list[Record]
    """The loss on held-out rows, in all and by source (validation.py)."""


def read_run(run: Path) -> RunHistory:
    """The history in a run folder. Raises InputError where no step was taken yet."""
    steps = list(read_lines(run / METRICS))
    if not steps:
        raise InputError("there are no steps to draw", where=str(run), hint="is this a run folder of ptool train?")
    attempts = list(read_lines(run / ATTEMPTS))
    return RunHistory(
        name=run.resolve().name,
        steps=steps,
        undone=[record for record in attempts if "refused" not in record],
        refused=[record for record in attempts if "refused" in record],
        marks=[mark for event in read_lines(run / EVENTS) if (mark := _mark_of(event)) is not None],
        validation=list(read_lines(run / file_of(VALIDATION))),
    )


def draw_run(run: Path, target: Path, *, title: str = "") -> None:
    """Write a picture of one run to `target`, PNG or SVG by its suffix. Raises InputError without a step to draw."""
    write_bytes(target, draw([read_run(run)], format=format_of(target), title=title))


def plot(
    runs: Sequence[str], target: Path | None, *, x: Axis = "step", title: str = "", dry_run: bool = False
) -> list[RunHistory]:
    """Draw runs, given as folders or as the line of `train` on stdin ("-"), into `target`, or as PNG on stdout.

    Returns what was drawn; with `dry_run`, what would be. Raises UsageError where stdout is a terminal.
    """
    if target is None and not dry_run and os.isatty(1):
        raise UsageError("a picture is bytes, and stdout is a terminal", hint="-o loss.png writes a file")
    kind: Format = "png" if target is None else format_of(target)
    histories = [read_run(find_artefact(run)) for run in runs]
    if not dry_run:
        data = draw(histories, format=kind, x=x, title=title)
        if target is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            write_bytes(target, data)
    return histories


def format_of(target: Path) -> Format:
    """The picture format that a file name asks for. Raises UsageError for a suffix that is neither."""
    suffix = target.suffix.lower()
    if suffix == ".png":
        return "png"
    if suffix == ".svg":
        return "svg"
    raise UsageError(f"'{target.name}' is neither .png nor .svg", hint=f"for example -o {target.stem}.svg")


def draw(runs: Sequence[RunHistory], *, format: Format = "png", x: Axis = "step", title: str = "") -> bytes:
    """The picture of one run, or of several over each other."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter, StrMethodFormatter

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"svg.hashsalt": "ptool", "text.parse_math": False, "svg.fonttype": "none"})
        figure = Figure(figsize=(9.5, 9), layout="constrained")
        panels = figure.subplots(len(_PANELS), 1, sharex=True, height_ratios=(3, 1, 1.5, 1))
        for number, run in enumerate(runs):
            color = _COLORS[number % len(_COLORS)]
            for axes, (column, _, scale) in zip(panels, _PANELS, strict=True):
                if len(runs) == 1:
                    _draw_behind(axes, run, column, x)
                label = "accepted steps" if len(runs) == 1 else _label(run, runs)
                points = _thinned(_points(run.steps, column, x, positive=scale == "log"))
                axes.plot(*zip(*points, strict=True), color=color, linewidth=1.4, label=label) if points else None
                if column == "loss":
                    _draw_validation(axes, run, x, alone=len(runs) == 1, color=color)
            _draw_marks(panels, run, x, alone=len(runs) == 1, color=color)
        for axes, (column, name, scale) in zip(panels, _PANELS, strict=True):
            axes.set_yscale(scale)
            if scale == "log":  # matplotlib's own labels are formulas, and formulas are off: names may hold a $
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
            axes.set_ylabel(name)
            axes.grid(alpha=0.3)
            axes.margins(x=0.02)
            if column in ("tokens_per_second", "lr"):
                axes.set_ylim(bottom=0)
            if column == "loss":
                _fit_to_accepted(axes, runs)
                _draw_refused(axes, runs[0], column, x) if len(runs) == 1 else None
            if column == "grad_norm" and len(runs) == 1:
                _draw_refused(axes, runs[0], column, x)
        panels[0].legend(frameon=False, fontsize="small")
        panels[0].set_title(title or (runs[0].name if len(runs) == 1 else f"{len(runs)} runs"))
        panels[-1].set_xlabel("optimiser step" if x == "step" else "tokens")
        buffer = io.BytesIO()
        metadata = {"Software": "ptool"} if format == "png" else {"Creator": "ptool", "Date": None}
        figure.savefig(buffer, format=format, dpi=130, metadata=metadata)
    return buffer.getvalue()


def _mark_of(event: Record) -> tuple[str, int] | None:
    kind, action = event.get("event"), event.get("action")
    if kind == "start" and event.get("attempt", 1) > 1:
        return "resumed", event["step"]
    if kind == "decision" and action == "skip":
        return "spike: batch skipped", event["step"]
    if kind == "decision" and action == "rollback":
        return "spike: rolled back", event["step"]
    if kind == "halt":
        return "stopped by the spike policy", event["step"]
    return None


def _draw_validation(axes: Any, run: RunHistory, x: Axis, *, alone: bool, color: str) -> None:
    """The held-out loss: dashed in the run's colour; for one run the sources too, where there are a few."""
    points = _points(run.validation, "loss", x)
    if not points:
        return
    style = {"linestyle": "--", "linewidth": 1.2, "marker": "o", "markersize": 3}
    axes.plot(
        *zip(*points, strict=True), color="black" if alone else color, label="held out" if alone else None, **style
    )
    names = sorted({name for record in run.validation for name in record["sources"]})
    if not alone or not 1 < len(names) <= MOST_SOURCES:
        return
    for number, name in enumerate(names):
        of_source = [
            (record[x], record["sources"][name]["loss"]) for record in run.validation if name in record["sources"]
        ]
        hue = _COLORS[(number + 2) % len(_COLORS)]
        axes.plot(*zip(*of_source, strict=True), color=hue, linewidth=0.9, linestyle="--", label=f"held out: {name}")


def _draw_behind(axes: Any, run: RunHistory, column: str, x: Axis) -> None:
    """Undone steps, faint."""
    for number, stretch in enumerate(_stretches(run.undone)):
        points = _thinned(_points(stretch, column, x))
        if points:
            label = "undone by a kill or a rollback" if number == 0 else None
            marker = "." if len(points) < 20 else None
            axes.plot(*zip(*points, strict=True), color="tab:red", alpha=0.45, linewidth=1, marker=marker, label=label)


def _draw_refused(axes: Any, run: RunHistory, column: str, x: Axis) -> None:
    """Crosses where steps were refused; at the upper edge where their value lies above the panel."""
    points = _points(run.refused, column, x)
    if points:
        top = axes.get_ylim()[1]
        xs, ys = [place for place, _ in points], [min(y, top) for _, y in points]
        label = "refused before the update"
        axes.plot(xs, ys, color="tab:red", linestyle="", marker="x", clip_on=False, zorder=5, label=label)


def _draw_marks(panels: Sequence[Any], run: RunHistory, x: Axis, *, alone: bool, color: str) -> None:
    """Decisions and resumes: lines through all panels for one run, marks on the loss curve for several."""
    places = {record["step"]: (record[x], record["loss"]) for record in run.steps}
    known = {record["step"]: record[x] for record in (*run.undone, *run.steps)}  # steps are not all of one size
    usual = run.steps[-1][x] / run.steps[-1]["step"]
    for what, (own_color, style, marker) in _MARKS.items():
        steps = sorted({step for found, step in run.marks if found == what})
        if not steps:
            continue
        if alone:
            for axes in panels:
                for number, step in enumerate(steps):
                    label = what if number == 0 else None
                    axes.axvline(
                        known.get(step, step * usual), color=own_color, linestyle=style, linewidth=1, label=label
                    )
        elif found := [places[step] for step in steps if step in places]:
            labelled = panels[0].get_legend_handles_labels()[1]
            shape = {"marker": marker, "linestyle": "", "markersize": 9, "markeredgecolor": "black", "zorder": 5}
            panels[0].plot(*zip(*found, strict=True), color=color, **shape)
            if what not in labelled:
                panels[0].plot([], [], color="lightgray", label=what, **shape)


def _fit_to_accepted(axes: Any, runs: Sequence[RunHistory]) -> None:
    """Let no refused or undone step push the accepted curve into a corner; what is above stays at the upper edge."""
    losses = [y for run in runs for _, y in _points([*run.steps, *run.validation], "loss", "step")]
    if losses:
        low, high = min(losses), max(losses)
        margin = 0.08 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + 2 * margin)


def _points(steps: Sequence[Record], column: str, x: Axis, *, positive: bool = False) -> list[tuple[float, float]]:
    """What can be drawn: a value that was not finite is null in the files."""
    found = [(record[x], record.get(column)) for record in steps if x in record]
    return [(place, y) for place, y in found if isinstance(y, int | float) and (y > 0 or not positive)]


def _thinned(points: list[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """The lowest and the highest point of each of `most`/2 stretches, in order."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most // 2))
    kept = []
    for start in range(0, len(points), size):
        stretch = range(start, min(start + size, len(points)))
        ends = {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
        kept += [points[i] for i in sorted(ends)]
    return kept


def _label(run: RunHistory, runs: Sequence[RunHistory]) -> str:
    """The run's name; numbered where two runs share it. matplotlib leaves names that begin with _ out of legends."""
    same = [other for other in runs if other.name == run.name]
    name = f"./{run.name}" if run.name.startswith("_") else run.name
    return name if len(same) == 1 else f"{name} ({[other is run for other in same].index(True) + 1})"


def _stretches(steps: Sequence[Record]) -> list[list[Record]]:
    """Undone steps in runs of consecutive ones, each drawn as a line of its own."""
    runs: list[list[Record]] = []
    for step in steps:
        if runs and step["step"] == runs[-1][-1]["step"] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return runs
