"""How fast `ptool filter --preset fineweb` is beside datatrove: python tests/benchmarks/filter.py [FILE.jsonl.zst]

    pip install '.[bench]'

Without a file it takes the largest of the shared corpus (PTOOL_SHARED, default ../shared). Everything runs in this one
process on one core and is timed as processor time, in MB of JSON lines per second. ptool's parts are the best of three
on the whole file; datatrove gets the first documents of it, as many as `DATATROVE_BYTES`, which is the same text for
both of its word splitters: its own (spaCy) and `str.split`. `zstd -d | zstd -3` is what merely unpacking and packing
the file costs. Without datatrove its lines are left out.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from ptool.filtering.decisions import judge
from ptool.filtering.recipe import choose_recipe
from ptool.filtering.run import Filtering, filter_stream
from ptool.formats.stages import StreamOptions
from ptool.formats.streams import StreamReader
from ptool.text.batch import Batch, decode

SHARED = Path(os.environ.get("PTOOL_SHARED", Path(__file__).parents[2] / "../shared"))
RECIPE = choose_recipe("fineweb", words="whitespace")
DATATROVE_BYTES = 1_000_000


def main(source: Path) -> None:
    batches = [decode(lines, word_rule="whitespace")[0] for lines in StreamReader([source])]
    size = sum(len(batch.lines) for batch in batches)
    print(f"{source.name}: {sum(map(len, batches)):,} documents, {size / 1e6:.1f} MB of lines; preset fineweb")
    judge(batches[0], RECIPE)  # compile

    def decide() -> None:
        for batch in batches:
            judge(batch.with_texts((batch.text, batch.offsets)), RECIPE)

    def copy() -> None:
        with source.open("rb") as file:
            lines = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
        zstandard.ZstdCompressor(level=3).compress(lines)

    heuristics = rate("ptool, heuristics", size, decide)
    with tempfile.TemporaryDirectory() as folder:
        filtering = Filtering(recipe=RECIPE, options=StreamOptions(force=True))
        whole = rate("ptool, file to file", size, lambda: filter_stream(filtering, [source], Path(folder) / "o.zst"))
    copied = rate("zstd -d | zstd -3", size, copy)
    print(f"  file to file against zstd -d | zstd -3: {whole / copied:.2f} of its speed")
    for name, chain in datatrove_chains():
        texts, taken = first_texts(batches)
        theirs = rate(f"datatrove, {name}", taken, lambda chain=chain, texts=texts: run(chain, texts), times=1)
        print(f"  heuristics against datatrove, {name}: {heuristics / theirs:.0f} times")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak memory of this process, the whole file in it: {peak:.0f} MiB")


def first_texts(batches: list[Batch]) -> tuple[list[str], int]:
    """The first texts of the file, DATATROVE_BYTES of lines, and how many bytes these are."""
    texts = []
    taken = 0
    for batch in batches:
        for index in range(len(batch)):
            if taken < DATATROVE_BYTES:
                texts.append(batch.text_of(index).decode())
                taken += len(batch.line(index))
    return texts, taken


def datatrove_chains() -> list[tuple[str, list[Any]]]:
    """FineWeb's four filters with each word splitter."""
    try:
        from datatrove.pipeline.filters import (
            C4QualityFilter,
            FineWebQualityFilter,
            GopherQualityFilter,
            GopherRepetitionFilter,
        )
        from datatrove.utils.word_tokenizers import WhitespaceTokenizer
    except ImportError:
        print("  datatrove is not installed: pip install '.[bench]'")
        return []

    class Words(WhitespaceTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

    chains = []
    for name, language in (("spaCy words", "eng"), ("whitespace words", Words())):
        filters = [
            GopherRepetitionFilter(language=language),
            GopherQualityFilter(language=language),
            C4QualityFilter(filter_no_terminal_punct=False, language=language),
            FineWebQualityFilter(language=language),
        ]
        run(filters, ["Load the tokenizer. " * 20])
        chains.append((name, filters))
    return chains


def run(filters: list[Any], texts: list[str]) -> None:
    from datatrove.data import Document

    for text in texts:
        document = Document(text=text, id="")
        all(one.filter(document) is True for one in filters)


def rate(name: str, size: int, part: Callable[[], object], times: int = 3) -> float:
    """Print and return MB/s, the best of `times`."""
    best = float("inf")
    for _ in range(times):
        started = time.process_time()  # other work on the machine does not count
        part()
        best = min(best, time.process_time() - started)
    print(f"  {name:<32}{size / best / 1e6:10.2f} MB/s", flush=True)
    return size / best / 1e6


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "data/corpus/books_pd.jsonl.zst")
