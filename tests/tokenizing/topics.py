"""Documents and what is to become of them in shards."""

from __future__ import annotations

import json
import pydoc_data.topics
from pathlib import Path

import xxhash

from ptool.formats.artefacts import open_artefact
from ptool.formats.shards import TokenShards
from ptool.tokenizers.loading import Tokenizer

TOPICS = list(pydoc_data.topics.topics.values())[:40]


DOCUMENTS = [
    *({"text": text, "id": f"topic {number}", "source": "docs"} for number, text in enumerate(TOPICS)),
    {"text": "", "id": "空", "source": "空"},
    {"text": "no id and no source"},
    {"text": "", "id": "twice"},
    {"text": "天地\u2581玄黃\0\r\n", "id": "twice", "source": "docs"},
]


def stream(path: Path, documents=DOCUMENTS) -> Path:
    lines = (json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


def documents_of(folder: Path) -> list[tuple[str, str | None, int, int, list[int]]]:
    """(id, source, text bytes, text hash, tokens) of every document, shard after shard."""
    manifest = open_artefact(folder, stage="tokenize", verify=True)
    sources = manifest.details["sources"]
    opened = TokenShards(folder, [shard["name"] for shard in manifest.details["shards"]])
    found = []
    for shard, table in zip(opened.shards, opened.tables, strict=True):
        for index, record in enumerate(table.records):
            tokens = shard.tokens[shard.starts[index] : shard.starts[index + 1]].tolist()
            source = sources[record["source"]] if record["source"] >= 0 else None
            found.append((table.id(index), source, int(record["num_bytes"]), int(record["text_hash"]), tokens))
    return found


def expected(tokenizer: Tokenizer, documents, origin: str, end: list[int]):
    return [
        (
            document.get("id", f"{origin}#{number}"),
            document.get("source"),
            len(document["text"].encode()),
            xxhash.xxh3_64_intdigest(document["text"].encode()),
            [*tokenizer.encode_batch([document["text"]])[0].tolist(), *end],
        )
        for number, document in enumerate(documents, start=1)
    ]


class Notices:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def notice(self, text: str) -> None:
        self.texts.append(text)

    def progress(self, done: int, total: int | None, *, unit: str, detail: str = "") -> None:
        pass
