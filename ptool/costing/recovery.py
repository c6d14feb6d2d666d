"""How large a checkpoint is, how long it takes, and how often one should be written.

    size       weights in bf16 and fp32 master weights with two moments: 14 bytes per parameter; fp32 training 12, and
               so is every run of ptool's own engine, which makes the bf16 weights from the masters
    failures   Llama 3 405B had 419 unexpected stops in 54 days on 16,384 GPUs (arXiv 2407.21783, section 3.3.4): one
               in 50,700 GPU-hours, so the mean time between failures is that over the number of GPUs
    interval   Young 1974: sqrt(2 d M) for a save of d seconds and M between failures; Daly 2006 (Future Generation
               Computer Systems 22) adds terms that matter where saves take long

A save is taken to stop the training; one that is written in the background costs less.
"""

from __future__ import annotations

import math
from typing import NamedTuple

GPU_MTBF_SECONDS = 54 * 24 * 16_384 / 419 * 3600
STORAGE_BYTES_PER_SECOND = 20 * 10**9  # judgement: a mid-size parallel file system; --storage-rate replaces it


class Recovery(NamedTuple):
    """Checkpoints of one run. `overhead`: share of time lost to saves and to work done again."""

    checkpoint_bytes: int
    save_seconds: float
    mtbf_seconds: float
    young_seconds: float
    daly_seconds: float
    overhead: float


def checkpoint_bytes(params: int, *, precision: str = "bf16", engine: str = "megatron") -> int:
    """Bytes of a full training state with AdamW; for `deepspeed`, ptool's own, formats/checkpoints.py says the same."""
    return params * (12 if precision == "fp32" or engine == "deepspeed" else 14)


def recovery(
    params: int,
    num_gpus: int,
    *,
    precision: str = "bf16",
    engine: str = "megatron",
    gpu_mtbf_seconds: float = GPU_MTBF_SECONDS,
    storage_rate: float = STORAGE_BYTES_PER_SECOND,
) -> Recovery:
    """The interval that loses least, for `num_gpus` that fail independently. `storage_rate` in bytes per second."""
    size = checkpoint_bytes(params, precision=precision, engine=engine)
    save, mtbf = size / storage_rate, gpu_mtbf_seconds / num_gpus
    young = math.sqrt(2 * save * mtbf)
    if save < mtbf / 2:
        part = save / (2 * mtbf)
        daly = young * (1 + math.sqrt(part) / 3 + part / 9) - save
    else:
        daly = mtbf
    interval = max(daly, 1e-9)
    return Recovery(size, save, mtbf, young, daly, save / (interval + save) + (interval / 2 + save) / mtbf)
