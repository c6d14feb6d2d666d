"""A run that adds numbers, on one rank without DeepSpeed: what saves, anchors and rollbacks are tried on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from ptool.formats import checkpoints as folders
from ptool.models.tensor_files import Tensors
from ptool.training import saving
from ptool.training.checkpoints import Position
from ptool.training.config import Checkpoint, RunConfig, Spike
from ptool.training.history import Ledger, read_lines
from ptool.training.spikes import Window


class Alone:
    """One rank's view of itself."""

    is_first, rank, size = True, 0, 1

    def sum(self, values):
        return [float(value) for value in values]

    def gather(self, value):
        return [msgspec.json.decode(msgspec.json.encode(value))]

    def together(self, work):
        return work()

    def object_from_first(self, value, kind):
        return msgspec.json.decode(msgspec.json.encode(value), type=kind)

    def on_first(self, work, kind):
        return self.object_from_first(work(), kind)

    def barrier(self) -> None: ...


class Held:
    """The state of an engine: one weight of which a part lies here, its moment, its step."""

    def __init__(self) -> None:
        self.weight, self.moment, self.step = torch.zeros(4, 2), torch.zeros(8), torch.tensor(0.0)
        self.made = 0

    def held(self):
        return {"weights": {"x": self.weight}, "moments": {"exp_avg/x": self.moment, "step/x": self.step}}

    def read(self, weights: Tensors, moments: Tensors, *, same_layout: bool) -> None:
        weights.fill("x", 0, self.weight.view(-1))
        moments.fill("exp_avg/x", 0, self.moment)
        self.step.copy_(moments.whole("step/x"))

    def numbers(self):
        return {"step/0": self.step.clone()}

    def put_back(self, tensors, numbers) -> None:
        assert float(numbers["step/0"]) == float(tensors["moments"]["step/x"])
        self.read(Tensors(tensors["weights"]), Tensors(tensors["moments"]), same_layout=True)

    def make_weights(self) -> None:
        self.made += 1


class Engine:
    """What checkpoints ask of an engine."""

    def __init__(self) -> None:
        self.state = Held()
        self.spec = type("Spec", (), {"zero": 2})()
        self.scale = 1.0

    def extra_state(self):
        return {"loss_scale": self.scale}

    def restore_extra_state(self, state) -> None:
        self.scale = state["loss_scale"]

    def train(self, step: int) -> None:
        self.state.weight += step
        self.state.moment += 1
        self.state.step += 1
        self.scale = float(step)


class Timeline:
    """The ledger of a run."""

    def __init__(self, run: Path) -> None:
        self._ledger = Ledger(run)
        self.record = self._ledger.record

    def sync(self) -> None: ...


def position(step: int, *, scheduled: bool = True, **more: object) -> Position:
    return Position(
        step=step,
        tokens=step * 256,
        cursor=step * 8,
        decisions=0,
        attempt=1,
        loss=2.0,
        probe_loss=2.0,
        window=Window(),
        world_size=1,
        zero=2,
        versions={},
        scheduled=scheduled,
        **more,
    )


class Run:
    """A run that adds numbers."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        (folder / folders.FOLDER).mkdir(exist_ok=True)
        settings = {"every_steps": 10, "keep_last": 2, "every_minutes": 0.0, "anchor_steps": 0} | settings
        self.config = RunConfig(model={"vocab_size": 8}, checkpoint=Checkpoint(**settings), spike=SPIKE)
        self.engine = Engine()
        self.told: list[str] = []
        self.saver = saving.Saver(
            folder, self.config, self.engine, Alone(), Timeline(folder), last_step=1000, notice=self.told.append
        )
        self.step = 0

    def to(self, last: int, *, by_clock: bool = False) -> Run:
        while self.step < last:
            self.step += 1
            self.engine.train(self.step)
            make = lambda scheduled: position(self.step, scheduled=scheduled)  # noqa: E731
            self.saver.after_step(self.step, make, by_clock=by_clock and self.step == last)
        return self

    @property
    def steps(self) -> list[int]:
        return folders.steps_of(self.folder)

    def events(self) -> list[dict[str, object]]:
        return list(read_lines(self.folder / "events.jsonl"))


SPIKE = Spike(back_off=20, raised_steps=4, skip_horizon=3)
