"""Tokenizing beside the libraries, in one run on one file: `python tests/benchmarks/tokenizing.py [--language en]`.

For a byte-level BPE (--vocab-size entries, trained here): `ptool tokenize` as a whole against `tokenizers` encoding the
same texts with all its threads, and against only reading and decoding the stream. For SentencePiece BPE and Unigram:
against SentencePiece's own encoding with as many threads. The libraries get the texts ready in memory. Prints ratios of
processor time (with all processes and threads) and of the clock, and how many texts have other ids. The file has the
lines of the corpus of PTOOL_SHARED; --every N takes one in N, --language those in one language, --only one kind. With
--repeat N the file has them N times, as a corpus of gigabytes makes up for what a start costs; the libraries get the
texts once, and N times their time is what is compared.
"""

from __future__ import annotations

import argparse
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
from ptool.text.batch import Keys, decode
from ptool.tokenizing.run import TokenizeConfig, tokenize
from ptool.tokenizing.vocabulary import VocabularyConfig, train_tokenizer
from ptool.units import parse_bytes, parse_count

SHARED = Path(os.environ.get("PTOOL_SHARED", Path(__file__).parents[2] / ".." / "shared"))


KINDS = ("byte-bpe", "bpe", "unigram")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=parse_count, default=4)
    parser.add_argument("--language", default=None)
    parser.add_argument("--repeat", type=parse_count, default=1)
    parser.add_argument("--only", choices=KINDS, default=None)
    parser.add_argument("--vocab-size", type=parse_count, default=32_000)
    parser.add_argument("--sample", type=parse_bytes, default=8 << 20)
    parser.add_argument("--tokenizers", type=Path, default=None, help="where trained tokenizers are kept")
    parser.add_argument("--jobs", type=parse_count, default=default_jobs())
    arguments = parser.parse_args()
    corpus = sorted((SHARED / "data" / "corpus").glob("*.jsonl.zst"))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source, texts = select(corpus, arguments.every, arguments.language, work / "text.jsonl")
        source.write_bytes(source.read_bytes() * arguments.repeat)
        size = sum(len(text.encode()) for text in texts) * arguments.repeat
        reading = seconds(lambda: [decode(lines) and None for lines in StreamReader([source])])
        print(
            f"{len(texts):,} texts, {arguments.repeat} times, {size:,} bytes; only read and decoded: "
            f"{size / reading[1] / 1e6:.1f} MB/s of processor time"
        )
        for kind in [arguments.only] if arguments.only else KINDS:
            file = trained(kind, corpus, arguments.tokenizers or work, arguments)
            folder = work / kind
            bare = TokenizeConfig(eod="none")
            ours = seconds(lambda: tokenize([source], folder, file, bare, jobs=arguments.jobs))  # noqa: B023
            encode = library(kind, file, arguments.jobs)
            found: list[list[int]] = []
            theirs = seconds(lambda: found.extend(encode(texts)))  # noqa: B023
            theirs = (theirs[0] * arguments.repeat, theirs[1] * arguments.repeat)
            clock, processor = (other / mine for mine, other in zip(ours, theirs, strict=True))
            print(
                f"{kind}: {processor:.1f} times the library's speed by processor time ({clock:.1f} by the clock): "
                f"{size / ours[1] / 1e6:.1f} MB/s against {size / theirs[1] / 1e6:.2f}; "
                f"{ours[1] / reading[1]:.2f} times as long as reading; {differences(folder, texts, found)} differences"
            )


def select(corpus: list[Path], every: int, language: str | None, target: Path) -> tuple[Path, list[str]]:
    """The chosen lines as they are, in one plain file, and their texts."""
    texts: list[str] = []
    keys = Keys(source="lang")
    with target.open("wb") as file:
        for lines in StreamReader(corpus):
            batch, _ = decode(lines, keys)
            for index in range(len(batch)):
                if language in (None, batch.sources[index]) and batch.numbers[index] % every == 0:
                    file.write(batch.line(index))
                    texts.append(batch.text_of(index).decode())
    return target, texts


def trained(kind: str, corpus: list[Path], folder: Path, arguments: argparse.Namespace) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / ("tokenizer.json" if kind == "byte-bpe" else f"{kind}.model")
    if not file.exists():
        config = VocabularyConfig(
            vocab_size=arguments.vocab_size,
            type=kind,  # type: ignore[arg-type]
            sample_bytes=arguments.sample,
        )
        train_tokenizer(corpus, file, config)
    return file


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


def differences(folder: Path, texts: list[str], found: list[list[int]]) -> int:
    """How many texts have other ids in the shards; texts with a mark that SentencePiece loses are left out."""
    shard = Shard(folder / "shard-00000")
    return sum(
        not np.array_equal(shard.tokens[shard.starts[at] : shard.starts[at + 1]], ids)
        for at, (text, ids) in enumerate(zip(texts, found, strict=True))
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
