"""A model, data and commands so small that a two-rank run takes seconds; shared by the tests and the soak."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ptool.formats.packed_writer import write_packed

VOCAB = 64
SEQ_LEN = 32
CONFIG = """
[model]
layers = 2
hidden = 32
heads = 2
[batch]
tokens = 256
micro_rows = 2
[optimizer]
peak_lr = 3e-3
[parallel]
precision = "fp32"
timeout_seconds = 60
"""


def documents(count: int, seed: int = 0) -> Iterator[tuple[str, str, int, list[int]]]:
    """Documents with structure to learn: each token is one of three followers of the one before."""
    rng = np.random.default_rng(seed)
    followers = rng.integers(1, VOCAB, (VOCAB, 3))
    for number in range(count):
        tokens = [int(rng.integers(1, VOCAB))]
        for _ in range(int(rng.integers(10, 80))):
            tokens.append(int(followers[tokens[-1], rng.choice(3, p=[0.7, 0.2, 0.1])]))
        yield f"doc-{number}", f"source-{number % 2}", 4 * len(tokens), [*tokens, 0]


def make_packed(folder: Path, count: int = 400) -> Path:
    """Packed rows of such documents."""
    write_packed(folder, documents(count), seq_len=SEQ_LEN, vocab_size=VOCAB, eod_id=0)
    return folder


def command(*arguments: str | Path) -> list[str]:
    """A ptool command line."""
    return [sys.executable, "-m", "ptool", *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread a rank, and nothing of an outer torchrun or Slurm."""
    outer = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "SLURM_", "TORCHELASTIC_", "PTOOL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    return kept | {"OMP_NUM_THREADS": "1"}


def run(
    *arguments: str | Path, timeout: float = 120, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a ptool command to its end; `before` is called in its process before it starts."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        preexec_fn=before,
    )


def start(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    """Start a ptool command, with more environment variables."""
    env = environment() | variables
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON objects."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def history(folder: Path) -> list[tuple[int, float, float, list[int]]]:
    """What must be equal in equal runs: step, loss, gradient norm, samples."""
    return [(r["step"], r["loss"], r["grad_norm"], r["samples"]) for r in lines(folder / "metrics.jsonl")]


def weights_digest(folder: Path) -> list[str]:
    """The digests of the final weights, rank by rank."""
    manifest = json.loads((folder / "manifest.json").read_text())
    found = [f["digest"] for f in manifest["files"] if "/weights_" in f["path"]]
    assert found, "a finished run names its weights"
    return found


def kept_checkpoints(folder: Path) -> list[str]:
    """The names of the published checkpoints."""
    return sorted(path.name for path in (folder / "checkpoints").glob("step_*") if not path.name.endswith(".tmp"))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], timeout: float = 60) -> None:
    """Poll until `condition` holds; fails when the process ends first or the time is over."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {process.communicate()}"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def rank_pids(launcher: int) -> list[int]:
    """The pids of the ranks below a launcher, by rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent != launcher:
                continue
            variables = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        ranks = [v for v in variables if v.startswith(b"RANK=")]
        if ranks:
            found[int(ranks[0][5:])] = int(folder.name)
    return [found[rank] for rank in sorted(found)]


def is_alive(pid: int) -> bool:
    """Whether a process runs (one that waits to be reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def all_end(pids: list[int], timeout: float = 20) -> bool:
    """Whether all these processes end; a killed one takes its time on a busy machine."""
    deadline = time.monotonic() + timeout
    while any(map(is_alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
