"""Count the bytes of every live tensor of `train`'s engine, per rank, and compare them with `estimate-cost`.

    python tests/soak/memory.py --seed 1 [--ranks 2,4] [--precision fp32,bf16] [--model 10m] [--vocab 8000]

For each number of ranks and each ZeRO stage the engine of ptool.training (DeepSpeed on CPU, gloo) trains three steps of
two micro-batches. When the optimiser is about to apply the last one, each rank adds up the storages of all tensors
that are alive, each storage once: weights, gradients, moments, and DeepSpeed's flat copies and buckets. The most loaded
rank is compared with the states and buffers that `--engine deepspeed` predicts: 10 % apart is a failure.

A second table compares what the forward pass of one micro-batch keeps for its backward pass (saved tensors, parameters
left out) with the predicted activations; attention on a CPU keeps no more than flash attention does.

Takes about ten seconds a row on two idle cores. Ends with status 1 when anything is more than 10 % off.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import subprocess
import sys

TOLERANCE = 0.10
ROWS, SEQ_LEN, STEPS, ACCUMULATION = 2, 128, 3, 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--ranks", default="2,4")
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--model", default="10m")
    parser.add_argument("--vocab", type=int, default=8000)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        work(json.loads(chosen.worker))
        return 0
    failed = 0
    print(f"{'precision':10}{'ranks':>6}{'ZeRO':>6}{'measured':>14}{'predicted':>14}{'off':>8}   bytes per parameter")
    for precision in chosen.precision.split(","):
        for ranks in map(int, chosen.ranks.split(",")):
            for zero in range(4):
                task = {"precision": precision, "zero": zero, "seed": chosen.seed, "model": chosen.model}
                measured = max(launch({**task, "vocab": chosen.vocab}, ranks))
                wanted, params = predicted(chosen.model, chosen.vocab, zero, ranks, precision)
                off = wanted / measured - 1
                failed += abs(off) > TOLERANCE
                cells = f"{measured:>14,}{wanted:>14,}{off:>+8.1%}   {measured / params:.2f} / {wanted / params:.2f}"
                print(f"{precision:10}{ranks:>6}{zero:>6}{cells}", flush=True)
    return 1 if failed + activations(chosen.model, chosen.vocab) else 0


def predicted(model: str, vocab: int, zero: int, ranks: int, precision: str) -> tuple[int, int]:
    """What the optimiser's step finds: states and copies; activations are gone by then."""
    from ptool.costing.memory import Layout, Setting, estimate_memory
    from ptool.costing.shapes import named_shape

    shape = named_shape(model)._replace(vocab_size=vocab)
    setting = Setting(precision=precision, engine="deepspeed", chunked_loss=True, seq_len=SEQ_LEN, micro_rows=ROWS)
    memory = estimate_memory(shape, Layout(data=ranks, zero=zero), setting)
    return memory.states + memory.buffers, shape.num_parameters()


def launch(task: dict[str, object], ranks: int) -> list[int]:
    """Run the ranks as processes and return what each counted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    command = [sys.executable, __file__, "--seed", "0", "--worker", json.dumps(task)]
    processes = [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [int(text.rpartition("bytes ")[2]) for text in outputs]


def work(task: dict[str, object]) -> None:
    """One rank."""
    import msgspec
    import torch

    from ptool.models.config import load_size
    from ptool.models.decoder import Decoder
    from ptool.training import engine as engines

    torch.set_num_threads(1)
    engines.start("cpu", 120)
    config = msgspec.structs.replace(load_size(str(task["model"])).model, vocab_size=int(str(task["vocab"])))
    spec = engines.EngineSpec(
        zero=int(str(task["zero"])),
        precision="bf16" if task["precision"] == "bf16" else "fp32",
        device="cpu",
        accumulation=ACCUMULATION,
    )
    engine = engines.Engine(Decoder(config, seed=int(str(task["seed"]))), spec)
    generator = torch.Generator().manual_seed(int(str(task["seed"])) + torch.distributed.get_rank())
    counted = [0]

    def gate(norm: float) -> float:
        counted[0] = live_bytes()
        return 1.0

    for _ in range(STEPS):
        for number in range(ACCUMULATION):
            engine.accumulate(batch(config.vocab_size, generator), 256.0, last=number == ACCUMULATION - 1)
        engine.update(gate, 1e-3)
    print(f"bytes {counted[0]}", flush=True)
    os._exit(0)


def batch(vocab: int, generator: object) -> dict[str, object]:
    """Random rows, each one document."""
    import torch

    tokens = torch.randint(0, vocab, (ROWS, SEQ_LEN), generator=generator)
    return {
        "tokens": tokens,
        "positions": torch.arange(SEQ_LEN).expand(ROWS, SEQ_LEN),
        "segments": torch.zeros(ROWS, SEQ_LEN, dtype=torch.int32),
        "targets": tokens.roll(-1, 1),
    }


def live_bytes() -> int:
    """Bytes of the storages of all living tensors and their gradients, each storage once.

    Cycles that nobody can reach any more are collected first: when Python does so by itself is chance.
    """
    import torch

    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if not issubclass(type(thing), torch.Tensor):
            continue
        for tensor in (thing, thing.grad if thing.is_leaf else None):
            if tensor is not None and tensor.device.type != "meta":
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def activations(model: str, vocab: int) -> int:
    """Compare what a forward pass saves with the prediction; returns the number of failures."""
    import msgspec
    import torch

    from ptool.costing.memory import Layout, Setting, layer_activations
    from ptool.costing.shapes import named_shape
    from ptool.models.config import load_size
    from ptool.models.decoder import Decoder

    torch.set_num_threads(1)
    config = msgspec.structs.replace(load_size(model).model, vocab_size=vocab)
    module = Decoder(config)
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = batch(vocab, torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = module._hidden(rows["tokens"], rows["positions"], rows["segments"])
    shape = named_shape(model)._replace(vocab_size=vocab)
    setting = Setting(precision="fp32", engine="deepspeed", seq_len=SEQ_LEN, micro_rows=ROWS)
    wanted = layer_activations(shape, Layout(), setting) * shape.layers
    measured = sum(kept.values())
    del hidden
    off = wanted / measured - 1
    print(f"\nactivations of one micro-batch, fp32: measured {measured:,}, predicted {wanted:,.0f}, {off:+.1%}")
    return int(abs(off) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
