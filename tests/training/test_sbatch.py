"""The batch script as text, and run with stand-ins for Slurm's commands (test_slurm.py has the real ones)."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ptool.errors import UsageError
from ptool.training.sbatch import script
from tests.training import tiny


def command_of(text: str) -> list[str]:
    """The words that srun starts on every GPU."""
    line = next(line for line in text.splitlines() if line.endswith(" &"))
    return shlex.split(line.removesuffix(" &"))


def test_the_script_has_one_rank_per_gpu_and_the_words_that_were_typed(tmp_path: Path) -> None:
    words = [
        "my packed/",
        "-o",
        "runs/数 据",
        "--print-sbatch",
        "--nodes",
        "4",
        "--gpus-per-node=8",
        "--set",
        "a.b=c d",
    ]
    text = script(
        words, ["my packed/"], Path("runs/数 据"), nodes=4, gpus_per_node=8, folder=tmp_path, program=["ptool"]
    )
    expected = ["ptool", "train", "my packed/", "-o", "runs/数 据", "--set", "a.b=c d", "--ranks", "32"]
    assert command_of(text) == expected
    for option in ("--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--requeue", "--signal=B:USR1@300"):
        assert f"#SBATCH {option}\n" in text
    assert "#SBATCH --open-mode=append\n" in text
    assert all(" " not in line.split(" ", 1)[1] for line in text.splitlines() if line.startswith("#SBATCH"))


def test_cpu_ranks_are_spread_over_the_nodes() -> None:
    text = script(["p", "--ranks", "6"], ["p"], Path("r"), nodes=2, gpus_per_node=0, ranks=6)
    assert "#SBATCH --ntasks-per-node=3\n" in text
    assert "--gpus" not in text
    assert command_of(text).count("--ranks") == 1


@pytest.mark.parametrize(
    ("words", "packed", "ranks", "complaint"),
    [
        (["-o", "r"], None, None, "no pipe"),
        (["-", "-o", "r"], ["-"], None, "no pipe"),
        (["p", "--force"], ["p"], None, "anew"),
        (["p", "--dry-run"], ["p"], None, "nothing would train"),
        (["p", "--ranks", "7"], ["p"], 7, "--ranks 7"),
    ],
)
def test_what_a_job_cannot_do_is_refused(
    words: list[str], packed: list[str] | None, ranks: int | None, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        script(words, packed, Path("r"), nodes=2, gpus_per_node=8, ranks=ranks)


def test_printing_touches_nothing(tmp_path: Path) -> None:
    done = tiny.run("train", tmp_path / "not-there", "--print-sbatch", "--nodes", "2", "-o", tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert command_of(done.stdout)[-2:] == ["--ranks", "16"]
    assert list(tmp_path.iterdir()) == []


STAND_INS = {
    "srun": 'trap "sleep 0.3; echo saved >> told; exit 75" USR1\necho started >> told\n'
    "for i in $(seq 200); do sleep 0.05; done",
    "scontrol": 'echo "scontrol $*" >> told',
}


def run_script(folder: Path, *, text: str = "", **replacing: str) -> subprocess.Popen[str]:
    """Run the script, or another `text`, with stand-ins."""
    (folder / "bin").mkdir()
    for name, body in (STAND_INS | replacing).items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    text = text or script(["p"], ["p"], Path("r"), nodes=1, gpus_per_node=1, folder=folder)
    (folder / "job.sh").write_text(text)
    env = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    return subprocess.Popen(["bash", folder / "job.sh"], env=env, text=True)


def test_a_signal_goes_to_srun_and_its_save_is_waited_for_before_the_requeue(tmp_path: Path) -> None:
    job = run_script(tmp_path)
    deadline = time.monotonic() + 20
    while not (tmp_path / "told").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=20) == 75
    assert (tmp_path / "told").read_text().splitlines() == ["started", "saved", "scontrol requeue 17"]


def test_a_signal_that_comes_before_the_shell_knows_its_srun_is_passed_on_when_it_does(tmp_path: Path) -> None:
    text = script(["p"], ["p"], Path("r"), nodes=1, gpus_per_node=1, folder=tmp_path)
    assert text.count("\nsrun=$!\n") == 1
    early = text.replace("\nsrun=$!\n", "\nuntil [ -e told ]; do sleep 0.01; done\nkill -USR1 $$\nsrun=$!\n")
    assert run_script(tmp_path, text=early).wait(timeout=20) == 75
    assert (tmp_path / "told").read_text().splitlines() == ["started", "saved", "scontrol requeue 17"]


@pytest.mark.parametrize("code", [0, 1, 137])
def test_any_other_end_is_the_jobs_own_and_is_not_requeued(code: int, tmp_path: Path) -> None:
    assert run_script(tmp_path, srun=f"exit {code}").wait(timeout=20) == code
    assert not (tmp_path / "told").exists()
