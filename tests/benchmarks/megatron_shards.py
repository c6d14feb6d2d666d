"""Token shards and megatron-core, both directions: `python tests/benchmarks/megatron_shards.py` (needs megatron-core).

What ptool writes, `IndexedDataset` reads with the same documents, for both dtypes; what `IndexedDatasetBuilder` writes,
ptool reads, and where every document is one sequence the files are the same bytes.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ptool.formats.shards import Shard, ShardWriter, token_dtype


def main() -> int:
    try:
        import torch
        from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
    except ImportError as error:
        print(f"left out: {error}; pip install megatron-core")
        return 0
    draw = np.random.default_rng(0)
    wrong = 0
    for vocab_size in (32_000, 65_499, 65_500, 128_256):
        dtype = token_dtype(vocab_size)
        lengths = [0, 1, *draw.integers(0, 3000, 200).tolist(), 0]
        documents = [draw.integers(0, vocab_size, length) for length in lengths]
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)

            @contextmanager
            def create(file: str, work: Path = work):
                with (work / file).open("wb") as opened:
                    yield opened

            with ShardWriter(create, "ours", dtype).opened() as shard:
                shard.add(np.concatenate(documents), np.array(lengths, dtype=np.int64))
            theirs = IndexedDataset(str(work / "ours"))
            wrong += theirs.index.dtype != np.dtype(dtype)
            wrong += len(theirs) != len(documents)
            wrong += sum(not np.array_equal(theirs[at], document) for at, document in enumerate(documents))

            builder = IndexedDatasetBuilder(str(work / "theirs.bin"), dtype=np.dtype(dtype).type)
            for document in documents:
                builder.add_document(torch.from_numpy(document), [len(document)])
            builder.finalize(str(work / "theirs.idx"))
            ours = Shard(work / "theirs")
            wrong += ours.num_documents != len(documents)
            for at, document in enumerate(documents):
                wrong += not np.array_equal(ours.tokens[ours.starts[at] : ours.starts[at + 1]], document)
            same = all(
                (work / f"ours.{end}").read_bytes() == (work / f"theirs.{end}").read_bytes() for end in ("bin", "idx")
            )
            wrong += not same
            print(f"vocabulary of {vocab_size:,}: {dtype}, {len(documents)} documents, the same bytes: {same}")
    print(f"{wrong} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
