"""The script of `ptool train --print-sbatch` in a real Slurm: signalled, preempted, its node killed, and no step lost.

    pytest tests/soak/slurm_requeue.py

Minutes long and at the mercy of Slurm's own waiting times, so it is run by hand; needs what tests/test_slurm.py needs.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.conftest import shared  # noqa: F401 (a fixture)
from tests.test_slurm import show, slurm  # noqa: F401 (a fixture)
from tests.training import tiny


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


def test_a_job_saves_by_itself_before_its_time_is_over_though_nobody_signals(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    """The minute of this job is Slurm's shortest; the run leaves half of it for Slurm and its own end."""
    job = submit(
        tmp_path, slurm, steps=100_000, options=("--time=1", "--signal=CONT@1")
    )  # in place of the script's own
    wait_for_steps(tmp_path, 3, job, slurm)
    come_back(job, slurm, restarts=1)
    stop = [record for record in tiny.lines(tmp_path / "run" / "events.jsonl") if record["event"] == "stop"]
    assert [record["reason"] for record in stop] == ["the time of the Slurm job is over"], log(tmp_path)
    kept = last_step(tmp_path)
    assert kept == stop[0]["step"]
    wait_for_steps(tmp_path, kept + 5, job, slurm)
    subprocess.run(["scancel", job], env=slurm, check=True)
    wait_for(lambda text: "JobState=CANCELLED" in text, job, slurm)


WINNER = ("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null")


def submit(folder: Path, env: dict[str, str], *, steps: int, options: Sequence[str] = ()) -> str:
    """Train on two nodes by the script that `--print-sbatch` prints, with more sbatch `options`; the job's number."""
    tiny.make_packed(folder / "packed")
    (folder / "run.toml").write_text(tiny.CONFIG)
    settings = ("--config", "run.toml", "--zero", "1", "--max-steps", str(steps), "--checkpoint-every", "250")
    printing = ("--print-sbatch", "--nodes", "2", "--gpus-per-node", "0")
    told = subprocess.run(
        tiny.command("train", "packed", *settings, *printing, "-o", "run"),
        cwd=folder,
        env=tiny.environment(),
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert not (folder / "run").exists()
    (folder / "job.sh").write_text(told.stdout)
    return sbatch(folder, env, options)


def sbatch(folder: Path, env: dict[str, str], options: Sequence[str] = ()) -> str:
    """Submit the script; the job's number."""
    command = ["sbatch", "--parsable", f"--output={folder}/log.txt", *options, "job.sh"]
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
        if "JobState=PENDING" in text and not is_due and start_nodes(env):
            # Not at once: a node refuses a job's new credential in the second in which it ended the old one.
            update = ["scontrol", "update", f"JobId={job}", "StartTime=now+2"]
            is_due = subprocess.run(update, env=env, capture_output=True).returncode == 0
        return "JobState=RUNNING" in text

    wait_for(has_restarted, job, env)


def kill_node(name: str, env: dict[str, str]) -> None:
    """As if the machine lost its power: the daemon, the step daemons below it and every rank there."""
    pid_file = Path(env["PTOOL_SLURM_DIR"]) / f"slurmd-{name}.pid"
    processes = [int(pid_file.read_text()), *step_daemons(name)]
    for pid in processes:
        tiny.kill(pid)
    assert tiny.all_end(processes)  # a kill takes its time, and so does whoever reaps what it left:
    pid_file.unlink()  # start.sh takes a daemon that is still dying for one that runs, and starts no other
    subprocess.run(["scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=dead"], env=env, check=True)


def step_daemons(name: str) -> list[int]:
    """The processes of the job's steps on a node: what has that node's name in its environment."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and f"SLURMD_NODENAME={name}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def start_nodes(env: dict[str, str]) -> bool:
    """Bring dead nodes back; whether all are."""
    return subprocess.run(["bash", env["START_SLURM"]], env=env, capture_output=True).returncode == 0
