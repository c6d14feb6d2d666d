"""A run that is watched: stopped by the clock, hung and stopped in a validation, with a NaN on one rank."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ptool.formats.packed_writer import write_packed
from tests.training import tiny

SETTINGS = (
    tiny.CONFIG
    + """
heartbeat_seconds = 0.02
hang_seconds = 1.0
[validation]
every_steps = 10
tokens = 20_000
[metrics]
layers_every = 5
[spike]
warn_two_sigma = true
min_history = 8
[faults]
bad_batch_at = 12
kind = "broken-rank"
rank = 1
"""
)
STEPS = 30


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("running")
    held = lambda name: int(name.split("-")[1]) % 3 == 0  # noqa: E731
    documents = tiny.documents(1500)
    write_packed(folder / "packed", documents, seq_len=tiny.SEQ_LEN, vocab_size=tiny.VOCAB, eod_id=0, holdout=held)
    (folder / "run.toml").write_text(SETTINGS)
    return folder


def train(base: Path, name: str, *more: str) -> list[str]:
    fixed = ["train", str(base / "packed"), "--config", str(base / "run.toml"), "--zero", "1"]
    return [*fixed, "--max-steps", str(STEPS), "--checkpoint-every", "15", *more, "-o", str(base / name)]


def pulse(run: Path, rank: int = 0) -> dict[str, Any]:
    """What a rank says of itself."""
    path = run / ".heartbeat" / f"rank_{rank:05d}.json"
    try:
        said: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {"place": "", "step": -1}
    return said


def hangs(run: Path) -> list[str]:
    """What the ledger says of ranks that stand still."""
    return [event["what"] for event in tiny.lines(run / "events.jsonl") if event["event"] == "hang"]


def without(lines: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in names} for line in lines]


def test_a_run_stopped_by_the_clock_and_hung_in_a_validation_measures_what_an_unbroken_one_does(base: Path) -> None:
    whole, broken = base / "whole", base / "broken"
    done = tiny.run(*train(base, "whole"))
    assert done.returncode == 0, done.stderr

    stopped = tiny.run(*train(base, "broken", "--max-minutes", "0"))
    assert stopped.returncode == 75, stopped.stderr
    assert "the time of --max-minutes is over" in stopped.stderr
    assert [record["step"] for record in tiny.lines(broken / "metrics.jsonl")] == [1]
    assert tiny.lines(broken / "events.jsonl")[-1]["reason"] == "the time of --max-minutes is over"

    with (broken / "events.jsonl").open("a") as ledger:  # a disk so slow that a save takes an hour
        ledger.write('{"event": "save", "step": 1, "seconds": 3600.0, "stall_seconds": 0.1}\n')
    stopped = tiny.run("resume", broken, "--max-minutes", "119")
    assert stopped.returncode == 75, stopped.stderr
    assert [record["step"] for record in tiny.lines(broken / "metrics.jsonl")] == [1, 2]

    process = tiny.start("resume", broken, RANK="", WORLD_SIZE="", OMPI_COMM_WORLD_LOCAL_RANK="0")
    tiny.wait_until(lambda: pulse(broken)["place"] == "validating", process)
    victim = pulse(broken, 1)["pid"]
    tiny.kill(victim, signal.SIGSTOP)
    tiny.wait_until(lambda: any("not been heard of" in told for told in hangs(broken)), process)
    process.send_signal(signal.SIGTERM)
    tiny.kill(victim, signal.SIGCONT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told
    assert f"rank 1 (host {socket.gethostname()}, process {victim}) has not been heard of for" in told
    assert "stacks of all ranks are in" in told
    assert "all_reduce" in (broken / ".heartbeat" / "stacks_00000.txt").read_text()
    steps = tiny.lines(broken / "metrics.jsonl")[-1]["step"]
    assert steps == 10, "no further step is taken after a validation that was cut short"
    assert not tiny.lines(broken / "validation.jsonl")

    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "ptool", *train(base, "broken")],
        capture_output=True,
        text=True,
        timeout=120,
        env=tiny.environment(),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["artefact"] == str(broken), "the ranks of torchrun say it once"
    assert tiny.history(broken) == tiny.history(whole)
    assert tiny.weights_digest(broken) == tiny.weights_digest(whole)
    measured = tiny.lines(whole / "validation.jsonl")
    assert (whole / "checkpoints" / "best").read_text().strip() == "step_00000030", "the only one saved where measured"
    assert [line["step"] for line in measured] == [10, 20, 30]
    assert measured[-1]["loss"] < measured[0]["loss"]
    assert set(measured[0]["sources"]) == {"source-0", "source-1"}
    volatile = ("seconds", "attempt")
    assert without(tiny.lines(broken / "validation.jsonl"), *volatile) == without(measured, *volatile)
    layers = tiny.lines(whole / "layers.jsonl")
    assert without(tiny.lines(broken / "layers.jsonl"), "attempt") == without(layers, "attempt")
    assert [line["step"] for line in layers] == [5, 10, 15, 20, 25, 30]
    norms = {record["step"]: record["grad_norm"] for record in tiny.lines(whole / "metrics.jsonl")}
    for line in layers:
        total = sum(norm**2 for norm in line["gradient_norm"].values()) ** 0.5
        assert total == pytest.approx(norms[line["step"]], rel=1e-3)
        assert all(value > 0 for value in line["activation_rms"].values())

    curves = EventAccumulator(str(whole / "tensorboard")).Reload()
    losses = [(point.step, point.value) for point in curves.Scalars("validation/source-1")]
    assert losses == [(m["step"], pytest.approx(m["sources"]["source-1"]["loss"])) for m in measured]
    assert len(curves.Scalars("gradient_norm/layers.1")) == len(layers)

    decisions = [event for event in tiny.lines(whole / "events.jsonl") if event["event"] == "decision"]
    assert [decision["action"] for decision in decisions] == ["skip"]
    report = json.loads(next((whole / "reports").iterdir()).read_text())
    assert "1 NaN of 1 in the loss of the micro-batch (rank 1 on " in report["not_finite"]["finding"]
    assert set(report["batch"]["loss_by_source"]) == {"source-0", "source-1"}
    assert 0 < report["batch"]["loss_by_source"]["source-0"]["loss"] < 10
    assert "not readable here" in report["hardware"]["finding"] or "kernel" in report["hardware"]["finding"]

    (whole / "manifest.json").unlink()
    lines = (whole / "validation.jsonl").read_bytes().splitlines(keepends=True)
    (whole / "validation.jsonl").write_bytes(b"".join(lines[:-1]))
    stopped = tiny.run("resume", whole, "--max-minutes", "0")
    assert stopped.returncode == 75, "what was to be measured after the last step is still to be measured"
    assert not (whole / "manifest.json").exists()


def test_a_step_that_comes_out_otherwise_the_second_time_ends_the_run_and_names_the_rank(base: Path) -> None:
    (base / "broken.toml").write_text(SETTINGS.replace("broken-rank", "broken-once"))
    command = [word.replace("run.toml", "broken.toml") for word in train(base, "hardware", "--zero", "3")]
    done = tiny.run(*command)
    assert done.returncode == 1, done.stderr
    guilty = f"rank 1 on host {socket.gethostname()}"
    assert done.stderr.splitlines()[-2].endswith(f"the same step again gave another result (inf): {guilty}")
    report = json.loads(next((base / "hardware" / "reports").iterdir()).read_text())
    assert f"its own loss differed on {guilty};" in report["hardware"]["finding"]
    assert report["not_finite"]["finding"] == f"finite in the rerun, and not before on {guilty}"
    assert tiny.lines(base / "hardware" / "events.jsonl")[-1]["ranks"] == guilty
    assert max(tiny.kept_checkpoints(base / "hardware")) == "step_00000011", "the state before the step is saved"
