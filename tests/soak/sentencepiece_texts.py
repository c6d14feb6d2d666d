"""Every real text through a BPE and a Unigram tokenizer and back.

    python tests/soak/sentencepiece_texts.py [--seed 1]

Trains both vocabularies on a sample chosen by --seed, then checks for every document that decoding gives back the text,
and that the ids are those of SentencePiece on the whole text (except for texts with U+2581, which the library loses).
Prints a table for each source. BPE on whole long texts is slow in the library, so this takes about two minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import sentencepiece

from ptool.cli.output import plain_table
from ptool.formats.streams import StreamReader
from ptool.text.batch import decode
from ptool.tokenizers.loading import load_tokenizer
from ptool.tokenizing.vocabulary import VocabularyConfig, train_tokenizer
from ptool.units import parse_bytes, parse_count

SHARED = Path(os.environ.get("PTOOL_SHARED", Path(__file__).parents[2] / ".." / "shared"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=parse_count, default=0)
    parser.add_argument("--vocab-size", type=parse_count, default=16_000)
    parser.add_argument("--sample", type=parse_bytes, default=8 << 20)
    arguments = parser.parse_args()
    corpus = sorted((SHARED / "data" / "corpus").glob("*.jsonl.zst"))
    wrong = 0
    for kind in ("bpe", "unigram"):
        with tempfile.TemporaryDirectory() as folder:
            config = VocabularyConfig(
                vocab_size=arguments.vocab_size, type=kind, sample_bytes=arguments.sample, seed=arguments.seed
            )
            train_tokenizer(corpus, Path(folder) / "tok.model", config)
            rows, lost = check(Path(folder) / "tok.model", corpus)
        wrong += lost
        sys.stdout.write(f"\n{kind}\n" + plain_table(HEADER, rows))
    sys.stdout.write(f"\n{wrong} differences\n")
    return 1 if wrong else 0


HEADER = ("source", "documents", "bytes", "bytes/token", "not the same text", "other ids", "MB/s", "library MB/s")


def check(model: Path, corpus: list[Path]) -> tuple[list[list[str]], int]:
    """A row of results for each file, and the number of differences."""
    tokenizer = load_tokenizer(model)
    library = sentencepiece.SentencePieceProcessor(model_file=str(model))
    rows, wrong = [], 0
    for path in corpus:
        documents = num_bytes = num_tokens = lost = other = 0
        ours = theirs = 0.0
        for lines in StreamReader([path]):
            batch, _ = decode(lines)
            texts = [batch.text_of(index).decode() for index in range(len(batch))]
            started = time.monotonic()
            encoded = tokenizer.encode_batch(texts)
            between = time.monotonic()
            expected = library.encode(texts, return_type="numpy", num_threads=1)
            theirs += time.monotonic() - between
            ours += between - started
            for text, ids, reference in zip(texts, encoded, expected, strict=True):
                lost += tokenizer.decode(ids) != text
                other += "\u2581" not in text and not np.array_equal(ids, reference)
            documents += len(batch)
            num_bytes += len(batch.text)
            num_tokens += sum(map(len, encoded))
        wrong += lost + other
        speeds = [f"{num_bytes / seconds / 1e6:.1f}" for seconds in (ours, theirs)]
        name = path.name.removesuffix(".jsonl.zst")
        counts = [f"{documents:,}", f"{num_bytes:,}", f"{num_bytes / num_tokens:.2f}", str(lost), str(other)]
        rows.append([name, *counts, *speeds])
    return rows, wrong


if __name__ == "__main__":
    sys.exit(main())
