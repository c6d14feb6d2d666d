"""Documents in shards and the work on them, for the tests of the file mode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from ptool.dedup.config import DedupConfig
from ptool.dedup.run import Deduplication
from ptool.formats.ledger import ErrorPolicy
from ptool.formats.stages import StreamOptions
from ptool.formats.streams import StreamReader
from tests.dedup.reference import mutated_texts

TEXTS = ["", "one word", " ", *mutated_texts(17, num_families=60, copies=7), "one word", "", "\u3000"]


def work(rejects: Path | None = None, *, jobs: int = 1, on_error: Any = "fail", **config: Any) -> Deduplication:
    policy = ErrorPolicy(rejects=rejects, on_error=on_error, max_errors=100)
    return Deduplication(config=DedupConfig(**config), options=StreamOptions(policy=policy), jobs=jobs)


def write_shards(folder: Path, texts: list[str], num_files: int, lines_per_frame: int) -> list[str]:
    folder.mkdir()
    lines = [json.dumps({"id": f"d{number % 50}", "text": text}).encode() + b"\n" for number, text in enumerate(texts)]
    paths = []
    for position, part in enumerate(np.array_split(np.arange(len(lines)), num_files)):
        chosen = [lines[number] for number in part]
        frames = [b"".join(chosen[at : at + lines_per_frame]) for at in range(0, len(chosen), lines_per_frame)]
        path = folder / f"part-{position}.jsonl.zst"
        path.write_bytes(b"".join(zstandard.compress(frame) for frame in frames))
        paths.append(str(path))
    return paths


def lines_of(path: Path) -> list[dict[str, Any]]:
    data = b"".join(lines.data for lines in StreamReader([path], allow_empty=True))
    return [json.loads(line) for line in data.splitlines()]


class Stop(Exception):
    pass
