"""Packing against copying the same bytes, in one run: `python tests/benchmarks/pack.py [--tokens 100e6]`.

Prints tokens per second of processor time (user + system) for both strategies, everything included: digests of the
input, planning, copying, digests of the output; and the wall time as a multiple of `cp` and `sync` of the input. Then
the speed at which a trainer can read the rows back.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from ptool.formats.artefacts import FolderWriter
from ptool.formats.documents import DocumentTableWriter, new_records
from ptool.formats.manifests import new_manifest
from ptool.formats.packed import PackedDataset
from ptool.formats.shards import ShardWriter
from ptool.packing.config import PackConfig
from ptool.packing.run import pack
from ptool.packing.source import open_source
from ptool.units import parse_count

SEQ_LEN = 2048
ROWS_AT_ONCE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=parse_count, default=100_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: the temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        work = Path(name)
        num_tokens = token_folder(work / "tok", arguments.tokens)
        print(f"{num_tokens:,} tokens, rows of {SEQ_LEN}")
        copying = wall(lambda: copy(work / "tok", work / "copy"))
        verifying = processor(lambda: open_source(work / "tok").confirm())
        print(f"cp + sync: {copying:.2f} s; reading and checking the digests: {verifying:.2f} s of processor time")
        for strategy in ("concat", "best-fit"):
            config = PackConfig(seq_len=SEQ_LEN, strategy=strategy)  # type: ignore[arg-type]
            started = time.monotonic()
            spent = processor(lambda config=config: pack(work / "tok", work / config.strategy, config))
            took = time.monotonic() - started
            split = PackedDataset.open(work / strategy).train
            padding = split.counts.padding / (split.num_rows * SEQ_LEN)
            print(
                f"{strategy}: {num_tokens / spent / 1e6:.0f} M tokens per second of processor time, "
                f"{took / copying:.2f} times cp + sync, padding {padding:.4%}"
            )
            order = np.random.default_rng(0).permutation(split.num_rows)[: 50 * ROWS_AT_ONCE]
            batches = order.reshape(-1, ROWS_AT_ONCE)
            reading = processor(lambda split=split, batches=batches: [split.rows(rows) for rows in batches])
            print(f"  rows read at random: {batches.size * SEQ_LEN / reading / 1e6:.0f} M tokens per second")


def token_folder(folder: Path, num_tokens: int) -> int:
    """Documents as long as those of web text: log-normal, median 300 tokens, mean 550."""
    draw = np.random.default_rng(0)
    with FolderWriter(folder, stage="tokenize", config={}) as files:
        writer = ShardWriter(files.create, "s", "uint16")
        with writer.opened() as shard, DocumentTableWriter(files.create, "s") as table:
            while shard.num_tokens < num_tokens:
                lengths = np.maximum(draw.lognormal(5.7, 1.1, 20_000), 1).astype(np.int64)
                shard.add(draw.integers(3, 32000, int(lengths.sum()), dtype=np.uint16), lengths)
                records = new_records(len(lengths))
                records["num_tokens"] = lengths
                records["num_bytes"] = 4 * lengths
                records["text_hash"] = draw.integers(0, 2**64, len(lengths), dtype=np.uint64)
                table.add(records, [f"document {number}" for number in range(len(lengths))])
        with files.create("tokenizer.model") as model:
            model.write(b"none")
        details = {
            "vocab_size": 32000,
            "eod_id": 2,
            "pad_id": None,
            "sources": [],
            "shards": [{"name": "s"}],
            "tokenizer": {"file": "tokenizer.model", "fingerprint": "sha256:0"},
        }
        files.commit(new_manifest("tokenize", {}, details=details))
    return shard.num_tokens


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync"], check=True)


def processor(work) -> float:
    """Seconds of processor time, user and system."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def wall(work) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
