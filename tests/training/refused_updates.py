"""A process of its own for test_engine.py: what engines do with refused, overflowing and differently cut updates.

Prints one JSON object per line. `refused`: on each ZeRO stage, precision and optimiser, refused updates between
accepted ones change nothing: whether weights stood still over refusals, the norms that the gate saw, and whether the
accepted steps came out as in an engine that was never refused anything. `cut`: the same rows in other numbers of
micro-batches, changed between steps. `overflow`: fp16 gradients that overflow at a high loss scale. `rates`: what the
groups of a model with muP, four times wider than its base, are given as learning rate 0.01.
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ptool.training.engine import Engine

CASES = [
    *(("adamw", zero, "fp32") for zero in range(4)),
    *(("lion", zero, "fp32") for zero in (0, 2, 3)),
    *((name, 0, "fp32") for name in ("muon", "lamb", "adafactor")),
    *(("adamw", zero, "fp16") for zero in (1, 2, 3)),
    *((name, 2, "bf16") for name in ("adamw", "lion")),
    *(("muon", 0, precision) for precision in ("bf16", "fp16")),  # autocast stays on in a process: last
]
ROWS, LENGTH = 4, 16


def main() -> None:
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[1])
    import torch

    from ptool.training import engine as engines

    torch.set_num_threads(1)
    engines.start("cpu", 60)
    for zero in range(4):
        tell(cut(zero))
    for zero in (0, 2, 3):
        tell(rates(zero))
    for zero in (2, 3):
        tell(overflow(zero))
    for case in CASES:
        tell(refused(*case))
    tell(overflow(0))
    engines.stop()


def tell(report: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(report) + "\n")


def make(optimizer: str = "adamw", zero: int = 2, precision: str = "fp32", **shape: int) -> Engine:
    from ptool.models.config import ModelConfig
    from ptool.models.decoder import Decoder
    from ptool.training.engine import Engine, EngineSpec

    config = ModelConfig(vocab_size=64, layers=1, hidden=32, heads=2, max_seq_len=LENGTH, **shape)
    spec = EngineSpec(
        zero=zero,
        precision=precision,  # type: ignore[arg-type]
        device="cpu",
        accumulation=2,
        optimizer=optimizer,
    )
    return Engine(Decoder(config, seed=0), spec)


def rows(first: int = 0, count: int = ROWS) -> dict[str, torch.Tensor]:
    import torch

    tokens = torch.randint(0, 64, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))[first : first + count]
    return {
        "tokens": tokens,
        "positions": torch.arange(LENGTH).expand(count, LENGTH).int(),
        "segments": torch.zeros(count, LENGTH).int(),
        "targets": tokens.roll(-1, 1),
    }


def step(engine: Engine, *, accept: bool = True, normaliser: float = ROWS * LENGTH / 2, cuts: int = 2) -> float:
    """One update on all rows; the norm that the gate saw."""
    seen: list[float] = []

    def gate(norm: float) -> float | None:
        seen.append(norm)
        return 1.0 if accept else None

    each = ROWS // cuts
    for number in range(cuts):
        engine.accumulate(rows(number * each, each), normaliser, last=number == cuts - 1)
    decided = engine.update(gate, 1e-2, loss_is_finite=normaliser != 0)
    assert decided, "nothing overflows here"
    assert len(seen) == 1, "asked once"
    return seen[0]


def copy(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.state.held()["weights"].items()}


def refused(optimizer: str, zero: int, precision: str) -> dict[str, Any]:
    import torch

    tried, calm = make(optimizer, zero, precision), make(optimizer, zero, precision)
    norms = [step(tried)]
    step(calm)
    before = copy(tried)
    norms += [step(tried, accept=False), step(tried, accept=False, normaliser=0.0), step(tried, accept=False)]
    after = copy(tried)
    for engine in (tried, calm):
        step(engine)
    one, other = copy(tried), copy(calm)
    return {
        "kind": "refused",
        "case": f"{optimizer} ZeRO-{zero} {precision}",
        "stood_still": all(torch.equal(before[name], after[name]) for name in before),
        "same_as_calm": all(torch.equal(one[name], other[name]) for name in one),
        "moved": any(not torch.equal(after[name], one[name]) for name in one),
        "finite": [math.isfinite(norm) for norm in norms],
        "scale": tried.extra_state() == calm.extra_state(),
    }


def cut(zero: int) -> dict[str, Any]:
    """The same four steps with two micro-batches each, and with one, two, four and one."""
    import torch

    steady, changing = make(zero=zero), make(zero=zero)
    norms = []
    for cuts in (1, 2, 4, 1):
        changing.set_accumulation(cuts)
        size = ROWS * LENGTH / cuts
        norms.append((step(steady), step(changing, normaliser=size, cuts=cuts)))
    one, other = copy(steady), copy(changing)
    return {
        "kind": "cut",
        "case": f"ZeRO-{zero}",
        "norms": norms,
        "apart": max(float((one[name] - other[name]).abs().max()) for name in one),
        "differ": any(not torch.equal(one[name], other[name]) for name in one),
    }


def rates(zero: int) -> dict[str, Any]:
    engine = make(zero=zero, mup_base_hidden=8)
    step(engine)
    return {"kind": "rates", "found": [group["lr"] for group in engine.optimizer.param_groups]}


def overflow(zero: int) -> dict[str, Any]:
    """An engine whose loss scale becomes far too high against one whose scale stays: repeats, then the same step."""
    high, fitting = make(zero=zero, precision="fp16"), make(zero=zero, precision="fp16")
    asked: list[float] = []

    def gate(norm: float) -> float | None:
        asked.append(norm)
        return 1.0

    def attempt(engine: Engine) -> bool:
        for last in (False, True):
            engine.accumulate(rows(0, 2) if last else rows(2, 2), ROWS * LENGTH / 2, last=last)
        return engine.update(gate, 1e-2)

    assert attempt(high)
    assert attempt(fitting)
    high.restore_extra_state({"loss_scale": 2.0**24, "loss_scale_steps": 7})
    before, repeats = copy(high), 0
    while not attempt(high):
        repeats += 1
        assert len(asked) == 2, "an overflow is not put before the gate"
        assert all(value.equal(before[name]) for name, value in copy(high).items())
    assert attempt(fitting)
    one, other = copy(high), copy(fitting)
    return {
        "kind": "overflow",
        "case": f"ZeRO-{zero}",
        "repeats": repeats,
        "scale": high.extra_state(),
        "norms": asked,
        "apart": max(float((one[name] - other[name]).abs().max()) for name in one),
    }


if __name__ == "__main__":
    main()
