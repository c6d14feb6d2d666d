"""A process of its own for test_runs.py: on each ZeRO stage, refused updates between accepted ones change nothing.

Prints one JSON object per stage: whether weights stood still over refusals, the norms that the gate saw, and whether
the accepted steps came out as in an engine that was never refused anything.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from pathlib import Path


def main() -> None:
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[1])
    import torch

    from ptool.models.config import ModelConfig
    from ptool.models.decoder import Decoder
    from ptool.training.engine import Engine, EngineSpec, start, stop

    torch.set_num_threads(1)
    start("cpu", 60)
    shape = ModelConfig(vocab_size=64, layers=1, hidden=32, heads=2, max_seq_len=16)
    tokens = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    batch = {
        "tokens": tokens,
        "positions": torch.arange(16).expand(2, 16).int(),
        "segments": torch.zeros(2, 16).int(),
        "targets": tokens.roll(-1, 1),
    }

    def make(zero: int) -> Engine:
        spec = EngineSpec(
            zero=zero,
            precision="fp32",
            device="cpu",
            accumulation=2,
        )
        return Engine(Decoder(shape, seed=0), spec)

    def step(engine: Engine, *, accept: bool, normaliser: float = 32.0) -> float:
        seen: list[float] = []

        def gate(norm: float) -> float | None:
            seen.append(norm)
            return 1.0 if accept else None

        for last in (False, True):
            engine.accumulate(batch, normaliser, last=last)
        engine.update(gate, 1e-2)
        assert len(seen) == 1, "asked once"
        return seen[0]

    def copy(engine: Engine) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in (engine.weights() or {}).items()}

    for zero in range(4):
        tried, calm = make(zero), make(zero)
        norms = [step(tried, accept=True)]
        step(calm, accept=True)
        before = copy(tried)
        norms += [step(tried, accept=False), step(tried, accept=False, normaliser=0.0), step(tried, accept=False)]
        after = copy(tried)
        for engine in (tried, calm):
            step(engine, accept=True)
        one, other = copy(tried), copy(calm)
        with tempfile.TemporaryDirectory() as folder:
            tried.save(Path(folder))
            saved = sorted(path.name for path in Path(folder).rglob("*.pt"))
        report = {
            "zero": zero,
            "stood_still": all(torch.equal(before[name], after[name]) for name in before),
            "same_as_calm": all(torch.equal(one[name], other[name]) for name in one),
            "moved": any(not torch.equal(after[name], one[name]) for name in one),
            "finite": [math.isfinite(norm) for norm in norms],
            "files": saved,
        }
        sys.stdout.write(json.dumps(report) + "\n")
    stop()


if __name__ == "__main__":
    main()
