"""Measurements go back with the history, once, whenever a kill falls."""

from __future__ import annotations

from pathlib import Path

from ptool.training.series import Series, undone_file_of
from tests.training import tiny


def steps(path: Path) -> list[int]:
    return [record["step"] for record in tiny.lines(path)]


def test_lines_after_the_step_gone_back_to_move_to_the_other_file(tmp_path: Path) -> None:
    series = Series(tmp_path, "validation")
    assert series.rewind(0) == 0
    assert list(tmp_path.iterdir()) == [], "nothing is made before there is something to say"
    for step in (10, 20, 30):
        series.append({"step": step, "attempt": 1})
    assert series.has(20)
    assert series.rewind(15) == 2
    assert not series.has(20)
    series.append({"step": 20, "attempt": 2})
    assert series.rewind(20) == 0
    assert steps(series.path) == [10, 20]
    assert steps(tmp_path / undone_file_of("validation")) == [20, 30]


def test_a_kill_between_moving_and_cutting_doubles_nothing(tmp_path: Path) -> None:
    series = Series(tmp_path, "layers")
    for step in (10, 20):
        series.append({"step": step, "attempt": 1})
    whole = series.path.read_bytes()
    series.rewind(10)
    series.close()
    series.path.write_bytes(whole + b'{"step": 30, "att')
    again = Series(tmp_path, "layers")
    assert again.rewind(10) == 1
    assert steps(series.path) == [10]
    assert steps(tmp_path / undone_file_of("layers")) == [20]
