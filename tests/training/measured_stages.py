"""A process per rank for test_measurements.py: RANK WORLD_SIZE PORT FOLDER.

On each ZeRO stage: the layers' gradient norms and activations of one step, the loss by source on held-out rows, and
what a watcher finds in a step that is spoilt. Rank 0 prints one JSON object per stage.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    rank, size, port, folder = sys.argv[1:]
    os.environ.update(RANK=rank, WORLD_SIZE=size, LOCAL_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    import numpy as np
    import torch

    from ptool.formats.packed import PackedDataset, PackedRows
    from ptool.models.decoder import Decoder
    from ptool.training.engine import Engine, EngineSpec, start, stop
    from ptool.training.evidence import first_of
    from ptool.training.layers import LayerStatistics
    from ptool.training.nonfinite import Watcher
    from ptool.training.ranks import Ranks
    from ptool.training.validation import Validation
    from tests.training.test_measurements import ROWS, SHAPE

    torch.set_num_threads(1)
    start("cpu", 60)
    ranks = Ranks(torch.device("cpu"))
    dataset = PackedDataset.open(Path(folder))

    def tensors(rows: PackedRows) -> dict[str, torch.Tensor]:
        names = ("tokens", "positions", "segments", "targets")
        return {name: torch.as_tensor(getattr(rows, name)) for name in names}

    mine = np.array_split(np.arange(ROWS), ranks.size)[ranks.rank]
    batch = tensors(dataset.train.rows(mine))
    for zero, precision in ((0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16")):
        engine = Engine(
            Decoder(SHAPE, seed=0), EngineSpec(zero=zero, precision=precision, device="cpu", accumulation=2)
        )
        validation = Validation([dataset], tokens=10**6, tokens_per_forward=96, rank=ranks.rank, ranks=ranks.size)

        def losses(rows: PackedRows, engine: Engine = engine) -> np.ndarray:
            return engine.token_losses(tensors(rows)).numpy()

        found = validation.measure(losses, ranks, is_stopping=lambda: False, beat=lambda: None)
        assert found is not None
        cut = validation.measure(losses, ranks, is_stopping=lambda: ranks.rank == ranks.size - 1, beat=lambda: None)
        layers = LayerStatistics(engine.module, compiled=False)
        with layers.watched():
            for last in (False, True):
                engine.accumulate(batch, 100.0, last=last)
        layers.take_gradients(ranks, scale=1.0)
        norms: list[float] = []
        engine.update(lambda norm, norms=norms: norms.append(norm), 1e-3)
        record = layers.record(ranks, step=1, tokens=1, attempt=1)

        watcher = Watcher(engine.module, rank=ranks.rank, host="h")
        if ranks.rank == ranks.size - 1:
            down = dict(engine.module.named_modules())["layers.1.feed_forward.down"]
            down.forward = lambda given, plain=down.forward: plain(given) * float("inf")  # type: ignore[method-assign]
        with watcher.watched():
            for last in (False, True):
                engine.accumulate(batch, 100.0, last=last)
        if ranks.rank == ranks.size - 1:
            del down.forward
        engine.update(lambda norm: None, 1e-3)
        told = ranks.gather(first_of([watcher.finding]))
        report = {
            "zero": zero,
            "precision": precision,
            "loss": found[0].loss,
            "sources": {name: [one.loss, one.num_targets] for name, one in found[1].items()},
            "cut_short": cut is None,
            "norm": norms[0],
            "layers": record,
            "not_finite": told[-1],
        }
        if ranks.is_first:
            sys.stdout.write(json.dumps(report) + "\n")
            sys.stdout.flush()
    groups = torch.distributed.distributed_c10d._world.pg_map
    limits = {group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups}
    if ranks.is_first:
        sys.stdout.write(json.dumps({"groups": len(groups), "limits": sorted(limits)}) + "\n")
        sys.stdout.flush()
    ranks.barrier()
    stop()
    os._exit(0)  # threads of gloo may still run, and the interpreter's end would abort on them


if __name__ == "__main__":
    main()
