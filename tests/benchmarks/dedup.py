"""Dedup beside datasketch on the same documents, and what it finds: python -m tests.benchmarks.dedup

- signatures: ptool's kernels against datasketch's `MinHash.update_batch` fed the same shingles (already cut for it) and
  the same hash function; the signatures must be equal, times are medians of interleaved runs in one process;
- the index: microseconds of processor time and bytes of memory per kept document, for as many distinct made-up
  documents as asked for, and what growing from a tenth of them cost (1.0: linear);
- the command itself, as a stream and by files, on synthetic documents of about 1 kB and on a tenth of them: seconds of
  processor time (what a busy machine does not distort), peak anonymous memory, disk, and the growth (1.0: linear), as
  it is and without the start of the command, which is the same for every input;
- with the real data (PTOOL_SHARED, default ../shared): precision and recall on the labelled pairs, for information.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zstandard
from datasketch import MinHash

from ptool.dedup.config import DedupConfig
from ptool.dedup.resolver import Resolver
from ptool.dedup.signatures import Description, describe
from ptool.text.batch import Batch

DATA = Path(os.environ.get("PTOOL_SHARED", Path(__file__).parents[2] / "../shared")) / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000, help="of about 1 kB each, at least 10,000")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    given.documents = max(given.documents, 10_000)
    compare_signatures(given.seed, given.repeats)
    measure_index(given.documents, given.seed)
    measure_commands(given.documents, given.seed)
    judge_labelled()


def synthetic_texts(count: int, seed: int) -> Iterator[str]:
    """Texts of 50 to 300 words of a Zipf-like vocabulary; every tenth repeats the one before with two words changed."""
    generator = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = np.array(["".join(generator.choice(letters, int(n))) for n in generator.integers(2, 11, 50_000)])
    before = vocabulary[:100]
    for number in range(count):
        words = vocabulary[(generator.random(int(generator.integers(50, 300))) ** 3 * len(vocabulary)).astype(int)]
        if number % 10 == 9:
            words = before.copy()
            words[generator.integers(0, len(words), 2)] = "changed"
        before = words
        yield " ".join(words)


def compare_signatures(seed: int, repeats: int) -> None:
    config = DedupConfig(verify="signature")  # so that the signatures are handed out
    texts = list(synthetic_texts(300, seed))
    batch = Batch.from_texts(texts)
    shingled = [
        [" ".join(words[i : i + config.ngram]).encode() for i in range(len(words) - config.ngram + 1)]
        for words in (text.split() for text in texts)
    ]
    hash32 = lambda shingle: xxhash.xxh64_intdigest(shingle) & 0xFFFFFFFF  # noqa: E731

    def by_datasketch() -> np.ndarray:
        rows = []
        for shingles in shingled:
            minhash = MinHash(config.num_perm, seed=config.seed, hashfunc=hash32, scheme="affine32")
            minhash.update_batch(shingles)
            rows.append(minhash.hashvalues)
        return np.array(rows)

    def by_ptool() -> np.ndarray:
        return describe(batch.text, batch.offsets, config).signatures

    assert (by_datasketch() == by_ptool()).all()
    theirs, ours = interleaved([by_datasketch, by_ptool], repeats)
    rate = len(batch.text) / ours / 1e6
    print(f"signatures: {theirs / ours:.0f} times datasketch's update_batch ({rate:.0f} MB/s of text, words included)")


def interleaved(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each function."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, times in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def measure_index(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    resolver = Resolver(DedupConfig())
    made = 0

    def distinct(size: int) -> Description:
        nonlocal made
        numbers = np.arange(made, made + size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        made += size
        keys = generator.integers(0, 2**64, (size, 14), dtype=np.uint64)
        shingles = generator.integers(0, 2**32, size * 150, dtype=np.uint32)
        return Description(
            np.stack([numbers, numbers], axis=1),
            keys,
            np.ones(size, np.int64),
            np.zeros((size, 0), np.uint32),
            shingles,
            np.arange(size + 1) * 150,
        )

    resolver.resolve(distinct(2000))  # compiled, and the tables have grown once
    before, first, seconds, early, most = anonymous_memory(), resolver.num_kept, 0.0, 0.0, 0.0
    while resolver.num_kept < count:
        batch = distinct(min(2000, count // 20))
        start = time.process_time()
        resolver.resolve(batch)
        seconds += time.process_time() - start
        del batch
        if resolver.num_kept - first <= count // 10:
            early = seconds
        if resolver.num_kept > count // 2:
            most = max(most, (anonymous_memory() - before) / (resolver.num_kept - first))
    kept = resolver.num_kept - first
    print(
        f"index: {kept:,} distinct documents, {seconds / kept * 1e6:.1f} microseconds and {most:.0f} bytes of anonymous"
        f" memory each (at most, from half of them on; {resolver.num_bytes / resolver.num_kept:.0f} reserved);"
        f" growth {seconds / (10 * early):.2f} times linear"
    )


def anonymous_memory(pid: int | str = "self") -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def measure_commands(count: int, seed: int) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        folder = Path(name)
        sizes = (100, count // 10, count)
        for size in sizes:
            write_documents(folder / f"{size}.jsonl", size, seed)
        for options in (["--mode", "exact"], [], ["--plan", "files"]):
            start, tenth = (
                min(measure_command(folder, f"{size}.jsonl", options)[0] for _ in range(3)) for size in sizes[:2]
            )
            whole, said = measure_command(folder, f"{count}.jsonl", options)
            size = (folder / f"{count}.jsonl").stat().st_size
            print(
                f"ptool dedup {' '.join(options)}: {count:,} documents ({size / 1e6:.0f} MB), one job: {said};"
                f" {size / whole / 1e6:.0f} MB/s; growth {whole / (10 * tenth):.2f} times linear,"
                f" {(whole - start) / (10 * (tenth - start)):.2f} times without the {start:.1f} s of the start",
                flush=True,
            )


def write_documents(path: Path, count: int, seed: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(synthetic_texts(count, seed)):
            file.write(json.dumps({"id": str(number), "text": text}) + "\n")


def measure_command(folder: Path, name: str, options: list[str]) -> tuple[float, str]:
    """Processor seconds, and all that was measured as a sentence."""
    out, temporary = folder / "out.jsonl.zst", folder / "tmp"
    temporary.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "ptool", "dedup", str(folder / name), "-o", str(out), "--jobs", "1", "--json"]
    free = shutil.disk_usage(folder).free
    start, anonymous, disk = time.perf_counter(), 0, 0
    process = subprocess.Popen(
        [*command, "--tmp-dir", str(temporary), *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        anonymous = max(anonymous, anonymous_memory(process.pid))
        disk = max(disk, free - shutil.disk_usage(folder).free)
        time.sleep(0.05)
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    assert status == 0, status
    out.unlink()
    seconds = usage.ru_utime + usage.ru_stime
    kept = report["counts"]["kept"]
    return seconds, (
        f"{seconds:.1f} s of processor time ({time.perf_counter() - start:.1f} s by the clock),"
        f" {anonymous / 1e6:.0f} MB of anonymous memory, {disk / 1e6:.0f} MB of disk with the output,"
        f" {kept:,} kept, dropped {report['counts']['dropped_by']}"
    )


def judge_labelled() -> None:
    """Precision and recall of the dropped documents' twins against labels; at 0.8, and at 0.5 for looser likeness."""
    if not DATA.is_dir():
        print("labelled pairs: no real data; set PTOOL_SHARED")
        return
    articles = read(DATA / "labelled/neardup_articles.jsonl.zst")
    pairs = read(DATA / "labelled/neardup_articles_pairs.jsonl.zst")
    posts = read(DATA / "labelled/neardup_crosspost.jsonl.zst")
    licences = read(DATA / "corpus/spdx_licences.jsonl.zst")
    measured = [
        pair
        for pair in read(DATA / "labelled/neardup_exact_jaccard_pairs.jsonl.zst")
        if pair["source"] == "spdx_licences"
    ]
    sets = {
        "articles": (articles, {(pair["a"], pair["b"]) for pair in pairs if pair["dup"]}),
        "cross-posts": (
            read(DATA / "corpus/gov_digitalgov.jsonl.zst") + posts,
            {(post["id"], post["dup_of"]) for post in posts},
        ),
    }
    print("for scale, on another labelled set: text-dedup reports macro F1 0.9518 on CORE")
    for threshold in (0.8, 0.5):
        config = DedupConfig(threshold=threshold)
        for name, (documents, pairs_of_set) in sets.items():
            judge(name, documents, {frozenset(pair) for pair in pairs_of_set}, config)
        true_twins = {frozenset((pair["a"], pair["b"])) for pair in measured if pair["jaccard"] >= threshold}
        judge(f"licences of Jaccard >= {threshold}", licences, true_twins, config)


def judge(name: str, documents: list[dict[str, Any]], truth: set[frozenset[str]], config: DedupConfig) -> None:
    """Recall counts the labelled pairs of which one document was dropped, for whichever twin."""
    batch = Batch.from_texts([document["text"] for document in documents])
    decisions = Resolver(config).resolve(describe(batch.text, batch.offsets, config))
    ids = [document["id"] for document in documents]
    kept = [one for one, verdict in zip(ids, decisions.verdicts, strict=True) if not verdict]
    found = {frozenset((one, kept[twin])) for one, twin in zip(ids, decisions.twins.tolist(), strict=True) if twin >= 0}
    dropped = set(ids) - set(kept)
    precision = len(found & truth) / max(1, len(found))
    recall = sum(1 for pair in truth if pair & dropped) / max(1, len(truth))
    balance = 2 * precision * recall / max(1e-9, precision + recall)
    print(
        f"labelled {name}, threshold {config.threshold}: {len(documents):,} documents, {len(truth)} labelled pairs,"
        f" {len(found)} dropped, precision {precision:.2f}, recall {recall:.2f}, F1 {balance:.2f}"
    )


def read(path: Path) -> list[dict[str, Any]]:
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


if __name__ == "__main__":
    main()
