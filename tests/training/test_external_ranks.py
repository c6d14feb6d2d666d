"""Ranks that torchrun or srun started, on hosts that see the run folder late; with stand-ins for the group."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ptool.errors import InputError, PtoolError
from ptool.reporting import SILENT
from ptool.training import engine, launch, ranks, run, visibility
from ptool.training.signals import StopRequest


def test_a_file_that_a_network_file_system_shows_late_is_waited_for_and_its_folders_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    asked: list[Path] = []
    path = tmp_path / "run" / "config.toml"
    path.parent.mkdir()
    path.write_bytes(b"new")
    answers: list[bytes | OSError] = [FileNotFoundError(2, "no"), OSError(116, "stale"), b"old", b"new"]

    def read(self: Path) -> bytes:
        looks.append(self.name)
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def open_folder(name: Path, flags: int) -> int:
        asked.append(name)
        return opened(name, flags)

    opened = os.open
    monkeypatch.setattr(visibility, "LOOK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(Path, "read_bytes", read)
    monkeypatch.setattr(os, "open", open_folder)
    visibility.wait_for(path, b"new")
    assert looks == ["config.toml"] * 4
    assert asked == [tmp_path, tmp_path / "run"] * 3


def test_a_folder_that_is_not_shared_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not see it"):
        visibility.wait_for(tmp_path / "config.toml", seconds=0.0)
    (tmp_path / "config.toml").write_bytes(b"another run's")
    visibility.wait_for(tmp_path / "config.toml", seconds=0.0)
    with pytest.raises(InputError, match="does not see it"):
        visibility.wait_for(tmp_path / "config.toml", b"this one's", seconds=0.0)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_folder_is_touched_when_all_have_planned_and_trained_in_when_all_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    order: list[str] = []

    class Group:
        """What rank 0 says to this rank."""

        def __init__(self, device: object) -> None: ...

        def barrier(self) -> None:
            order.append("all are here")

        def together(self, work: Callable[[], Any]) -> Any:
            return work()

        def on_first(self, work: Callable[[], Any], kind: type) -> str:
            return "[run]\n"

    def appears() -> None:
        (tmp_path / "config.toml").write_text("[run]\n")

    def prepare(plan: object, *, force: bool) -> None:
        order.append("prepared")
        appears()

    def train(folder: Path, *_: object, joined: bool) -> None:
        order.append(f"trained by {(folder / 'config.toml').read_text()}")
        write_late = threading.Timer(0.3 * rank, (folder / "manifest.json").write_text, ["not a manifest"])
        write_late.start()
        threads.append(write_late)
        write_late.join() if rank == 0 else None

    threads: list[threading.Thread] = []
    late = threading.Timer(0.3, appears)
    if rank:
        (tmp_path / "config.toml").write_text("[run]\nof_before = 1\n")
        late.start()
    for name, value in {"RANK": str(rank), "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(StopRequest, "listen", lambda self: None)
    monkeypatch.setattr(launch, "follow_launcher", lambda: None)
    monkeypatch.setattr(engine, "start", lambda device, seconds: None)
    monkeypatch.setattr(ranks, "Ranks", Group)
    monkeypatch.setattr(run, "_prepare", prepare)
    monkeypatch.setattr(run, "work", train)
    parallel = SimpleNamespace(device="cpu", timeout_seconds=60.0)
    plan: Any = SimpleNamespace(run=tmp_path, config=SimpleNamespace(parallel=parallel))
    with pytest.raises(PtoolError, match="manifest"):
        run._be_a_rank(plan, {"RANK": str(rank)}, force=False, reporter=SILENT)
    for thread in [*threads, *([late] if rank else [])]:
        thread.join()
    assert order == ["all are here", *(["prepared"] if rank == 0 else []), "trained by [run]\n"]


@pytest.mark.parametrize(("visible", "expected"), [(1, "0"), (8, "5")])
def test_a_rank_that_sees_one_gpu_takes_it_whatever_its_place_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: int, expected: str
) -> None:
    def start(device: str, seconds: float) -> None:
        raise PtoolError(f"LOCAL_RANK is {os.environ['LOCAL_RANK']}")

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "9")
    monkeypatch.setattr(StopRequest, "listen", lambda self: None)
    monkeypatch.setattr(launch, "follow_launcher", lambda: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    monkeypatch.setattr(engine, "start", start)
    parallel = SimpleNamespace(device="cuda", timeout_seconds=60.0)
    plan: Any = SimpleNamespace(run=tmp_path, config=SimpleNamespace(parallel=parallel))
    with pytest.raises(PtoolError, match=f"LOCAL_RANK is {expected}$"):
        run._be_a_rank(plan, {"RANK": "5", "LOCAL_RANK": "5"}, force=False, reporter=SILENT)


@pytest.mark.parametrize(
    ("node", "told", "expected"),
    [(0, "8(x2),4", "8"), (1, "8(x2),4", "8"), (2, "8(x2),4", "4"), (3, "8", None), (0, "", None)],
)
def test_a_rank_of_srun_knows_how_many_share_its_host(
    monkeypatch: pytest.MonkeyPatch, node: int, told: str, expected: str | None
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    names = {"PROCID": "3", "LOCALID": "1", "NODEID": str(node), "STEP_NUM_TASKS": "20", "STEP_TASKS_PER_NODE": told}
    for name, value in names.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    variables = launch.external_rank()
    assert variables is not None
    assert (variables["RANK"], variables["LOCAL_RANK"], variables["WORLD_SIZE"]) == ("3", "1", "20")
    assert variables.get("LOCAL_WORLD_SIZE") == expected


@pytest.mark.parametrize(
    ("listed", "first"), [("n[03-05,9]-ib,m1", "n03-ib"), ("gpu-7,gpu-9", "gpu-7"), ("n[1-2]", "n1"), ("a,b[1-2]", "a")]
)
def test_in_a_container_without_scontrol_the_ranks_still_meet_on_the_first_host(
    monkeypatch: pytest.MonkeyPatch, listed: str, first: str
) -> None:
    """And not on the host where srun was typed, which may be a login node."""
    asked: list[str] = []

    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "no such file", "scontrol")

    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    names = {"PROCID": "9", "STEP_NUM_TASKS": "16", "STEP_NUM_NODES": "2", "STEP_NODELIST": listed}
    for name, value in {**names, "LAUNCH_NODE_IPADDR": "10.0.0.1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(subprocess, "run", missing)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, _: asked.append(host))
    assert (launch.external_rank() or {})["MASTER_ADDR"] == first
    assert asked == [first]

    def unknown(host: str, _: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert (launch.external_rank() or {})["MASTER_ADDR"] == "10.0.0.1"
