"""Pictures of runs, read back from their SVG, and the command that draws them."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from ptool.errors import InputError, UsageError
from ptool.training import picture
from tests.training import tiny

NUM_STEPS = 60


def make_run(folder: Path, *, spike: bool = False, steps: int = NUM_STEPS) -> Path:
    """The JSON lines of a run whose loss falls; with a refused step, a rollback from 40 to 20, and a resume at 50."""
    folder.mkdir(parents=True)

    def record(step: int, attempt: int = 1, **more: object) -> str:
        loss = 2 + 3 * math.exp(-step / 20)
        fields = {"step": step, "tokens": step * 256, "loss": loss, "lr": 1e-3, "grad_norm": 1.0, "attempt": attempt}
        return json.dumps({**fields, "tokens_per_second": 100.0, "samples": [0, 8], **more}) + "\n"

    (folder / "metrics.jsonl").write_text("".join(record(step) for step in range(1, steps + 1)))
    if spike:
        undone = [record(step) for step in range(21, 41)]
        refused = [record(41, loss=900.0, refused="high"), record(41, loss=None, grad_norm=None, refused="not finite")]
        (folder / "attempts.jsonl").write_text("".join(undone + refused))
        events = [
            {"event": "start", "attempt": 1, "step": 0},
            {"event": "decision", "action": "skip", "step": 40},
            {"event": "decision", "action": "rollback", "step": 40, "target": 20},
            {"event": "start", "attempt": 3, "step": 50},
        ]
        (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def words(svg: bytes) -> list[str]:
    """Every text in a picture."""
    return [(element.text or "").strip() for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]


def test_one_run_shows_what_was_undone_refused_skipped_rolled_back_and_resumed(tmp_path: Path) -> None:
    shown = words(picture.draw([picture.read_run(make_run(tmp_path / "a", spike=True))], format="svg"))
    for what in ("accepted steps", "undone by a kill or a rollback", "refused before the update", "resumed"):
        assert what in shown
    assert {"spike: batch skipped", "spike: rolled back"} <= set(shown)
    assert {"loss (nats per token)", "learning rate", "gradient norm", "tokens per second"} <= set(shown)
    clean = words(picture.draw([picture.read_run(make_run(tmp_path / "b"))], format="svg"))
    assert not any("spike" in word or "undone" in word for word in clean)


def test_held_out_losses_are_drawn_in_all_and_by_source(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    of_source = {"books": {"loss": 3.0, "num_targets": 5}, "web": {"loss": 4.0, "num_targets": 5}}
    lines = [{"step": step, "tokens": step * 256, "loss": 3.5, "sources": of_source} for step in (20, 40, 60)]
    (run / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = words(picture.draw([picture.read_run(run)], format="svg"))
    assert {"held out", "held out: books", "held out: web"} <= set(shown)
    other = make_run(tmp_path / "b")
    both = words(picture.draw([picture.read_run(run), picture.read_run(other)], format="svg"))
    assert not any("held out" in word for word in both), "dashed in the run's own colour, which has a label already"


def test_a_refused_loss_does_not_push_the_accepted_curve_into_a_corner(tmp_path: Path) -> None:
    shown = words(picture.draw([picture.read_run(make_run(tmp_path / "a", spike=True))], format="svg"))
    assert "800" not in shown  # a tick that an axis up to 900 would have


def test_runs_over_each_other_are_named_also_where_their_names_are_odd(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, spike=True) for name in ("x/same", "y/same", "_hidden", "$a$b")]
    shown = words(picture.draw([picture.read_run(folder) for folder in folders], format="svg"))
    assert {"same (1)", "same (2)", "./_hidden", "$a$b", "spike: rolled back"} <= set(shown)


def test_decisions_stand_at_their_tokens_also_where_the_batch_grew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "a", spike=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    grown = [{**line, "tokens": 10 * line["step"] if line["step"] <= 40 else 1000 * line["step"]} for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in grown))
    places: set[float] = set()
    monkeypatch.setattr("matplotlib.axes.Axes.axvline", lambda self, place, **style: places.add(place))
    picture.draw([picture.read_run(run)], format="svg", x="tokens")
    assert places == {400, 50_000}, "the decisions after step 40, the resume after step 50"
    places.clear()
    picture.draw([picture.read_run(run)], format="svg")
    assert places == {40, 50}


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_run_gives_the_same_bytes_whatever_the_users_settings(kind: picture.Format, tmp_path: Path) -> None:
    import matplotlib as mpl

    run = picture.read_run(make_run(tmp_path / "a", spike=True))
    first = picture.draw([run], format=kind)
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30}):
        assert picture.draw([run], format=kind) == first
    assert first.startswith(b"\x89PNG" if kind == "png" else b"<?xml")


def test_a_long_line_is_thinned_and_keeps_its_spike() -> None:
    points = [(float(step), 2.0) for step in range(100_000)]
    points[54_321] = (54_321.0, 50.0)
    thin = picture._thinned(points)
    assert len(thin) <= picture.MOST_POINTS
    assert (54_321.0, 50.0) in thin
    assert thin == sorted(thin)
    assert picture._thinned(points[:100]) == points[:100]


def test_no_step_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no steps"):
        picture.read_run(tmp_path / "empty")
    with pytest.raises(UsageError, match=r"neither \.png nor \.svg"):
        picture.format_of(Path("loss.gif"))


def test_the_command_writes_a_file_or_stdout_and_reads_the_line_of_train(tmp_path: Path) -> None:
    run = make_run(tmp_path / "with space", spike=True)
    done = tiny.run("plot", run, "--x", "tokens", "-o", tmp_path / "loss.svg")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "tokens" in words((tmp_path / "loss.svg").read_bytes())
    planned = tiny.run("plot", run, "--dry-run", "--json", "-o", tmp_path / "none.png")
    assert json.loads(planned.stdout)["runs"] == [
        {"run": "with space", "steps": NUM_STEPS, "undone": 20, "refused": 2, "marks": 3}
    ]
    assert not (tmp_path / "none.png").exists()
    assert tiny.run("plot", run, "-o", tmp_path / "loss.pdf").returncode == 2
