"""Every variant and every way of computing, under every ZeRO stage: python -m tests.soak.decoder_zero --seed 1

Two gloo ranks train a small decoder for a few steps: plain, with all variants at once, and with random mixtures drawn
from --seed; each with no, selective and full recomputation, and traced by `torch.compile` (without code generation;
stage 3 refuses it). A row of the table is one decoder at one stage: its last loss must be the same to the bit for every
recomputation (compiled: to 1e-5), and every stage must give the loss of stage 0 to 1e-5. Ends with 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptool.models.decoder import Decoder

STEPS, SEQ_LEN, VOCABULARY = 4, 16, 61
ROWS = [[7, 9], [5, 1, 4]]
WAYS = [*product(("none", "selective", "full"), (False,)), ("none", True), ("selective", True)]
CHOICES = {
    "norm": ["rms", "layer"],
    "norm_position": ["pre", "post"],
    "positions": ["rope", "learned"],
    "feed_forward": ["swiglu", "gelu"],
    "qk_norm": [False, True],
    "z_loss": [0.0, 1e-3],
    "embedding_scale": [1.0, 3.0],
    "init": ["fixed", "width"],
    "mup_base_hidden": [None, 12],
    "document_mask": [True, False],
    "tie_embeddings": [True, False],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mixtures", type=int, default=3)
    parser.add_argument("--rank-of", type=int, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank_of is not None:
        train_all(given.rank_of, decoders(given.seed, given.mixtures))
        sys.stdout.flush()
        os._exit(0)  # gloo's threads can abort a process whose interpreter is torn down around them
    names = decoders(given.seed, given.mixtures)
    losses = {zero: run_stage(zero, given) for zero in range(4)}
    failed = 0
    print(f"{'decoder':<12}{'ZeRO':>5}  {'last loss':>12}  same bits by recomputation  compiled  stage 0")
    for name, zero in product(names, range(4)):
        found = losses[zero][name]
        plain = found["none"]
        bits = all(found[how] == plain for how in ("selective", "full"))
        compiled = all(abs(loss / plain - 1) < 1e-5 for how, loss in found.items() if how.endswith("compiled"))
        near = abs(plain / losses[0][name]["none"] - 1) < 1e-5
        failed += not (bits and compiled and near)
        print(f"{name:<12}{zero:>5}  {plain:>12.6f}  {bits!s:>26}  {compiled!s:>8}  {near!s:>7}")
    print("all as it should be" if not failed else f"{failed} rows are not as they should be")
    return 1 if failed else 0


def decoders(seed: int, mixtures: int) -> dict[str, dict[str, object]]:
    """The variants of each decoder, by its name."""
    chooser = random.Random(seed)
    drawn = [{key: chooser.choice(values) for key, values in CHOICES.items()} for _ in range(mixtures)]
    every = {key: values[-1] if key != "tie_embeddings" else False for key, values in CHOICES.items()}
    return {"plain": {}, "every": every, **{f"mixture {number}": mixture for number, mixture in enumerate(drawn)}}


def run_stage(zero: int, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Both ranks of one stage; the losses that the first one prints."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "tests.soak.decoder_zero", "--seed", str(given.seed)]
    command += ["--mixtures", str(given.mixtures), "--rank-of", str(zero)]
    base = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            command,
            env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    results = [rank.communicate(timeout=900) for rank in ranks]
    for rank, (_, complaints) in zip(ranks, results, strict=True):
        if rank.returncode:
            sys.exit(f"ZeRO-{zero} failed:\n{complaints[-3000:]}")
    found: dict[str, dict[str, float]] = json.loads(results[0][0].splitlines()[-1])
    return found


def train_all(zero: int, chosen: dict[str, dict[str, object]]) -> None:
    """One rank: every decoder in every way; the first rank prints the last losses as JSON."""
    from ptool.models import decoder as model
    from ptool.models.config import ModelConfig
    from ptool.models.execution import Execution
    from ptool.training import engine as engines

    model.COMPILE_BACKEND = "aot_eager"
    engines.start("cpu", 120)
    losses: dict[str, dict[str, float]] = {}
    for name, variants in chosen.items():
        shape = {"vocab_size": VOCABULARY, "layers": 2, "hidden": 24, "heads": 4, "kv_heads": 2, "max_seq_len": SEQ_LEN}
        config = ModelConfig.from_table(
            {**shape, **{key: value for key, value in variants.items() if value is not None}}
        )
        for how, compiled in WAYS:
            if compiled and zero == 3:
                continue  # refused, see execution.py
            decoder = model.Decoder(config, execution=Execution(recompute=how, compile=compiled))
            label = f"{how} compiled" if compiled else how
            losses.setdefault(name, {})[label] = last_loss(decoder, zero)
    import torch

    if torch.distributed.get_rank() == 0:
        print(json.dumps(losses))
    engines.stop()


def last_loss(decoder: Decoder, zero: int) -> float:
    """The loss of the last of a few optimiser steps, two micro-batches each."""
    from ptool.training.engine import Engine, EngineSpec
    from tests.models.batches import packed_batch

    spec = EngineSpec(
        zero=zero,
        precision="fp32",
        device="cpu",
        accumulation=2,
    )
    engine = Engine(decoder, spec)
    loss = 0.0
    for step in range(STEPS):
        batch = packed_batch(ROWS, SEQ_LEN, VOCABULARY, seed=step)
        named = dict(zip(("tokens", "positions", "segments", "targets"), batch, strict=True))
        for last in (False, True):
            loss, _ = engine.accumulate(named, 20.0, last=last)
        engine.update(lambda _norm: 1.0, 1e-2)
    return loss


if __name__ == "__main__":
    sys.exit(main())
