"""What a save costs the training: python -m tests.benchmarks.saving [--model 30m] [--folder .]

One rank at ZeRO-1, after a step. Per round: the copy to host memory that the training waits for, in new memory and in
memory that is used again, and the copy's digest (anchors alone); then writing, digesting and syncing the files, which
a thread does meanwhile, and a plain write and fsync of as many bytes for comparison. Medians of --rounds, in bytes a
second and as a share of a save that waits.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="30m")
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; default: the temporary folder")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        measure(Path(name), chosen.model, chosen.vocab, chosen.rounds)
    os._exit(0)


def measure(folder: Path, model: str, vocab: int, rounds: int) -> None:
    engine = trained_engine(model, vocab)
    from ptool.training.checkpoints import write_share
    from ptool.training.snapshots import Buffers, Snapshot

    position: Any = None
    total = sum(tensor.nbytes for tensors in engine.state.held().values() for tensor in tensors.values())
    times: dict[str, list[float]] = {}
    blank = bytes(total)
    for number in range(rounds):
        buffers = Buffers()
        snapshot = timed(times, "copy, new memory", lambda buffers=buffers: Snapshot(position, engine, buffers))
        buffers.give_back(snapshot)
        again = timed(times, "copy, memory used again", lambda buffers=buffers: Snapshot(position, engine, buffers))
        timed(times, "digest of the copy", again.digest)
        place = folder / str(number)
        place.mkdir()
        timed(times, "write, digest, fsync", lambda again=again, place=place: write_share(place, again, 0))
        timed(times, "plain write and fsync", lambda place=place: plain(place / "plain", blank))
    medians = {what: statistics.median(seconds) for what, seconds in times.items()}
    whole = medians["copy, memory used again"] + medians["write, digest, fsync"]
    print(f"{model}: {total:,} bytes a rank")
    for what, seconds in medians.items():
        print(f"  {what:<26}{seconds:>8.3f} s  {total / seconds / 1e9:>6.2f} GB/s  {seconds / whole:>6.1%} of a save")


def trained_engine(model: str, vocab: int) -> Any:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    import msgspec
    import torch

    from ptool.models.config import load_size
    from ptool.models.decoder import Decoder
    from ptool.training.engine import Engine, EngineSpec, start

    start("cpu", 60)
    shape = msgspec.structs.replace(load_size(model).model, vocab_size=vocab)
    engine = Engine(Decoder(shape, seed=0), EngineSpec(zero=1, precision="fp32", device="cpu", accumulation=1))
    tokens = torch.randint(0, vocab, (1, 64))
    batch = {
        "tokens": tokens,
        "positions": torch.arange(64).expand(1, 64),
        "segments": torch.zeros(1, 64, dtype=torch.int32),
        "targets": tokens.roll(-1, 1),
    }
    engine.accumulate(batch, 64.0, last=True)
    engine.update(lambda _norm: 1.0, 1e-3)
    return engine


def timed(times: dict[str, list[float]], what: str, work: Callable[[], Any]) -> Any:
    started = time.monotonic()
    result = work()
    times.setdefault(what, []).append(time.monotonic() - started)
    return result


def plain(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    sys.exit(main())
