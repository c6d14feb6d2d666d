"""Dedup beside rensa, text-dedup and datatrove, same documents, one process: python -m tests.benchmarks.dedup_peers

The peers and ptool's requirements disagree about versions, so this runs in an environment of its own, with this
repository on the path (PYTHONPATH=.): `pip install rensa datatrove spacy tokenizers "xxhash<4" datasketch numba msgspec
zstandard`, and text-dedup with what it asks for. What is not installed is named and left out. Times are processor time,
workers included, without imports and compilation; the documents are those of tests.benchmarks.dedup, one file of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import xxhash

from ptool.dedup.config import DedupConfig
from ptool.dedup.run import Deduplication, dedup_stream
from ptool.dedup.signatures import describe, sign_shingles
from ptool.text.batch import Batch
from ptool.text.hashing import hash_shingles
from ptool.text.word_spans import word_spans
from tests.benchmarks.dedup import synthetic_texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    texts = list(synthetic_texts(given.documents, given.seed))
    compare_rensa(texts[:1000], given.repeats)
    compare_datatrove_signatures(texts[:300])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in" / "documents.jsonl"
        source.parent.mkdir()
        source.write_text(
            "".join(json.dumps({"id": str(number), "text": text}) + "\n" for number, text in enumerate(texts))
        )
        run_ptool(folder, source)  # compiles
        ours = min(processor_seconds(lambda: run_ptool(folder, source)) for _ in range(given.repeats))
        print(f"ptool dedup: {ours:.3f} s for {len(texts):,} documents, {source.stat().st_size / ours / 1e6:.0f} MB/s")
        for peer, run in (("datatrove", run_datatrove), ("text_dedup", run_text_dedup)):
            if missing(peer):
                continue
            try:
                theirs = processor_seconds(lambda run=run: run(folder, source))  # type: ignore[misc]
            except Exception as error:  # noqa: BLE001  # whatever a peer raises is said, and the rest goes on
                print(f"{peer}: does not run here: {type(error).__name__}: {str(error)[:200]}")
                continue
            print(f"{peer}: {theirs:.1f} s, ptool is {theirs / ours:.0f} times as fast", flush=True)


def missing(package: str) -> bool:
    if find_spec(package) is None:
        print(f"{package}: not installed, left out")
        return True
    return False


def processor_seconds(function: Callable[[], object]) -> float:
    """Processor time of this process and of its children that ended."""
    before = os.times()
    function()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def compare_rensa(texts: list[str], repeats: int) -> None:
    if missing("rensa"):
        return
    from rensa import RMinHash

    config = DedupConfig(verify="signature")
    batch = Batch.from_texts(texts)
    shingled = [
        [" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)]
        for words in (text.split() for text in texts)
    ]

    def by_rensa() -> None:
        for shingles in shingled:
            minhash = RMinHash(num_perm=config.num_perm, seed=1)
            minhash.update(shingles)
            minhash.digest()

    def by_ptool() -> None:
        for _ in range(10):  # processor time is counted in hundredths of a second
            describe(batch.text, batch.offsets, config)

    def from_spans() -> None:
        for _ in range(10):
            sign_shingles(*hash_shingles(batch.text, *spans, config.ngram), config)

    by_ptool()
    spans = word_spans(batch.text, batch.offsets)
    whole, ours, theirs = [], [], []
    for _ in range(repeats):
        whole.append(processor_seconds(by_ptool))
        ours.append(processor_seconds(from_spans))
        theirs.append(processor_seconds(lambda: [by_rensa() for _ in range(10)]))
    ratio = statistics.median(theirs) / statistics.median(ours)
    with_words = statistics.median(theirs) / statistics.median(whole)
    print(
        f"signatures: {ratio:.1f} times rensa's RMinHash {version('rensa')} fed ready-made n-grams, ours from words;"
        f" {with_words:.1f} times with splitting words and hashing texts counted as well"
    )


def compare_datatrove_signatures(texts: list[str]) -> None:
    """Not a race: the values must be the same."""
    if missing("datatrove"):
        return
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig

    config = DedupConfig.datatrove()
    theirs = MinhashDedupSignature("/tmp", config=MinhashConfig(hash_config=HashConfig(precision=64)))
    batch = Batch.from_texts(texts)
    spans = word_spans(batch.text, batch.offsets, "whitespace")
    ours = sign_shingles(*hash_shingles(batch.text, *spans, 5, short_texts=False), config)
    for text, signature in zip(texts, ours, strict=True):
        words = text.split()
        hashes = [xxhash.xxh64_intdigest(" ".join(words[i : i + 5])) for i in range(len(words) - 4)]
        expected = theirs.get_signature(np.array(hashes, dtype=np.uint64)[:, None])
        assert [value for band in expected for value in band] == signature.tolist()
    print(f"signatures with --compat datatrove: {len(texts)} of {len(texts)} equal to datatrove's own")


def run_ptool(folder: Path, source: Path) -> None:
    out = folder / "out.jsonl.zst"
    out.unlink(missing_ok=True)
    dedup_stream(Deduplication(), [source], out)


def run_datatrove(folder: Path, source: Path) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(hash_config=HashConfig(precision=64))
    at = {name: str(folder / "datatrove" / name) for name in ("signatures", "buckets", "clusters", "output", "logs")}
    reader = JsonlReader(str(source.parent))
    stages = [
        ([reader, MinhashDedupSignature(at["signatures"], config=config)], 1),
        ([MinhashDedupBuckets(at["signatures"], at["buckets"], config=config)], config.num_buckets),
        ([MinhashDedupCluster(at["buckets"], at["clusters"], config=config)], 1),
        ([reader, MinhashDedupFilter(at["clusters"]), JsonlWriter(at["output"])], 1),
    ]
    for number, (steps, tasks) in enumerate(stages):
        LocalPipelineExecutor(pipeline=steps, tasks=tasks, workers=1, logging_dir=f"{at['logs']}/{number}").run()


def run_text_dedup(folder: Path, source: Path) -> None:
    from text_dedup.minhash import main

    options = {
        "--path": "json",
        "--data_files": str(source),
        "--split": "train",
        "--cache_dir": str(folder / "text_dedup" / "cache"),
        "--output": str(folder / "text_dedup" / "output"),
        "--column": "text",
        "--ngram": "5",
        "--threshold": "0.8",
        "--num_perm": "112",
        "--num_proc": "1",
    }
    main([part for option in options.items() for part in option], standalone_mode=False)


if __name__ == "__main__":
    main()
