"""Small plans: phases and folders without any data behind them."""

from __future__ import annotations

from typing import Any

import msgspec

from ptool.training.config import Phase, RunConfig
from ptool.training.phases import FolderFacts
from ptool.training.resolving import DataFacts, MachineFacts, check, resolve

LAPTOP = MachineFacts(device="cpu", num_gpus=0, num_cpus=2, fast_bf16=False)


def phase(**fields: Any) -> Phase:
    """A phase of 100 steps of 8 rows of 32 tokens at a constant rate of 1, with `fields` in place of that."""
    plain = Phase(
        name="all",
        steps=100,
        batch_tokens=256,
        micro_rows=2,
        seq_len=32,
        weights=(1.0,),
        shape="constant",
        peak_lr=1.0,
        end_lr=0.1,
        warmup_tokens=0,
        decay_tokens=0,
        curve_start=0,
        curve_tokens=100 * 256,
    )
    return msgspec.structs.replace(plain, **fields)


def folder(name: str = "web", **fields: Any) -> FolderFacts:
    """A packed folder of 10,000 rows of 512 tokens."""
    plain = FolderFacts(
        packed=f"/data/{name}", fingerprint=f"xxh3-128:{name}", seq_len=512, num_rows=10_000, num_tokens=5_120_000
    )
    return msgspec.structs.replace(plain, **fields)


def facts(*folders: FolderFacts) -> DataFacts:
    """What resolving knows of the data."""
    return DataFacts(folders=folders or (folder(),), vocab_size=8000)


def resolved(packed: DataFacts | None = None, /, **tables: Any) -> RunConfig:
    """A run on a laptop."""
    return resolve(check(tables), facts() if packed is None else packed, LAPTOP)
