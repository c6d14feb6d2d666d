"""What `train` costs beside a bare PyTorch loop: python -m tests.benchmarks.train [--tokens 16384,1024] [--ranks 1,2]

In every rank the real thing (`rank.work`: engine, gate, judge, metrics, everything) and a bare loop of the same model,
rows, micro-batches and fused AdamW take turns, step by step: A B A B. One rank is ZeRO-1 against AdamW, two are ZeRO-1
against DistributedDataParallel. A step of ours lasts from the end of a bare step to the moment its metrics line is
written. Medians of --steps, after a short one of each that is left out; the ratio is of processor time, which other
programs disturb least, wall time stands beside it. Ends with 1 where the ratio at 16,384 tokens is above 1.05.

The last column: how long the run stood still for a checkpoint. With --memory: the bytes of all live tensors of each
rank against `estimate-cost --precision fp32 --engine deepspeed` (tests/soak/memory.py on this model). Where there is a
GPU: tokens per second and MFU of 125m, 1b and a Llama of 8 billion, beside published figures of one H200 or H100.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

LIMIT, AT_TOKENS = 1.05, 16_384
SEQ_LEN, LEFT_OUT, MICRO_ROWS = 512, 1, 4
PUBLISHED = {  # tokens/s and MFU of one GPU; the sources are named where they stand
    "125m": "about 195,000 tokens/s on an A100 (one user's GPT-2 124M speed run)",
    "1b": "52 % MFU on A100s (TinyLlama 1.1B, litgpt's tutorial)",
    "8b": "10,471 tokens/s, 57.8 % MFU on one H200 (KempnerForge, 20 steps, sequence 4096)",
}
LLAMA_8B = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn_hidden": 14336, "tie_embeddings": False}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="30m")
    parser.add_argument("--tokens", default="16384,1024")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--one-by-one", action="store_true", help="print every step's seconds too")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.rank_of:
        be_a_rank(Path(chosen.rank_of))
        return 0
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        packed = make_packed(Path(name) / "packed", SEQ_LEN, 32_000)
        print(
            f"{chosen.model}, rows of {SEQ_LEN} tokens, the processors shared by the ranks, medians of {chosen.steps}"
        )
        print(
            f"{'tokens':>7}{'ranks':>6}{'ours':>10}{'bare':>10}{'ratio':>8}{'(wall)':>9}{'ns/parameter':>14}{'stall':>9}"
        )
        for tokens in map(int, chosen.tokens.split(",")):
            for ranks in map(int, chosen.ranks.split(",")):
                run = Path(name) / f"run-{tokens}-{ranks}"
                failed += compare(packed, run, chosen.model, tokens, ranks, chosen.steps, chosen.one_by_one)
    if chosen.memory:
        command = [sys.executable, "tests/soak/memory.py", "--seed", "1", "--ranks", chosen.ranks]
        failed += subprocess.run(
            [*command, "--precision", "fp32", "--model", chosen.model, "--vocab", "32000"]
        ).returncode
    failed += on_a_gpu()
    return 1 if failed else 0


def compare(packed: Path, run: Path, model: str, tokens: int, ranks: int, steps: int, one_by_one: bool) -> int:
    """Run the ranks, print a line of the table; 1 where the ratio is too high."""
    threads = max(1, (os.cpu_count() or 1) // ranks)
    parallel = {"zero": 1, "ranks": ranks, "device": "cpu", "precision": "fp32", "threads": threads}
    batch = {"tokens": tokens, "micro_tokens": MICRO_ROWS * SEQ_LEN}
    plan = prepare(packed, run, model={"size": model}, batch=batch, parallel=parallel, steps=steps)
    told = launch(run, ranks, threads)
    ours, bare = (statistics.median(max(times) for times in zip(*told[who], strict=True)) for who in ("ours", "bare"))
    wall = [statistics.median(told[who][0]) for who in ("ours_wall", "bare_wall")]
    parameters = plan.config.model_config.num_parameters()
    fixed = (ours - bare) * 1e9 / parameters
    cells = f"{ours:>9.2f}s{bare:>9.2f}s{ours / bare:>8.3f}{wall[0] / wall[1]:>9.3f}{fixed:>14.1f}"
    print(f"{tokens:>7}{ranks:>6}{cells}{stall(run):>8.2f}s", flush=True)
    if one_by_one:
        print({who: [[round(time, 3) for time in times] for times in told[who]] for who in ("ours", "bare")})
    return int(tokens >= AT_TOKENS and ours / bare > LIMIT)


def prepare(packed: Path, run: Path, *, steps: int, **tables: dict[str, Any]) -> Any:
    """A run folder whose ranks can begin; between the first and the last checkpoint one after the measured steps."""
    from ptool.training import planning
    from ptool.training import run as runs
    from ptool.training.resolving import check

    tokens = tables["batch"]["tokens"]
    short = min(tokens, tables["parallel"]["ranks"] * MICRO_ROWS * SEQ_LEN)
    phases = [
        {"name": "left out", "tokens": short, "batch_tokens": short},
        {"name": "measured", "tokens": steps * tokens, "batch_tokens": tokens},
        {"name": "while a checkpoint is written", "tokens": short, "batch_tokens": short},
    ]
    given = {
        **tables,
        "phase": phases,
        "data": {"allow_repeats": True},
        "checkpoint": {"every_steps": LEFT_OUT + steps},
    }
    plan = planning.plan_train([packed], check(given), run)
    runs._prepare(plan, force=False)
    return plan


def launch(run: Path, ranks: int, threads: int) -> dict[str, list[list[float]]]:
    """Start the ranks as processes of this file, which end when this one does; what each measured, by kind."""
    from ptool.training.launch import PARENT_VARIABLE

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    common[PARENT_VARIABLE] = str(os.getpid())
    command = [sys.executable, "-m", "tests.benchmarks.train", "--rank-of", str(run)]
    processes = [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    told: dict[str, list[list[float]]] = {}
    for process in processes:
        output, complaints = process.communicate(timeout=3600)
        if process.returncode:
            sys.exit(f"a rank failed:\n{complaints[-3000:]}")
        for kind, times in json.loads(output.splitlines()[-1]).items():
            told.setdefault(kind, []).append(times)
    return told


def be_a_rank(run: Path) -> None:
    """A rank of the real thing; whenever it has taken a step, the bare loop takes one."""
    from ptool.reporting import SILENT
    from ptool.training import rank
    from ptool.training.launch import follow_launcher
    from ptool.training.settings_text import from_toml
    from ptool.training.signals import StopRequest
    from ptool.training.timeline import Timeline

    follow_launcher()
    config = from_toml(run / "config.toml")
    times: dict[str, list[float]] = {"ours": [], "bare": [], "ours_wall": [], "bare_wall": []}
    accepted = Timeline.accepted
    loop: Iterator[None] | None = None
    clock = [time.process_time(), time.monotonic()]

    def mark(kind: str) -> None:
        now = [time.process_time(), time.monotonic()]
        times[kind].append(now[0] - clock[0])
        times[f"{kind}_wall"].append(now[1] - clock[1])
        clock[:] = now

    def after_a_step(self: Timeline, record: Any) -> None:
        nonlocal loop
        accepted(self, record)
        mark("ours")
        if loop is None:
            loop = bare_loop(config, self._ranks.rank)
            next(loop)
            clock[:] = [time.process_time(), time.monotonic()]
        next(loop)
        mark("bare")

    Timeline.accepted = after_a_step  # type: ignore[method-assign]
    rank.work(run, StopRequest(), SILENT)
    print(json.dumps({kind: measured[LEFT_OUT:-1] for kind, measured in times.items()}))
    sys.stdout.flush()
    os._exit(0)


def bare_loop(config: Any, rank: int) -> Iterator[None]:
    """What one would write by hand: ready at the first `next`, one optimiser step at each that follows."""
    import torch

    from ptool.formats.packed import PackedDataset
    from ptool.models.decoder import Decoder

    world, (short, phase, after) = config.parallel.ranks, config.phase
    micro = phase.micro_rows
    split = PackedDataset.open(Path(config.data.packed[0])).train
    rows = split.rows(np.arange(rank * micro, (rank + 1) * micro))
    batch = [torch.as_tensor(getattr(rows, name)) for name in ("tokens", "positions", "segments", "targets")]
    decoder = Decoder(config.model_config, seed=0)
    matrices = [p for name, p in decoder.named_parameters() if p.dim() == 2 and "embedding" not in name]
    others = [p for name, p in decoder.named_parameters() if p.dim() == 1 or "embedding" in name]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    model: Any = torch.nn.parallel.DistributedDataParallel(decoder) if world > 1 else decoder
    measured = [(phase.accumulation(world), micro)] * phase.steps
    for count, rows_of in [(1, short.micro_rows), *measured, (1, after.micro_rows)]:
        yield
        loss = 0.0
        for number in range(count):
            with model.no_sync() if world > 1 and number < count - 1 else nullcontext():
                loss_sum, num_targets = model(*(tensor[:rows_of] for tensor in batch))
                (loss_sum / (num_targets * count)).backward()
            loss += float(loss_sum.detach())
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    yield


def stall(run: Path) -> float:
    """Seconds that the run stood still for the checkpoint in its middle, as its ledger tells."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    middle = [event for event in events if event["event"] == "save"][1]
    return float(middle["stall_seconds"])


def make_packed(folder: Path, seq_len: int, vocab_size: int, rows: int = 256) -> Path:
    """Packed rows of random documents, two or three to a row."""
    from ptool.formats.packed_writer import write_packed

    rng = np.random.default_rng(0)
    documents = (
        (f"doc-{number}", "source", 4 * seq_len, [*rng.integers(1, vocab_size, rng.integers(1, seq_len)).tolist(), 0])
        for number in range(2 * rows)
    )
    write_packed(folder, documents, seq_len=seq_len, vocab_size=vocab_size, eod_id=0)
    return folder


def on_a_gpu() -> int:
    """Tokens per second and MFU of one GPU, at sizes whose figures are published."""
    import torch

    if not torch.cuda.is_available():
        print("\nno GPU here: tokens/s and MFU at 125m, 1b and 8b are left out")
        return 0
    print(f"\n{torch.cuda.get_device_name()}, bf16, ZeRO-1, one rank, compiled layers")
    shapes = {"125m": ({"size": "125m"}, 1024, 32), "1b": ({"size": "1b"}, 2048, 8), "8b": (LLAMA_8B, 4096, 1)}
    for name, (model, seq_len, micro_rows) in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            packed = make_packed(Path(folder) / "packed", seq_len, 50_304)
            run = Path(folder) / "run"
            batch = {"tokens": 8 * micro_rows * seq_len, "micro_rows": micro_rows}
            execution = {"compile": True, "recompute": "full" if name == "8b" else "none"}
            command = [
                sys.executable,
                "-m",
                "ptool",
                "train",
                str(packed),
                "-o",
                str(run),
                "--zero",
                "1",
                "--ranks",
                "1",
            ]
            command += ["--max-steps", "20", "--checkpoint-every", "1000000"]
            tables = {"model": model, "batch": batch, "execution": execution}
            for section, values in tables.items():
                for key, value in values.items():
                    command += ["--set", f"{section}.{key}={json.dumps(value)}"]
            done = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
            if done.returncode:
                print(f"{name:>5}  failed: {done.stderr.strip().splitlines()[-1:]}")
                continue
            records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][10:]
            speed = statistics.median(record["tokens_per_second"] for record in records)
            used = statistics.median(record["mfu"] or 0.0 for record in records)
            print(f"{name:>5}{speed:>12,.0f} tokens/s{used:>8.1%} MFU   published: {PUBLISHED[name]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
