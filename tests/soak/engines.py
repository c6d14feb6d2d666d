"""Every text of the real data through both engines, for each backend: `python tests/soak/engines.py --seed 1`.

Trains a byte-level BPE on a sample chosen by --seed and a SentencePiece BPE, and makes rank files of the first, one for
every pattern. For each, the ids of the fast engine must be the library's on every text, and every text must come back.
Prints a table. The libraries take minutes: --every N takes one text in N, --only NAME those tokenizers whose file name
has NAME in it (tokenizer.json, tok.model, cl100k, ...).
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from ptool.cli.output import plain_table
from ptool.formats.streams import StreamReader
from ptool.reporting import SILENT
from ptool.text.batch import Batch, decode
from ptool.tokenizers.engines import CheckedEngine, open_engine
from ptool.tokenizers.hf import byte_alphabet
from ptool.tokenizers.loading import load_tokenizer
from ptool.tokenizers.tiktoken_ranks import PATTERNS
from ptool.tokenizing.vocabulary import VocabularyConfig, train_tokenizer
from ptool.units import parse_bytes, parse_count

SHARED = Path(os.environ.get("PTOOL_SHARED", Path(__file__).parents[2] / ".." / "shared"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=parse_count, default=0)
    parser.add_argument("--vocab-size", type=parse_count, default=16_000)
    parser.add_argument("--sample", type=parse_bytes, default=4 << 20)
    parser.add_argument("--every", type=parse_count, default=1)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    corpus = sorted((SHARED / "data" / "corpus").glob("*.jsonl.zst"))
    rows, wrong = [], 0
    with tempfile.TemporaryDirectory() as name:
        for file in tokenizers(Path(name), corpus, arguments):
            if arguments.only not in file.name:
                continue
            row, bad = compare(file, corpus, arguments.every)
            rows.append(row)
            wrong += bad
    header = ("tokenizer", "texts", "bytes", "other ids", "not the same text", "fast MB/s", "library MB/s")
    sys.stdout.write(plain_table(header, rows) + f"\n{wrong} differences\n")
    return 1 if wrong else 0


def tokenizers(folder: Path, corpus: list[Path], arguments: argparse.Namespace) -> list[Path]:
    files = []
    for kind, name in (("byte-bpe", "tokenizer.json"), ("bpe", "tok.model")):
        config = VocabularyConfig(
            vocab_size=arguments.vocab_size,
            type=kind,  # type: ignore[arg-type]
            sample_bytes=arguments.sample,
            seed=arguments.seed,
        )
        train_tokenizer(corpus, folder / name, config)
        files.append(folder / name)
    vocabulary = msgspec.json.decode(files[0].read_bytes())["model"]["vocab"]
    value = {letter: bytes([byte]) for byte, letter in enumerate(byte_alphabet())}
    pieces = sorted((number, piece) for piece, number in vocabulary.items() if not piece.startswith("<|endof"))
    tokens = [b"".join(value[letter] for letter in piece) for _, piece in pieces]
    for pattern in PATTERNS:
        files.append(folder / f"mine.{pattern}.tiktoken")
        lines = (base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
        files[-1].write_bytes(b"".join(lines))
    return files


def compare(file: Path, corpus: list[Path], every: int) -> tuple[list[str], int]:
    tokenizer = load_tokenizer(file)
    engine = open_engine("fast", tokenizer, reporter=SILENT)
    assert isinstance(engine, CheckedEngine)
    texts = size = other = lost = 0
    fast = library = 0.0
    for lines in StreamReader(corpus):
        whole, _ = decode(lines)
        batch = Batch.from_texts([whole.text_of(at).decode() for at in range(0, len(whole), every)])
        started = time.process_time()
        found = engine.encode(batch.text, batch.offsets)
        between = time.process_time()
        expected = engine.reference.encode(batch.text, batch.offsets)
        library += time.process_time() - between
        fast += between - started
        for at in range(len(batch)):
            ids = found.ids[found.offsets[at] : found.offsets[at + 1]]
            other += not np.array_equal(ids, expected.ids[expected.offsets[at] : expected.offsets[at + 1]])
            lost += tokenizer.decode(ids).encode() != batch.text_of(at)
        texts += len(batch)
        size += len(batch.text)
    counts = [f"{texts:,}", f"{size:,}", str(other), str(lost)]
    return [file.name, *counts, f"{size / fast / 1e6:.1f}", f"{size / library / 1e6:.2f}"], other + lost


if __name__ == "__main__":
    sys.exit(main())
