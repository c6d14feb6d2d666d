"""Weights & Biases and MLflow, when they are asked for: the same numbers as metrics.jsonl, in somebody's dashboard.

    [metrics]
    wandb = "offline"           or "online"; needs `pip install wandb`
    mlflow = "runs/mlruns"      a folder, or the address of a server; needs `pip install mlflow-skinny`

Nothing is sent anywhere that was not asked for: "offline" writes below the run folder, for `wandb sync`. Neither is a
dependency, and neither can stop or slow a run: they are fed by a thread of rank 0, what they raise is one notice and
the end of that tracker, and a queue that is full loses numbers, which metrics.jsonl has. A resumed run goes on in the
same dashboard entry, whose id is kept in RUN/trackers.json; steps that a rollback undid are written over by step.
"""

from __future__ import annotations

import importlib
import os
import queue
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ptool.errors import UsageError
from ptool.formats.atomic import write_bytes
from ptool.training.config import Metrics, Table

IDS = "trackers.json"
QUEUE_LENGTH = 10_000  # lines; some minutes of small steps
CLOSE_SECONDS = 30.0  # for what is still queued when the run ends
_MODULES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}


class Tracker(Protocol):
    """One dashboard."""

    id: str

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a step, by name."""

    def close(self, *, finished: bool) -> None:
        """No more will come."""


def require_installed(metrics: Metrics) -> None:
    """Raise UsageError for a tracker that is asked for and not installed: before a run starts, not during it."""
    import importlib.util

    for name in _asked(metrics):
        if importlib.util.find_spec(name) is None:
            hint = f"pip install {_MODULES[name]}, or leave metrics.{name} out"
            raise UsageError(f"metrics.{name} is set, and {name} is not installed", hint=hint)


class Trackers:
    """The dashboards of a run, fed from a queue. Made on rank 0 only."""

    def __init__(self, run: Path, metrics: Metrics, settings: Table, notice: Callable[[str], None]) -> None:
        self._run = run
        self._notice = notice
        self._makers: dict[str, Callable[[str | None], Tracker]] = {}
        if metrics.wandb != "off":
            self._makers["wandb"] = lambda old: WandbTracker(run, metrics.wandb, settings, old)
        if metrics.mlflow:
            self._makers["mlflow"] = lambda old: MlflowTracker(run, metrics.mlflow, settings, old)
        self._waiting: queue.Queue[tuple[int, dict[str, float]] | bool] = queue.Queue(QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._work, name="trackers", daemon=True)
        if self._makers:
            self._thread.start()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Hand over the values of a step; returns at once."""
        if self._makers:
            with suppress(queue.Full):
                self._waiting.put_nowait((step, dict(values)))

    def close(self, *, finished: bool) -> None:
        """Let what is queued be written, for at most `CLOSE_SECONDS`."""
        if self._makers:
            with suppress(queue.Full):
                self._waiting.put(finished, timeout=CLOSE_SECONDS)
            self._thread.join(timeout=CLOSE_SECONDS)
            self._makers = {}

    def _work(self) -> None:
        live = self._open()
        while True:
            item = self._waiting.get()
            for name, tracker in list(live.items()):
                try:
                    if isinstance(item, bool):
                        tracker.close(finished=item)
                    else:
                        tracker.add(*item)
                except Exception as error:  # noqa: BLE001 (a dashboard must not end what it shows)
                    del live[name]
                    self._notice(f"{name} is left out from here on: {_first_line(error)}")
            if isinstance(item, bool):
                return

    def _open(self) -> dict[str, Tracker]:
        ids: dict[str, str] = {}
        with suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
            ids = msgspec.json.decode((self._run / IDS).read_bytes(), type=dict[str, str])
        live: dict[str, Tracker] = {}
        for name, make in self._makers.items():
            try:
                live[name] = make(ids.get(name))
                ids[name] = live[name].id
            except Exception as error:  # noqa: BLE001 (as above)
                self._notice(f"{name} is left out: {_first_line(error)}")
        with suppress(OSError):
            write_bytes(self._run / IDS, msgspec.json.encode(ids) + b"\n")
        return live


class WandbTracker:
    """A run of Weights & Biases. Its own step counter only goes up, so ours is a value, and its axis."""

    def __init__(self, run: Path, mode: str, settings: Table, old: str | None) -> None:
        wandb: Any = importlib.import_module("wandb")
        folder = run / "wandb"
        folder.mkdir(exist_ok=True)
        known = {"id": old, "resume": "allow"} if old else {}
        self._entry = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ptool"),
            name=run.resolve().name,
            dir=str(run),
            mode=mode,
            config=settings,
            **known,
        )
        self.id = str(self._entry.id)
        self._entry.define_metric("step")
        self._entry.define_metric("*", step_metric="step")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a step, by name."""
        self._entry.log({"step": step, **values})

    def close(self, *, finished: bool) -> None:
        """No more will come."""
        self._entry.finish(exit_code=0 if finished else 1)


class MlflowTracker:
    """A run of MLflow, by its client: the module's functions hold one run for the whole process."""

    def __init__(self, run: Path, where: str, settings: Table, old: str | None) -> None:
        mlflow: Any = importlib.import_module("mlflow")
        address = where if "://" in where else Path(where).resolve().as_uri()
        if "://" not in where:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for a database otherwise
        self._client = mlflow.MlflowClient(tracking_uri=address)
        self._metric: Any = importlib.import_module("mlflow.entities").Metric
        if old is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ptool")
            found = self._client.get_experiment_by_name(name)
            experiment = self._client.create_experiment(name) if found is None else found.experiment_id
            old = self._client.create_run(experiment, run_name=run.resolve().name).info.run_id
            for section, table in settings.items():
                for key, value in table.items() if isinstance(table, dict) else [("", table)]:
                    self._client.log_param(old, f"{section}.{key}".rstrip("."), str(value)[:500])
        else:
            self._client.update_run(old, status="RUNNING")
        self.id = old

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a step, by name."""
        import time

        now = int(time.time() * 1000)
        metrics = [self._metric(_mlflow_name(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self, *, finished: bool) -> None:
        """No more will come."""
        self._client.set_terminated(self.id, status="FINISHED" if finished else "KILLED")


def _mlflow_name(name: str) -> str:
    """A name that MLflow takes: one that it does not would lose all numbers, and a source may be called anything."""
    parts = re.sub(r"[^/\w.\- :]", "_", name).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))[:250]


def _asked(metrics: Metrics) -> list[str]:
    return [name for name, on in (("wandb", metrics.wandb != "off"), ("mlflow", bool(metrics.mlflow))) if on]


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
