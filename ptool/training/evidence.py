"""What all ranks together know of a refused step, for the report on it (spike_report.py).

    loss by source      one more forward pass over the refused rows, without gradients
    not finite          the first place in the rerun, from the hooks of nonfinite.py
    losses of ranks     each rank's own loss in the two tries: where they differ, that rank's hardware computed wrongly
    hardware            what every host's kernel, driver and NCCL log say (kernel_log.py)

Collective, and bounded: a forward pass and two sums and gathers of a few numbers. It decides nothing. Torch-free.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from ptool.formats.packed import PackedRows
from ptool.training import kernel_log
from ptool.training.kernel_log import HardwareReport
from ptool.training.sources import Integers, sums_by_source
from ptool.training.validation import Adds, Measure, TokenLosses


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The first place on one rank. `pass_` is forward, backward or loss; the counts are of the tensor looked at."""

    rank: int
    host: str
    micro_batch: int
    pass_: str
    module: str
    num_nan: int
    num_inf: int
    num_values: int
    because: str

    def sentence(self) -> str:
        """For people."""
        kinds = [f"{self.num_nan:,} NaN"] if self.num_nan else []
        kinds += [f"{self.num_inf:,} Inf"] if self.num_inf else []
        where = f"rank {self.rank} on {self.host}, micro-batch {self.micro_batch + 1}"
        what = f"{' and '.join(kinds)} of {self.num_values:,}"
        return f"{what} in the {self.pass_} of {self.module} ({where}): {self.because}"


class RankLosses(msgspec.Struct, frozen=True, kw_only=True):
    """One rank's own summed loss in the first try and in the rerun; null where it was not finite."""

    rank: int
    host: str
    first: float | None
    again: float | None

    @property
    def differ(self) -> bool:
        """Whether the same rows gave another loss."""
        return self.first != self.again


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The answers; `loss_by_source` is None where the forward pass itself gives no finite numbers."""

    loss_by_source: dict[str, Measure] | None = None
    not_finite: str = ""
    rank_losses: list[RankLosses] = []
    hardware: list[HardwareReport] = []

    def guilty_ranks(self) -> str:
        """Which ranks computed the same loss differently; empty where none did."""
        return ", ".join(f"rank {one.rank} on host {one.host}" for one in self.rank_losses if one.differ)


class Gathers(Adds, Protocol):
    """What is needed of the ranks besides sums."""

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank."""


def collect(
    ranks: Gathers,
    *,
    finding: Finding | None,
    first: float | None,
    again: float | None,
    rows: Iterable[tuple[PackedRows, Integers]],
    names: Sequence[str],
    token_losses: TokenLosses,
) -> Evidence:
    """Gather everything; collective. `rows` are this rank's refused rows with their targets' sources."""
    host = socket.gethostname()
    is_hosts_first = os.environ.get("LOCAL_RANK", "0") == "0"
    mine = [finding, RankLosses(rank=ranks.rank, host=host, first=_finite(first), again=_finite(again))]
    told = ranks.gather([*mine, kernel_log.read() if is_hosts_first else None])
    findings = [None if part[0] is None else msgspec.convert(part[0], Finding) for part in told]
    return Evidence(
        loss_by_source=_by_source(ranks, rows, names, token_losses),
        not_finite=first_of(findings),
        rank_losses=[msgspec.convert(part[1], RankLosses) for part in told],
        hardware=[msgspec.convert(part[2], HardwareReport) for part in told if part[2] is not None],
    )


def first_of(findings: Sequence[Finding | None]) -> str:
    """One sentence on what the ranks found."""
    found = [finding for finding in findings if finding is not None]
    if not found:
        return "the rerun's modules, loss and gradients at their outputs were all finite on every rank"
    order = {"forward pass": 0, "loss": 1, "backward pass": 2}
    found.sort(key=lambda finding: (order[finding.pass_], finding.micro_batch, finding.rank))
    others = f"; {len(found) - 1} other ranks have one too" if len(found) > 1 else ""
    return found[0].sentence() + others


def _by_source(
    ranks: Adds, rows: Iterable[tuple[PackedRows, Integers]], names: Sequence[str], token_losses: TokenLosses
) -> dict[str, Measure] | None:
    loss, count = np.zeros(len(names)), np.zeros(len(names))
    for batch, sources in rows:
        losses = np.asarray(token_losses(batch), dtype=np.float64)
        more, targets = sums_by_source(losses, batch.targets, sources, len(names))
        loss, count = loss + more, count + targets
    totals = ranks.sum([*loss.tolist(), *count.tolist()])
    sums, counts = totals[: len(names)], totals[len(names) :]
    if not np.isfinite(sums).all():
        return None
    return {
        name: Measure(loss=total / number, num_targets=int(number))
        for name, total, number in zip(names, sums, counts, strict=True)
        if number
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
