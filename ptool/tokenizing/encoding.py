"""One batch of document lines into tokens: what a worker process does.

A batch that a stopped run has written already is only read again (`known`): its hashes show that it is the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from ptool.errors import InputError
from ptool.formats.documents import Records, new_records
from ptool.formats.streams import Lines
from ptool.reporting import SILENT
from ptool.text.batch import BadLine, Batch, Keys, decode
from ptool.tokenizers.engines import (
    CheckedEngine,
    Difference,
    Encoded,
    Engine,
    EngineMismatch,
    ReferenceEngine,
    open_engine,
)
from ptool.tokenizers.loading import Tokenizer, load_tokenizer
from ptool.tokenizing.lanes import Lane

FIRST_TRIPS = 100
FIRST_TRIP_BYTES = 256 << 10
"""How many texts of the first batch are decoded again, beside the sample of all: so many, or so much text."""
LONGEST_TRIP = 1 << 20
"""Longer texts are not decoded again: the library takes seconds for each megabyte."""


class Encoding(NamedTuple):
    """What a worker must know; small, since it is sent with every batch."""

    tokenizer: Path
    fingerprint: str
    engine: str
    eod_id: int | None
    dtype: str
    keys: Keys
    group_keys: tuple[str, ...] = ()


class Item(NamedTuple):
    """A batch of lines, its number in the input, and whether its tokens are on the disk already.

    Where there is a `lane`, the bytes of the lines are in it.
    """

    lines: Lines
    number: int
    known: bool
    lane: Lane | None = None


class EncodedBatch(NamedTuple):
    """Documents as they go into shards. `tokens` is empty and `num_tokens` 0 where the batch was known."""

    number: int
    path: str
    bad: list[BadLine]
    tokens: npt.NDArray[Any]
    records: Records
    ids: list[str]
    sources: list[str | None]
    group_keys: npt.NDArray[np.uint64]
    """[documents, fields]: the hash of each field's value, 0 where a document has none."""
    tripped: int
    lost: list[str]
    """Ids of documents that decoding did not give back, among `tripped` that were tried."""
    lane: Lane | None
    """What held the text, and is free now."""


def encode_batch(encoding: Encoding, item: Item) -> EncodedBatch:
    """Decode, encode and check one batch. Raises EngineMismatch where the engines differ on a compared text."""
    lines = item.lines if item.lane is None else msgspec.structs.replace(item.lines, data=item.lane.read())
    batch, bad = decode(lines, encoding.keys)
    records = new_records(len(batch))
    view = batch.text.data
    bounds = batch.offsets.tolist()
    records["text_hash"] = [
        xxhash.xxh3_64_intdigest(view[bounds[index] : bounds[index + 1]]) for index in range(len(batch))
    ]
    records["num_bytes"] = np.diff(batch.offsets)
    tokens = np.empty(0, dtype=encoding.dtype)
    lost: list[str] = []
    tripped: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
    if not item.known:
        tokenizer, engine = _loaded(encoding.tokenizer, encoding.fingerprint, encoding.engine)
        encoded = engine.encode(batch.text, batch.offsets)
        chosen = _sampler(tokenizer).chosen(records["text_hash"])
        if isinstance(engine, CheckedEngine):
            found = engine.check(batch.text, batch.offsets, encoded, chosen.tolist())
            if found is not None:
                raise EngineMismatch.of(batch.ids[found.text], found)
        tripped = np.union1d(chosen, _first_texts(batch)) if item.number == 0 else chosen
        tripped = tripped[records["num_bytes"][tripped] <= LONGEST_TRIP]
        lost = [batch.ids[index] for index in tripped.tolist() if not _comes_back(tokenizer, batch, encoded, index)]
        records["num_tokens"] = np.diff(encoded.offsets) + (encoding.eod_id is not None)
        tokens = _with_ends(encoded, encoding.eod_id).astype(encoding.dtype)
    return EncodedBatch(
        item.number,
        item.lines.path,
        bad,
        tokens,
        records,
        batch.ids,
        batch.sources,
        _group_keys(batch, encoding.group_keys),
        len(tripped),
        lost,
        item.lane,
    )


def _group_keys(batch: Batch, fields: tuple[str, ...]) -> npt.NDArray[np.uint64]:
    found = np.zeros((len(batch), len(fields)), dtype=np.uint64)
    for column, field in enumerate(fields):
        found[:, column] = [
            0 if value is None else xxhash.xxh3_64_intdigest(msgspec.json.encode(value, order="sorted")) or 1
            for value in batch.fields(field)
        ]
    return found


def _first_texts(batch: Batch) -> npt.NDArray[np.int64]:
    return np.flatnonzero(batch.offsets[1 : FIRST_TRIPS + 1] <= FIRST_TRIP_BYTES)


def compare_first(engine: CheckedEngine, batch: Batch, limit: int) -> Difference | None:
    """The first difference of the engines on `limit` bytes of texts from the start of a batch, long ones left out."""
    sizes = np.diff(batch.offsets)
    short = np.flatnonzero(sizes <= limit)
    first = short[np.cumsum(sizes[short]) <= limit].tolist()
    return engine.check(batch.text, batch.offsets, engine.encode(batch.text, batch.offsets), first)


def _with_ends(encoded: Encoded, eod_id: int | None) -> npt.NDArray[Any]:
    """The ids with the end-of-document token after each text."""
    if eod_id is None:
        return encoded.ids
    num_texts = len(encoded.offsets) - 1
    tokens = np.full(len(encoded.ids) + num_texts, eod_id, dtype=np.int32)
    is_text = np.ones(len(tokens), dtype=bool)
    is_text[encoded.offsets[1:] + np.arange(num_texts)] = False
    tokens[is_text] = encoded.ids
    return tokens


def _comes_back(tokenizer: Tokenizer, batch: Batch, encoded: Encoded, index: int) -> bool:
    ids = encoded.ids[encoded.offsets[index] : encoded.offsets[index + 1]]
    return tokenizer.decode(ids).encode("utf-8", "surrogatepass") == batch.text_of(index)


_opened: dict[tuple[Path, str, str], tuple[Tokenizer, Engine]] = {}


def remember(encoding: Encoding, tokenizer: Tokenizer, engine: Engine) -> None:
    """What is loaded already; worker processes are forked from here and need not load it again."""
    _opened.clear()
    _opened[encoding.tokenizer, encoding.fingerprint, encoding.engine] = (tokenizer, engine)


def _loaded(path: Path, fingerprint: str, engine: str) -> tuple[Tokenizer, Engine]:
    if (path, fingerprint, engine) not in _opened:
        tokenizer = load_tokenizer(path)
        if tokenizer.fingerprint != fingerprint:
            raise InputError("the tokenizer changed while documents were encoded", where=str(path), hint="start again")
        opened = open_engine("fast" if engine == "fast" else "reference", tokenizer, reporter=SILENT)
        _opened[path, fingerprint, engine] = (tokenizer, opened)
    return _opened[path, fingerprint, engine]


def _sampler(tokenizer: Tokenizer) -> CheckedEngine:
    """Chooses texts as the checked engine does, also where the reference encodes: the manifest counts them."""
    reference = ReferenceEngine(tokenizer)
    return CheckedEngine(reference, reference)
