"""What this machine is, as far as training asks: GPUs, processors, and whether its CPU is fast at bf16.

bf16 is measured, not read off the CPU's flags: a CPU can list avx512_bf16 and be forty times slower at it. Torch is
imported only where the answer needs it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ptool.executors import default_jobs
from ptool.training.config import Table
from ptool.training.resolving import MachineFacts

FAST = 2.0  # bf16 must beat fp32 by this factor: less is not worth its rounding, and is near the noise
_SIZE = 384  # a matrix product of about 0.1 GFLOP: below a millisecond where it is fast


def look(given: Table) -> MachineFacts:
    """The facts that `given` (the run's tables) leaves open."""
    parallel = given.get("parallel", {})
    num_gpus = 0 if parallel.get("device") == "cpu" else count_gpus()
    on_cpu = num_gpus == 0
    threads = os.environ.get("OMP_NUM_THREADS", "")
    is_open = parallel.get("precision", "auto") == "auto"
    return MachineFacts(
        device="cpu" if on_cpu else "cuda",
        num_gpus=num_gpus,
        num_cpus=default_jobs(),
        asked_threads=int(threads) if threads.isdigit() else 0,
        fast_bf16=on_cpu and is_open and has_fast_bf16(),
    )


def count_gpus() -> int:
    """CUDA devices this process may use; torch is asked only where a driver is loaded."""
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/dxg").exists():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def has_fast_bf16() -> bool:
    """Whether a bf16 matrix product on this CPU beats fp32 clearly."""
    import torch

    return _best_seconds(torch.float32) > FAST * _best_seconds(torch.bfloat16)


def _best_seconds(dtype: object) -> float:
    import torch

    matrix = torch.ones(_SIZE, _SIZE, dtype=dtype)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
        if times[-1] > 0.05:  # clearly not fast: do not measure it again
            break
    return min(times)
