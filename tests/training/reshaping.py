"""A process of its own for test_reshaping.py: one rank of an engine that does as it is told.

    python reshaping.py '{"zero": 2, "precision": "fp32", "do": [["step", 3], ["write", FOLDER], ["read", FOLDER]]}'

The samples of step k are the same for any number of ranks; `["at", k]` says which step comes next, `["keep", 0]` copies
the state in memory and `["back", 0]` puts it back. Rank 0 prints the losses of all steps in the order in which they
were taken.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROWS, SEQ_LEN, VOCAB = 8, 16, 61


def main() -> None:
    asked = json.loads(sys.argv[1])
    import torch
    import torch.distributed as dist

    from ptool.formats.checkpoints import MOMENTS, WEIGHTS
    from ptool.models.config import ModelConfig
    from ptool.models.decoder import Decoder
    from ptool.models.tensor_files import Tensors, write_tensors
    from ptool.training.engine import Engine, EngineSpec, start, stop

    torch.set_num_threads(1)
    start("cpu", 60)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    usual = {"vocab_size": VOCAB, "layers": 2, "hidden": 18, "heads": 3}
    shape = ModelConfig(max_seq_len=SEQ_LEN, **{**usual, **asked.get("shape", {})})
    spec = EngineSpec(
        zero=asked["zero"],
        precision=asked.get("precision", "fp32"),
        device="cpu",
        optimizer=asked.get("optimizer", "adamw"),
        accumulation=1,
        weight_decay=0.1,
    )
    engine = Engine(Decoder(shape, seed=asked.get("seed", 0)), spec)

    def step(number: int) -> float:
        generator = torch.Generator().manual_seed(number)
        tokens = torch.randint(0, shape.vocab_size, (ROWS, SEQ_LEN), generator=generator)
        tokens = tokens[rank * ROWS // ranks :][: ROWS // ranks]
        batch = {
            "tokens": tokens,
            "positions": torch.arange(SEQ_LEN).expand(len(tokens), SEQ_LEN),
            "segments": torch.zeros(len(tokens), SEQ_LEN, dtype=torch.int32),
            "targets": tokens.roll(-1, 1),
        }
        loss, count = engine.accumulate(batch, float(len(tokens) * SEQ_LEN), last=True)
        total = torch.tensor([loss, count], dtype=torch.float64)
        dist.all_reduce(total)
        engine.update(lambda norm: 1.0, 1e-2)
        return float(total[0] / total[1])

    def write(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for kind, tensors in engine.state.held().items():
            with (folder / f"{kind}_{rank:05d}.safetensors").open("wb") as file:
                write_tensors(file, tensors)
        (folder / "layout.json").write_text(json.dumps([spec.zero, ranks]))
        dist.barrier()

    def read(folder: Path) -> None:
        layout = json.loads((folder / "layout.json").read_text())
        found = {kind: Tensors(sorted(folder.glob(f"{kind}_*"))) for kind in (WEIGHTS, MOMENTS)}
        engine.state.read(found[WEIGHTS], found[MOMENTS], same_layout=layout == [spec.zero, ranks])
        engine.state.make_weights()

    losses: list[float] = []
    following = 1
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for what, value in asked["do"]:
        if what == "step":
            for _ in range(value):
                losses.append(step(following))
                following += 1
        elif what == "keep":
            held = engine.state.held()
            kept = {kind: {key: tensor.clone() for key, tensor in tensors.items()} for kind, tensors in held.items()}
            numbers = engine.state.numbers()
        elif what == "back":
            engine.state.put_back(kept, numbers)
        elif what == "at":
            following = value
        elif what == "write":
            write(Path(value))
        else:
            read(Path(value))
    if rank == 0:
        sys.stdout.write(json.dumps(losses) + "\n")
    sys.stdout.flush()
    stop()
    os._exit(0)  # the interpreter's own end can abort in a thread of torch


if __name__ == "__main__":
    main()
