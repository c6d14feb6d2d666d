"""The three tables beside this file: what GPUs can do, what they cost and on which date, what published runs took.

They are data, not code, so that a price can be corrected without reading Python, and each row names its source. Reading
all three takes under 2 ms. The tests refuse rows that cannot be true: an implied MFU above 65 %, a peak with sparsity.
"""

from __future__ import annotations

import tomllib
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ptool.costing.flops import implied_mfu, training_flops
from ptool.units import Band

_FOLDER = Path(__file__).parent

GPUS_SOURCE = "https://github.com/stas00/ml-engineering/blob/master/compute/accelerator/README.md"
GPUS_AS_OF = date(2026, 8, 22)


class Gpu(NamedTuple):
    """One GPU, or one GPU's share of a superchip."""

    name: str
    peak_flops: float  # dense bf16, operations per second
    achievable: float | None  # best measured matrix multiplication as a share of the peak
    memory_bytes: int
    board_watts: float
    runs: str | None  # the group of published runs its efficiency is known from
    link_bytes: float = 32e9  # per second and direction to a neighbour in the node; PCIe 4 x16 where there is no link
    network_bytes: float = 12.5e9  # per second and direction to another node, its share of the network cards


class Price(NamedTuple):
    """Dollars per GPU-hour, on a date (None where the caller gave it)."""

    band: Band
    as_of: date | None
    source: str


class Run(NamedTuple):
    """A published training run."""

    id: str
    name: str
    params: int
    active_params: int
    num_tokens: int
    gpu: str
    gpu_hours: float
    source: str
    note: str
    held_out: bool  # not used where the default bands were fitted

    @property
    def is_mixture(self) -> bool:
        """Whether a token passes through only some of the parameters."""
        return self.active_params < self.params

    @property
    def implied_mfu(self) -> float:
        """6ND operations over what the GPUs could have done in these hours: steady MFU times goodput."""
        flops = training_flops(self.active_params, self.num_tokens)
        return implied_mfu(flops, peak_flops=gpus()[self.gpu].peak_flops, hours=self.gpu_hours)


@cache
def gpus() -> dict[str, Gpu]:
    """Every known GPU by name, in the table's order."""
    return {
        name: Gpu(
            name,
            row["peak_tflops"] * 1e12,
            row["achievable_tflops"] / row["peak_tflops"] if "achievable_tflops" in row else None,
            row["memory_gib"] * 2**30,
            row["board_watts"],
            row.get("runs"),
            row.get("link_gbs", 32) * 1e9,
            row.get("network_gbs", 12.5) * 1e9,
        )
        for name, row in _read("gpus").items()
    }


def find_gpu(name: str) -> Gpu:
    """The GPU called `name` or known by it. Raises UsageError with the nearest name and the valid ones."""
    if name in gpus():
        return gpus()[name]
    for full, row in _read("gpus").items():
        if name in row.get("aliases", ()):
            return gpus()[full]
    from ptool.plugins import unknown

    raise unknown("GPU", name, gpus())


@cache
def prices() -> dict[str, Price]:
    """Dated prices by GPU name; not every GPU has one."""
    return price_rows(_read("prices"))


def price_rows(table: dict[str, Any]) -> dict[str, Price]:
    """Prices from the tables of a file like prices.toml. Raises KeyError where a row lacks a value."""
    return {
        name: Price(Band(row["low"], row["mid"], row["high"]), row["as_of"], row["source"])
        for name, row in table.items()
    }


@cache
def runs() -> tuple[Run, ...]:
    """Published runs, in the table's order."""
    return tuple(
        Run(
            key,
            row["name"],
            row["params"],
            row.get("active_params", row["params"]),
            row["tokens"],
            row["gpu"],
            row["gpu_hours"],
            row["source"],
            row.get("note", ""),
            row.get("held_out", False),
        )
        for key, row in _read("runs").items()
    )


@cache
def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
