"""In a real Slurm: arrays that share out a folder, and ranks that srun started; left out where slurmctld is missing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
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


def test_the_printed_script_comes_back_after_a_signal_a_dead_node_and_a_preemption_and_loses_no_step(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    job = submit(tmp_path, slurm, steps=500)
    wait_for_steps(tmp_path, 5, job, slurm)

    subprocess.run(["scancel", "--signal=USR1", "--batch", job], env=slurm, check=True)  # as 300 s before the limit
    come_back(job, slurm, restarts=1)
    assert event_counts(tmp_path)["stop"] == 1, log(tmp_path)
    wait_for_steps(tmp_path, last_step(tmp_path) + 5, job, slurm)

    subprocess.run(["sbatch", *WINNER, "--wrap", "sleep 1"], cwd=tmp_path, env=slurm, check=True, capture_output=True)
    come_back(job, slurm, restarts=2)
    assert event_counts(tmp_path)["stop"] == 2, log(tmp_path)
    wait_for_steps(tmp_path, last_step(tmp_path) + 5, job, slurm)

    kill_node("n2", slurm)
    come_back(job, slurm, restarts=3)
    assert event_counts(tmp_path)["stop"] == 2, "a dead node leaves no time to save"

    ended = wait_for(lambda text: "JobState=COMPLETED" in text, job, slurm)
    assert "Restarts=3" in ended
    assert "ExitCode=0:0" in ended
    steps = [record["step"] for record in tiny.lines(tmp_path / "run" / "metrics.jsonl")]
    assert steps == list(range(1, 501))
    assert (tmp_path / "run" / "manifest.json").exists()


def test_a_cancelled_job_is_not_brought_back_and_a_failed_one_neither(slurm: dict[str, str], tmp_path: Path) -> None:
    job = submit(tmp_path, slurm, steps=500)
    wait_for_steps(tmp_path, 3, job, slurm)
    subprocess.run(["scancel", job], env=slurm, check=True)
    ended = wait_for(lambda text: "JobState=CANCELLED" in text, job, slurm)
    assert "Restarts=0" in ended
    (tmp_path / "run" / "config.toml").write_text("no settings")
    failed = sbatch(tmp_path, slurm)
    ended = wait_for(lambda text: "JobState=FAILED" in text, failed, slurm)
    assert "Restarts=0" in ended


def show(job: str, env: dict[str, str]) -> str:
    """What Slurm knows of a job."""
    return subprocess.run(["scontrol", "show", "job", job], env=env, capture_output=True, text=True).stdout


WINNER = ("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null")


def submit(folder: Path, env: dict[str, str], *, steps: int) -> str:
    """Train on two nodes by the script that `--print-sbatch` prints; the job's number."""
    tiny.make_packed(folder / "packed")
    (folder / "run.toml").write_text(tiny.CONFIG)
    options = ("--config", "run.toml", "--zero", "1", "--max-steps", str(steps), "--checkpoint-every", "250")
    printing = ("--print-sbatch", "--nodes", "2", "--gpus-per-node", "0")
    told = subprocess.run(
        tiny.command("train", "packed", *options, *printing, "-o", "run"),
        cwd=folder,
        env=tiny.environment(),
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert not (folder / "run").exists()
    (folder / "job.sh").write_text(told.stdout)
    return sbatch(folder, env)


def sbatch(folder: Path, env: dict[str, str]) -> str:
    """Submit the script; the job's number."""
    command = ["sbatch", "--parsable", f"--output={folder}/log.txt", "job.sh"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def last_step(folder: Path) -> int:
    records = tiny.lines(folder / "run" / "metrics.jsonl")
    return records[-1]["step"] if records else 0


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def event_counts(folder: Path) -> Counter[str]:
    return Counter(record["event"] for record in tiny.lines(folder / "run" / "events.jsonl"))


def wait_for(condition: Callable[[str], bool], job: str, env: dict[str, str], timeout: float = 90) -> str:
    """Poll the job until `condition` holds of what Slurm says about it."""
    deadline = time.monotonic() + timeout
    while not condition(shown := show(job, env)):
        assert time.monotonic() < deadline, shown
        time.sleep(0.1)
    return shown


def wait_for_steps(folder: Path, step: int, job: str, env: dict[str, str]) -> None:
    deadline = time.monotonic() + 90
    while last_step(folder) < step:
        assert time.monotonic() < deadline, show(job, env) + log(folder)
        time.sleep(0.05)


def come_back(job: str, env: dict[str, str], *, restarts: int) -> None:
    """Wait until the job was requeued, and start it again without Slurm's two minutes of waiting."""
    is_due = False

    def has_restarted(text: str) -> bool:
        nonlocal is_due
        if f"Restarts={restarts}" not in text:
            return False
        if "JobState=PENDING" in text and not is_due:
            start_nodes(env)
            # Not at once: a node refuses a job's new credential in the second in which it ended the old one.
            update = ["scontrol", "update", f"JobId={job}", "StartTime=now+2"]
            is_due = subprocess.run(update, env=env, capture_output=True).returncode == 0
        return "JobState=RUNNING" in text

    wait_for(has_restarted, job, env)


def kill_node(name: str, env: dict[str, str]) -> None:
    """As if the machine lost its power: the daemon, the step daemons below it and every rank there."""
    daemon = int((Path(env["PTOOL_SLURM_DIR"]) / f"slurmd-{name}.pid").read_text())
    for pid in (daemon, *step_daemons(name)):
        tiny.kill(pid)
    subprocess.run(["scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=dead"], env=env, check=True)


def step_daemons(name: str) -> list[int]:
    """The processes of the job's steps on a node: what has that node's name in its environment."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and f"SLURMD_NODENAME={name}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def start_nodes(env: dict[str, str]) -> None:
    """Bring dead nodes back."""
    subprocess.run(["bash", env["START_SLURM"]], env=env, capture_output=True)
