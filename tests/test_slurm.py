"""In a real Slurm: arrays that share out a folder, and ranks that srun started; left out where slurmctld is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training import tiny

PYTHON = sys.executable


@pytest.fixture(scope="module")
def slurm(shared: Path) -> Iterator[dict[str, str]]:
    """The environment of a private two-node Slurm, started for these tests and stopped after them."""
    if shutil.which("slurmctld") is None or shutil.which("munged") is None:
        pytest.skip("slurmctld or munged is not installed")
    if os.geteuid() != 0 or not (shared / "slurm" / "start.sh").exists():
        pytest.skip("starting a private Slurm needs root and the shared start script")
    base = Path(tempfile.mkdtemp(prefix="ptool-slurm-test-"))
    base.chmod(0o755)  # munge refuses a socket that others cannot reach
    start = shared / "slurm" / "start.sh"
    names = {"PTOOL_SLURM_DIR": str(base), "SLURM_CONF": str(base / "slurm.conf"), "START_SLURM": str(start)}
    env = {**tiny.environment(), **names}
    started = subprocess.run(["bash", start], env=env, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    yield env
    subprocess.run(["bash", shared / "slurm" / "stop.sh", "--purge"], env=env, capture_output=True)
    shutil.rmtree(base, ignore_errors=True)


def batch(script: str, folder: Path, env: dict[str, str], *options: str) -> tuple[int, str]:
    """Run a batch script to its end; its exit code and what it printed."""
    path = folder / "job.sh"
    path.write_text(f"#!/bin/bash\n{script}\n")
    log = folder / "log-%a.txt"
    done = subprocess.run(
        ["sbatch", "--wait", f"--output={log}", "--open-mode=append", *options, path],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    text = "".join(path.read_text() for path in sorted(folder.glob("log-*.txt")))
    return done.returncode, done.stderr + text


def test_an_array_fills_a_folder_and_status_names_the_missing_tasks(slurm: dict[str, str], tmp_path: Path) -> None:
    for number in range(5):
        text = " ".join(f"the house{number} and the garden{place} of that" for place in range(20))
        (tmp_path / f"part{number}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    command = f"exec {PYTHON} -m ptool filter part*.jsonl -o out/ --shard slurm"
    lame = f'if [ "$SLURM_ARRAY_TASK_ID" = 4 ]; then exit 9; fi\n{command}'
    code, told = batch(lame, tmp_path, slurm, "--array=3-5")
    assert code != 0, told
    status = tiny.run("status", tmp_path / "out", "--json")
    assert status.returncode == 75
    assert json.loads(status.stdout)["array"] == "4"
    code, told = batch(command, tmp_path, slurm, "--array=4")
    assert code == 0, told
    assert tiny.run("status", tmp_path / "out").returncode == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]["kept"] == 5


def test_ranks_of_srun_save_on_a_signal_and_the_same_script_goes_on(slurm: dict[str, str], tmp_path: Path) -> None:
    packed = tiny.make_packed(tmp_path / "packed")
    (tmp_path / "run.toml").write_text(tiny.CONFIG)
    train = (
        f"-m ptool train {packed} --config run.toml --zero 1 --ranks 2 --max-steps 400 --checkpoint-every 100 -o run"
    )
    script = (
        f"srun --nodes=2 --ntasks=2 {PYTHON} {train} &\npid=$!\n"
        "trap 'kill -USR1 $pid' USR1\nwait $pid; code=$?\nif [ $code -gt 128 ]; then wait $pid; code=$?; fi\nexit $code"
    )
    path = tmp_path / "train.sh"
    path.write_text(f"#!/bin/bash\n{script}\n")
    job = subprocess.run(
        ["sbatch", "--parsable", "--nodes=2", "--ntasks=2", f"--output={tmp_path}/train.txt", path],
        cwd=tmp_path,
        env=slurm,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    deadline = time.monotonic() + 60
    while len(tiny.lines(tmp_path / "run" / "metrics.jsonl")) < 3:
        assert time.monotonic() < deadline, (tmp_path / "train.txt").read_text()
        time.sleep(0.05)
    subprocess.run(["scancel", "--signal=USR1", "--batch", job], env=slurm, check=True)
    while "JobState=RUNNING" in (shown := show(job, slurm)) or "JobState=COMPLETING" in shown:
        assert time.monotonic() < deadline, shown
        time.sleep(0.1)
    assert "ExitCode=75:0" in shown, shown + (tmp_path / "train.txt").read_text()
    stopped = tiny.lines(tmp_path / "run" / "metrics.jsonl")[-1]["step"]
    assert 3 <= stopped < 400

    code, told = batch(script, tmp_path, slurm, "--nodes=2", "--ntasks=2")
    assert code == 0, told
    steps = [record["step"] for record in tiny.lines(tmp_path / "run" / "metrics.jsonl")]
    assert steps == list(range(1, 401))
    assert (tmp_path / "run" / "manifest.json").exists()


def show(job: str, env: dict[str, str]) -> str:
    """What Slurm knows of a job."""
    return subprocess.run(["scontrol", "show", "job", job], env=env, capture_output=True, text=True).stdout
