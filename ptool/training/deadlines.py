"""When a run must have saved and gone: `--max-minutes`, and the end of its Slurm job.

The caller's limit counts from the start of the command and travels to the ranks in an environment variable, as a time
of day. A job's end is SLURM_JOB_END_TIME (where Slurm gives it), else what `squeue` says; it is asked again when it
comes near, since limits are moved. Rank 0 alone looks, and its answer rides on the step's all-reduce like a signal.

The run stops when what is left is less than two saves and two steps, as long as the slowest yet, and half a minute in
a job, where the ranks and Slurm itself must still end. A save counts until it is published, not for as long as it held
the training up: the last one is waited for, and one under way before it. Once it is time, it stays so. Torch-free.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime

VARIABLE = "PTOOL_STOP_AT"
JOB_RESERVE_SECONDS = 30.0
"""Of a job, besides saves and steps: the interpreter's end, srun's, and the script's."""
ASK_AGAIN_SECONDS = 60.0


def set_limit(minutes: float | None) -> None:
    """Let this process and those it starts stop within `minutes` from now; None: no limit of the caller's."""
    os.environ.pop(VARIABLE, None)
    if minutes is not None:
        os.environ[VARIABLE] = repr(time.time() + 60.0 * minutes)


class Deadline:
    """The earlier of the two ends, by the clock of this host."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = os.environ if env is None else env
        self._limit = _number(self._env.get(VARIABLE))
        self._job_end = job_end(self._env)
        self._asked = time.monotonic()
        self._over: str | None = None
        self.slowest_save = 0.0
        self.slowest_step = 0.0

    def took(self, *, step: float = 0.0, save: float = 0.0) -> None:
        """Note how long a step or a save took."""
        self.slowest_step = max(self.slowest_step, step)
        self.slowest_save = max(self.slowest_save, save)

    def reason(self, now: float | None = None) -> str | None:
        """Why it is time to stop at `now` (seconds since 1970; default: the clock); None while there is time.

        An answer is final: the run is being stopped for it, and wants to name it after the last save.
        """
        if self._over is None:
            self._over = self._why(time.time() if now is None else now)
        return self._over

    def _why(self, now: float) -> str | None:
        reserve = 2.0 * (self.slowest_save + self.slowest_step)
        if self._limit is not None and now + reserve >= self._limit:
            return "the time of --max-minutes is over"
        if self._job_end is not None and now + reserve + JOB_RESERVE_SECONDS >= self._job_end:
            if time.monotonic() - self._asked >= ASK_AGAIN_SECONDS:
                self._asked = time.monotonic()
                self._job_end = asked_end(self._env) or self._job_end
                if now + reserve + JOB_RESERVE_SECONDS < self._job_end:
                    return None
            return "the time of the Slurm job is over"
        return None


def job_end(env: Mapping[str, str]) -> float | None:
    """When the Slurm job of this process ends, in seconds since 1970; None outside of a job or without a limit."""
    if "SLURM_JOB_ID" not in env:
        return None
    return _number(env.get("SLURM_JOB_END_TIME")) or asked_end(env)


def asked_end(env: Mapping[str, str]) -> float | None:
    """The same, by `squeue`."""
    job = env.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in env and "SLURM_ARRAY_TASK_ID" in env:  # one task's job number is that of them all
        job = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    command = ["squeue", "--noheader", "--jobs", job, "--format=%e"]
    plain = {**env, "SLURM_TIME_FORMAT": "standard"}  # whatever form the user likes to read
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10, env=plain)
        return datetime.fromisoformat(told.stdout.strip()).timestamp()  # local time, as Slurm prints it; N/A: no limit
    return None


def _number(text: str | None) -> float | None:
    with suppress(TypeError, ValueError):
        return float(text or "")
    return None
