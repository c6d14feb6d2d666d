"""Tokenizing beside the libraries, in one run: `python tests/benchmarks/tokenizing.py [--text 96MiB]`.

For a byte-level BPE (--vocab-size entries, trained here): `ptool tokenize` as a whole against `tokenizers` encoding the
same texts with all its threads, and against only reading and decoding the stream. For SentencePiece BPE and Unigram:
against SentencePiece's own encoding with as many threads. Prints ratios of processor time (with all processes and
threads) and of the clock, and how many of the compared texts have other ids. The text is the corpus of PTOOL_SHARED,
repeated or cut to --text.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sentencepiece

from ptool.executors import default_jobs
from ptool.formats.shards import Shard
from ptool.formats.streams import StreamReader
from ptool.text.batch import decode
from ptool.tokenizing.run import TokenizeConfig, tokenize
from ptool.tokenizing.vocabulary import VocabularyConfig, train_tokenizer
from ptool.units import parse_bytes, parse_count

SHARED = Path(os.environ.get("PTOOL_SHARED", Path(__file__).parents[2] / ".." / "shared"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=parse_bytes, default=32 << 20)
    parser.add_argument("--vocab-size", type=parse_count, default=32_000)
    parser.add_argument("--sample", type=parse_bytes, default=8 << 20)
    parser.add_argument("--jobs", type=parse_count, default=default_jobs())
    parser.add_argument("--compared", type=parse_bytes, default=8 << 20, help="text given to the slower libraries")
    arguments = parser.parse_args()
    corpus = sorted((SHARED / "data" / "corpus").glob("*.jsonl.zst"))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source, texts = sample(corpus, arguments.text, work / "text.jsonl")
        size = sum(len(text.encode()) for text in texts)
        reading = seconds(lambda: [decode(lines) for lines in StreamReader([source])])
        print(
            f"{len(texts):,} texts, {size:,} bytes; only read and decoded: "
            f"{size / reading[1] / 1e6:.1f} MB/s of processor time"
        )
        some = texts[:: max(1, size // arguments.compared)]
        some_size = sum(len(text.encode()) for text in some)
        for kind in ("byte-bpe", "bpe", "unigram"):
            file = work / ("tokenizer.json" if kind == "byte-bpe" else f"{kind}.model")
            config = VocabularyConfig(
                vocab_size=arguments.vocab_size,
                type=kind,  # type: ignore[arg-type]
                sample_bytes=arguments.sample,
            )
            train_tokenizer(corpus, file, config)
            folder = work / kind
            bare = TokenizeConfig(eod="none")
            ours = seconds(lambda: tokenize([source], folder, file, bare, jobs=arguments.jobs))  # noqa: B023
            encode = library(kind, file, arguments.jobs)
            found: list[list[int]] = []
            theirs = seconds(lambda: found.extend(encode(some)))  # noqa: B023
            wrong = differences(folder, texts, some, found)
            clock, processor = ((size / mine) / (some_size / other) for mine, other in zip(ours, theirs, strict=True))
            print(
                f"{kind}: {processor:.1f} times the library's speed by processor time ({clock:.1f} by the clock): "
                f"{size / ours[1] / 1e6:.1f} MB/s against {some_size / theirs[1] / 1e6:.2f} on {some_size:,} bytes; "
                f"{ours[1] / reading[1]:.2f} times as long as reading; {wrong} differences"
            )


def sample(corpus: list[Path], size: int, target: Path) -> tuple[Path, list[str]]:
    """A plain stream of about `size` bytes of text from all files, and its texts."""
    texts: list[str] = []
    for lines in StreamReader(corpus):
        batch, _ = decode(lines)
        texts.extend(batch.text_of(index).decode() for index in range(len(batch)))
    texts = texts[:: max(1, -(-sum(map(len, texts)) // size))]
    texts *= max(1, size // sum(len(text.encode()) for text in texts))
    target.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return target, texts


def library(kind: str, file: Path, threads: int) -> Callable[[list[str]], list[list[int]]]:
    if kind == "byte-bpe":
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        os.environ["RAYON_NUM_THREADS"] = str(threads)
        import tokenizers

        loaded = tokenizers.Tokenizer.from_file(str(file))
        loaded.encode_special_tokens = True
        return lambda texts: [found.ids for found in loaded.encode_batch_fast(texts, add_special_tokens=False)]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
    return lambda texts: processor.encode(texts, num_threads=threads)


def differences(folder: Path, texts: list[str], some: list[str], found: list[list[int]]) -> int:
    """How many of the compared texts have other ids in the shards; texts that the library loses are left out."""
    shard = Shard(folder / "shard-00000")
    step = len(texts) // len(some) if len(some) < len(texts) else 1
    step = next(each for each in (step, step + 1, 1) if texts[::each][: len(some)] == some)
    return sum(
        not np.array_equal(shard.tokens[shard.starts[at * step] : shard.starts[at * step + 1]], ids)
        for at, (text, ids) in enumerate(zip(some, found, strict=True))
        if "\u2581" not in text
    )


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of processor time with that of all processes and threads."""
    started, before = time.monotonic(), _processor()
    work()
    return time.monotonic() - started, _processor() - before


def _processor() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
