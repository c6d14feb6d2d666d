"""A run as a picture: its loss and learning rate over steps, with what was undone and why.

Reads only the run folder's JSON lines. The accepted history is the line; steps that a kill or a rollback undid are
drawn faint behind it, so that one sees what they would have done to the curve.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ptool.errors import InputError
from ptool.formats.atomic import replacing


def draw_run(run: Path, target: Path, *, title: str = "") -> None:
    """Write `target` (PNG or SVG, by its suffix) from the files of `run`. Raises InputError without a step to draw."""
    steps = _read(run / "metrics.jsonl")
    if not steps:
        raise InputError("the run has no steps yet", where=str(run))
    undone = _read(run / "attempts.jsonl")
    events = _read(run / "events.jsonl")

    import matplotlib as mpl

    mpl.use("agg")  # no display is needed
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(
        2, 1, sharex=True, figsize=(9, 5.5), height_ratios=(3, 1), layout="constrained"
    )
    for number, stretch in enumerate(_stretches(undone)):
        label = "undone by a kill or a rollback" if number == 0 else None
        upper.plot(*_columns(stretch, "loss"), color="tab:red", alpha=0.45, linewidth=1, marker=".", label=label)
    upper.plot(*_columns(steps, "loss"), color="tab:blue", linewidth=1.6, label="accepted steps")
    _mark(upper, [e for e in events if e["event"] == "start" and e["attempt"] > 1], "tab:gray", "resumed")
    _mark(upper, [e for e in events if e.get("action") == "rollback"], "tab:orange", "spike: rolled back")
    upper.set_ylabel("loss (nats per token)")
    upper.grid(alpha=0.3)
    upper.legend(frameon=False)
    upper.set_title(title or run.name)
    lower.plot(*_columns(steps, "lr"), color="tab:green", linewidth=1.4)
    lower.set_ylabel("learning rate")
    lower.set_xlabel("optimiser step")
    lower.grid(alpha=0.3)
    with replacing(target) as file:
        figure.savefig(file, format=target.suffix.lstrip(".") or "png", dpi=130, metadata={"Software": "ptool"})
    plt.close(figure)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    whole = [line for line in path.read_bytes().split(b"\n")[:-1] if line]
    return [msgspec.json.decode(line) for line in whole]


def _columns(steps: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    return [step["step"] for step in steps], [step[name] for step in steps]


def _stretches(steps: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Undone steps in runs of consecutive ones, each drawn as a line of its own."""
    runs: list[list[dict[str, Any]]] = []
    for step in steps:
        if not isinstance(step.get("loss"), int | float) or "step" not in step:
            continue
        if runs and step["step"] == runs[-1][-1]["step"] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return runs


def _mark(axes: Any, events: list[dict[str, Any]], color: str, label: str) -> None:
    for number, event in enumerate(events):
        axes.axvline(event["step"], color=color, linestyle="--", linewidth=1, label=label if number == 0 else None)
