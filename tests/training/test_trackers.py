"""Dashboards: fed beside the files, never able to stop a run. With stand-ins, and the real packages where there are."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ptool.errors import StoppedAndSaved, UsageError
from ptool.training.attempt import State
from ptool.training.config import Metrics
from ptool.training.loop import Trainer
from ptool.training.trackers import IDS, Trackers, require_installed

SETTINGS = {"run": {"seed": 3}, "phase": [{"name": "all"}]}


class FakeWandb(ModuleType):
    """Remembers what it is told; `broken` fails at that call."""

    def __init__(self, broken: str = "") -> None:
        super().__init__("wandb")
        self.told: list[tuple[str, Any]] = []
        self.broken = broken
        self.id = "abc"

    def init(self, **options: Any) -> FakeWandb:
        self._note("init", options)
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self._note("define", (name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        self._note("log", values)

    def finish(self, exit_code: int) -> None:
        self._note("finish", exit_code)

    def _note(self, what: str, value: Any) -> None:
        if what == self.broken:
            raise RuntimeError("no network\nand more")
        self.told.append((what, value))


def use(monkeypatch: pytest.MonkeyPatch, wandb: FakeWandb) -> FakeWandb:
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return wandb


def test_steps_go_to_the_same_entry_again_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for attempt in (1, 2):
        wandb = use(monkeypatch, FakeWandb())
        trackers = Trackers(tmp_path, Metrics(wandb="offline"), SETTINGS, notice=pytest.fail)
        trackers.add(attempt, {"loss": 2.5, "lr": 0.1})
        trackers.close(finished=attempt == 2)
        options = wandb.told[0][1]
        assert (options["mode"], options["config"], options["name"]) == ("offline", SETTINGS, tmp_path.name)
        assert options.get("id") == (None if attempt == 1 else "abc")
        assert wandb.told[1:] == [
            ("define", ("step", None)),
            ("define", ("*", "step")),
            ("log", {"step": attempt, "loss": 2.5, "lr": 0.1}),
            ("finish", 2 - attempt),
        ]
    assert json.loads((tmp_path / IDS).read_text()) == {"wandb": "abc"}


@pytest.mark.parametrize("broken", ["init", "log"])
def test_a_dashboard_that_fails_is_one_notice_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    use(monkeypatch, FakeWandb(broken))
    said: list[str] = []
    trackers = Trackers(tmp_path, Metrics(wandb="online"), SETTINGS, notice=said.append)
    for step in range(3):
        trackers.add(step, {"loss": 1.0})
    trackers.close(finished=True)
    assert len(said) == 1
    assert said[0].startswith("wandb is left out")
    assert said[0].endswith("RuntimeError: no network")


def test_a_dashboard_that_hangs_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = use(monkeypatch, FakeWandb())
    over, returned = threading.Event(), threading.Event()
    wandb.log = lambda values: (over.wait(30), returned.set())  # type: ignore[method-assign]
    monkeypatch.setattr("ptool.training.trackers.QUEUE_LENGTH", 2)
    monkeypatch.setattr("ptool.training.trackers.CLOSE_SECONDS", 0.05)
    trackers = Trackers(tmp_path, Metrics(wandb="offline"), SETTINGS, notice=pytest.fail)
    for step in range(100):
        trackers.add(step, {"loss": 1.0})
    trackers.close(finished=False)
    assert not returned.is_set(), "a hundred steps and the end waited for the dashboard"
    over.set()


def test_a_stopped_run_closes_its_dashboards_before_any_rank_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher kills what lives five seconds after the first rank has ended: a dashboard may need longer."""
    wandb = use(monkeypatch, FakeWandb())
    order: list[str] = []
    trackers = Trackers(tmp_path, Metrics(wandb="offline"), SETTINGS, notice=pytest.fail)
    trackers.add(1, {"loss": 1.0})

    def close(*, finished: bool) -> None:
        trackers.close(finished=finished)
        order.append(f"{len(wandb.told)} things told")

    trainer: Any = Trainer.__new__(Trainer)
    trainer.run, trainer._state = tmp_path, State(step=7)
    trainer._stop = SimpleNamespace(reason="SIGTERM")
    trainer._saver = SimpleNamespace(save_now=lambda *_: None)
    trainer.timeline = SimpleNamespace(record=lambda *_, **__: None, close=lambda: None)
    trainer.instruments = SimpleNamespace(close=close)
    trainer.ranks = SimpleNamespace(gather=lambda value: [None, value], barrier=lambda: order.append("all go on"))
    with pytest.raises(StoppedAndSaved, match="stopped and saved at step 7: SIGTERM"):
        trainer._stop_here()
    trainer.close(finished=False)
    told = f"{len(wandb.told)} things told"
    assert order == [told, "all go on", told]


def test_nothing_is_imported_or_written_unless_asked_for(tmp_path: Path) -> None:
    trackers = Trackers(tmp_path, Metrics(), SETTINGS, notice=pytest.fail)
    trackers.add(1, {"loss": 1.0})
    trackers.close(finished=True)
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_asked_for_and_not_installed_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_installed(Metrics())
    for metrics in (Metrics(wandb="offline"), Metrics(mlflow="runs/mlruns")):
        with pytest.raises(UsageError, match="not installed"):
            require_installed(metrics)


def test_mlflow_gets_parameters_once_and_metrics_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []

    class Client:
        def __init__(self, tracking_uri: str) -> None:
            told.append(("at", tracking_uri))

        def __getattr__(self, name: str) -> Any:
            def call(*values: Any, **named: Any) -> Any:
                told.append((name, *values, *named.values()))
                info = SimpleNamespace(run_id="r1")
                return None if name == "get_experiment_by_name" else SimpleNamespace(info=info)

            return call

    mlflow, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    mlflow.MlflowClient = Client  # type: ignore[attr-defined]
    entities.Metric = lambda name, value, when, step: (name, value, step)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for _ in range(2):
        trackers = Trackers(tmp_path, Metrics(mlflow=str(tmp_path / "ml runs")), SETTINGS, notice=pytest.fail)
        trackers.add(7, {"loss": 2.0, "validation/维基 (en)?": 3.0, "validation//data/../x": 4.0})
        trackers.close(finished=True)
    names = [call[0] for call in told]
    assert told[0] == ("at", (tmp_path / "ml runs").as_uri())
    assert ("log_param", "r1", "run.seed", "3") in told
    named = [("loss", 2.0, 7), ("validation/维基 _en__", 3.0, 7), ("validation/data/x", 4.0, 7)]
    assert ("log_batch", "r1", named) in told
    assert names.count("create_run") == 1
    assert names.count("log_batch") == 2
    assert told[-1] == ("set_terminated", "r1", "FINISHED")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_real_package_takes_what_it_is_given_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    store = tmp_path / "mlruns"
    metrics = Metrics(wandb="offline") if name == "wandb" else Metrics(mlflow=str(store))
    for attempt in range(2):
        trackers = Trackers(tmp_path, metrics, SETTINGS, notice=pytest.fail)
        values = {"loss": 2.0 + attempt, "validation/(no source)": 1.0, "validation//data/../x": 1.0}
        trackers.add(3 - attempt, values)  # the second start is behind: a rollback
        trackers.close(finished=True)
    if name == "wandb":
        assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 2
    else:
        lines = next(store.glob("*/*/metrics/loss")).read_text().splitlines()
        assert [line.split()[1:] for line in lines] == [["2.0", "3"], ["3.0", "2"]]
