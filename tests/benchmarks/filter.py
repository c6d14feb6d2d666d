"""How fast `ptool filter --preset gopher-quality` is on one core: python tests/benchmarks/filter.py [FILE.jsonl.zst]

Without a file it takes the largest of the shared corpus (PTOOL_SHARED, default ../shared). Every part is timed in this
one run on the same lines, the best of five, in MB of JSON lines per second; `zstd -3` is what merely unpacking and
packing the file costs.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zstandard

from ptool.filtering.decisions import decide, judge
from ptool.filtering.recipe import choose_recipe
from ptool.filtering.run import Filtering, filter_stream
from ptool.formats.stages import StreamOptions
from ptool.formats.streams import Lines, StreamReader, StreamWriter
from ptool.text.batch import Keys, decode
from ptool.text.lines import split_lines
from ptool.text.words import split_words

SHARED = Path(os.environ.get("PTOOL_SHARED", Path(__file__).parents[2] / "../shared"))
RECIPE = choose_recipe("gopher-quality")


def main(source: Path) -> None:
    batches = list(StreamReader([source]))
    num_bytes = sum(len(lines.data) for lines in batches)
    decoded = [decode(lines)[0] for lines in batches]
    documents = sum(map(len, decoded))
    num_words = sum(len(split_words(batch.text, batch.offsets).starts) for batch in decoded)
    print(f"{source.name}: {documents:,} documents, {num_bytes / 1e6:.1f} MB of lines, {num_words / 1e6:.1f} M words")

    def unpack() -> bytes:
        with source.open("rb") as file:
            return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()

    data = unpack()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.jsonl.zst"
        filtering = Filtering(recipe=RECIPE, options=StreamOptions(force=True))
        parts: dict[str, Callable[[], object]] = {
            "read (zstd -d, checks, digest)": lambda: list(StreamReader([source])),
            "decode into columns": lambda: [decode(lines) for lines in batches],
            "split words": lambda: [split_words(batch.text, batch.offsets) for batch in decoded],
            "split lines": lambda: [split_lines(batch.text, batch.offsets) for batch in decoded],
            "all rules, words and lines included": lambda: [judge(fresh(lines), RECIPE) for lines in decoded],
            "decide (decode, rules, select)": lambda: [decide(lines, RECIPE, Keys()) for lines in batches],
            "write (zstd -3)": lambda: write(batches),
            "whole command, file to file": lambda: filter_stream(filtering, [source], output),
            "zstd -d | zstd -3": lambda: zstandard.ZstdCompressor(level=3).compress(unpack()),
        }
        seconds = {name: best_of_five(part) for name, part in parts.items()}
    for name, taken in seconds.items():
        print(f"  {name:<38}{len(data) / taken / 1e6:8.0f} MB/s")
    ratio = seconds["zstd -d | zstd -3"] / seconds["whole command, file to file"]
    print(f"  whole command against zstd -d | zstd -3: {ratio:.2f} of its speed")


def fresh(batch: object) -> object:
    """The batch without the words and lines it has kept."""
    for name in ("words", "text_lines"):
        batch.__dict__.pop(name, None)
    return batch


def write(batches: list[Lines]) -> None:
    writer = StreamWriter(io.BytesIO(), stage="filter")
    for lines in batches:
        writer.write(lines.data)


def best_of_five(part: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        started = time.process_time()  # other work on the machine does not count
        part()
        times.append(time.process_time() - started)
    return float(np.min(times))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "data/corpus/books_pd.jsonl.zst")
