"""Passes that cut repeated lines and paragraphs out of texts, or drop documents of n-grams seen before.

One sequential pass over the stream; splitting and hashing run in any number of processes.

- A unit (line or paragraph) is cut out when an earlier unit of the stream is equal to it, or, with a MinHash
  configuration, when it is a near duplicate of one that stayed: the resolver is the one that decides about documents. A
  document of which no unit is left is dropped. Units of the same document count as well.
- Or the n-grams: a document is dropped when more than a share of its n-grams occurred in documents that were kept.

Exact hashes are held in memory, 26 bytes for each unit that stayed. A Bloom filter takes a few bits instead and never
misses a repetition, but cuts out some units that are none, at the rate it reports; with it, results are the same for
any number of jobs, and not those of exact hashes. What was cut out is listed, with its place, on request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.dedup.bloom import BloomFilter
from ptool.dedup.config import DedupConfig
from ptool.dedup.resolver import Resolver
from ptool.dedup.signatures import Description, describe, describe_hashes
from ptool.dedup.units import Units, as_texts, cut, find_units
from ptool.dedup.walk import KEPT
from ptool.dedup.work import Deduplication, index_notice
from ptool.errors import UsageError
from ptool.executors import ordered_map
from ptool.formats.atomic import replacing
from ptool.formats.stages import StageReport, TransformRun
from ptool.formats.streams import STDIN, Lines, StreamReader, read_once
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import BadLine, Batch, Keys, decode
from ptool.text.hashing import Bytes, Hashes, Offsets, hash_shingles, hash_texts
from ptool.text.rewriting import replace_texts
from ptool.text.word_spans import word_spans

HashName = Literal["xxh3", "sha256"]


class PassConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass looks at. `near`: how units are compared if not by their hash.

    `error_rate` (None: exact hashes) and `expected_items` (None: counted first, which takes files) size the Bloom
    filter. `unit` "ngram" drops documents of which more than `max_seen` of the n-grams were seen.
    """

    unit: Literal["line", "paragraph", "ngram"] = "paragraph"
    hash: HashName = "xxh3"
    near: DedupConfig | None = None
    error_rate: float | None = None
    expected_items: int | None = None
    ngram: int = 13
    max_seen: float = 0.8
    seed: int = 1

    def __post_init__(self) -> None:
        if self.unit == "ngram" and self.error_rate is None:
            raise UsageError("n-grams are counted by a Bloom filter", hint="--bloom 0.01")
        if self.near is not None and (self.error_rate is not None or self.near.needs_files):
            raise UsageError(
                "near-duplicate paragraphs take one exact pass", hint="leave out --bloom, --prefer, --cluster"
            )
        if self.ngram < 1 or not 0.0 <= self.max_seen <= 1.0:
            raise UsageError(f"--ngram {self.ngram} and --max-seen {self.max_seen} make no sense", hint="--ngram 13")

    def record(self) -> dict[str, Any]:
        """What the manifest says."""
        found: dict[str, Any] = {"mode": self.unit, "hash": "xxh64" if self.unit == "ngram" else self.hash}
        if self.near is not None:
            found["near"] = self.near.record()
        if self.error_rate is not None:
            found |= {"bloom": self.error_rate, "seed": self.seed}
        if self.unit == "ngram":
            found |= {"ngram": self.ngram, "max_seen": self.max_seen, "words": "cjk"}
        return found


def pass_config(mode: str, near: DedupConfig, **given: Any) -> PassConfig:
    """The configuration of a command line; `near` is that of documents, in force for near-duplicate paragraphs."""
    given = {name: value for name, value in given.items() if value is not None}
    if mode == "minhash":
        given.pop("ngram", None)
        return PassConfig(unit="paragraph", near=near, **given)
    if mode == "exact":
        mode = "paragraph"
    if mode not in ("line", "paragraph", "ngram"):
        raise UsageError(f"--mode {mode} is no pass", hint="line, paragraph or ngram")
    return msgspec.convert({**given, "unit": mode}, PassConfig)


class _Split(msgspec.Struct, frozen=True):
    """A batch with its units (or n-grams) and what they are told by."""

    lines: Lines
    batch: Batch
    bad: list[BadLine]
    units: Any
    description: Description | None
    hashes: Hashes
    doc_offsets: Offsets


def run_pass(
    work: Deduplication,
    config: PassConfig,
    inputs: Sequence[str],
    output: Path | None,
    *,
    removed: Path | None = None,
    reporter: Reporter = SILENT,
) -> StageReport:
    """One pass over `inputs` (none: stdin) into `output` (None: stdout); `removed`: where cut spans are listed.

    Raises UsageError where a Bloom filter is asked for and its size neither given nor to be counted.
    """
    sources = list(inputs) or [STDIN]
    if config.error_rate is not None and config.expected_items is None and read_once(sources):
        raise UsageError("the size of a Bloom filter is not known from a stream", hint="--expected-items 1e9")
    run = TransformRun(
        "dedup",
        {**config.record(), "expected_items": config.expected_items, "keys": msgspec.to_builtins(work.keys)},
        sources,
        output,
        options=work.options,
        reporter=reporter,
        beside={"--removed": removed},
    )
    with run, ExitStack() as stack:
        if run.up_to_date:
            return run.finish()
        splitting = partial(split_lines, config=config, keys=work.keys)
        decider = _Decider(work, config, sources, reporter)
        stack.callback(decider.close)
        listing = stack.enter_context(_listing(removed))
        counts = {"edited": 0, "removed_spans": 0, "removed_bytes": 0}
        for split in ordered_map(splitting, run.lines(), jobs=work.jobs, preload=("ptool.dedup.passes",)):
            _write(run, split, decider.decide(split), config, work.keys, listing, counts)
        details = decider.details() if config.unit == "ngram" else {**counts, **decider.details()}
        if decider.resolver is not None:
            reporter.notice(index_notice(decider.resolver, f"{config.unit}s"))
        return run.finish(details=details)


def split_lines(lines: Lines, config: PassConfig, keys: Keys) -> _Split:
    """Decode a batch and hash its units; runs in any process."""
    batch, bad = decode(lines, keys)
    bare = msgspec.structs.replace(lines, data=b"")
    description = None
    if config.unit == "ngram":
        hashes, doc_offsets = hash_shingles(batch.text, *word_spans(batch.text, batch.offsets), config.ngram)
        return _Split(bare, batch, bad, None, None, hashes, doc_offsets)
    units = find_units(batch.text, batch.offsets, config.unit)
    text, offsets = as_texts(batch.text, units)
    if config.near is not None:
        description = describe(text, offsets, config.near)
    else:
        description = describe_hashes(_hash_units(text, offsets, config.hash))
    return _Split(bare, batch, bad, units, description, description.text_hashes[:, 0], units.doc_offsets)


class _Decider:
    """The memory of a pass: a resolver, or a Bloom filter."""

    def __init__(self, work: Deduplication, config: PassConfig, sources: Sequence[str], reporter: Reporter) -> None:
        self._config = config
        self._bloom: BloomFilter | None = None
        self.resolver: Resolver | None = None
        if config.error_rate is not None:
            items = config.expected_items or _count_items(sources, config, work)
            self._bloom = BloomFilter(items, config.error_rate, config.seed)
        else:
            self.resolver = Resolver(
                config.near or DedupConfig(mode="exact"),
                spool_folder=work.tmp_dir,
                max_memory=work.max_memory,
                reporter=reporter,
            )

    def decide(self, split: _Split) -> npt.NDArray[Any]:
        """bool[units]: which go; of n-grams, float64[documents]: the share that was seen."""
        if self._bloom is None:
            if self.resolver is None or split.description is None:
                raise RuntimeError("a pass has a resolver or a filter")
            gone: npt.NDArray[np.bool_] = self.resolver.resolve(split.description).verdicts != KEPT
            return gone
        if self._config.unit == "ngram":
            return self._bloom.drop_seen(split.hashes, split.doc_offsets, self._config.max_seen)
        return self._bloom.see(np.ascontiguousarray(split.hashes))

    def details(self) -> dict[str, Any]:
        """What the manifest tells about the memory of the pass."""
        if self._bloom is not None:
            return dict(self._bloom.report())
        return self.resolver.counters if self.resolver is not None and self._config.near is not None else {}

    def close(self) -> None:
        if self.resolver is not None:
            self.resolver.close()


def _write(
    run: TransformRun,
    split: _Split,
    decided: npt.NDArray[Any],
    config: PassConfig,
    keys: Keys,
    listing: BinaryIO | None,
    counts: dict[str, int],
) -> None:
    batch = split.batch
    run.at(split.lines)
    drop: dict[int, dict[str, Any]] = {}
    edited: dict[int, bytes] = {}
    if config.unit == "ngram":
        for index in np.flatnonzero(decided > config.max_seen).tolist():
            drop[index] = {"rule": "seen-ngrams", "value": float(decided[index]), "accept": [0.0, config.max_seen]}
    else:
        units: Units = split.units
        touched = np.flatnonzero(np.diff(np.concatenate([[0], np.cumsum(decided)])[units.doc_offsets]))
        for index in touched.tolist():
            left = cut(batch.text, batch.offsets, units, decided, index)
            counts["removed_spans"] += len(left.spans)
            counts["removed_bytes"] += sum(end - start for start, end in left.spans)
            if left.is_empty:
                drop[index] = {"rule": f"repeated-{config.unit}s", "spans": left.spans}
            else:
                edited[index] = left.left
                counts["edited"] += 1
            if listing is not None:
                listing.write(msgspec.json.encode({"id": batch.ids[index], "spans": left.spans}) + b"\n")
    which = np.array(list(edited), dtype=np.int64)
    replaced = replace_texts(batch.lines, batch.line_starts, keys.text, which, list(edited.values()))
    lines = dict(zip(edited, replaced, strict=True))
    kept = [lines.get(index) or batch.line(index) for index in range(len(batch)) if index not in drop]
    run.keep(b"".join(kept), len(kept))
    removed: list[tuple[int, int | BadLine]] = [(int(batch.numbers[index]), index) for index in drop]
    removed += [(line.number, line) for line in split.bad]
    for _, one in sorted(removed, key=lambda pair: pair[0]):
        if isinstance(one, BadLine):
            run.reject(one.raw + b"\n", path=split.lines.path, number=one.number, message=one.message)
        else:
            run.drop(batch.line(one), drop[one])


def _hash_units(text: Bytes, offsets: Offsets, name: HashName) -> Hashes:
    if name == "xxh3":
        return hash_texts(text, offsets)
    view = text.data
    digests = [hashlib.sha256(view[start:end]).digest()[:16] for start, end in pairwise(offsets.tolist())]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def _count_items(sources: Sequence[str], config: PassConfig, work: Deduplication) -> int:
    """Units or n-grams of all inputs, by a pass of its own."""
    counting = partial(_count_lines, config=config, keys=work.keys)
    reader = StreamReader(sources, allow_empty=work.options.allow_empty)
    return max(1, sum(ordered_map(counting, reader, jobs=work.jobs, preload=("ptool.dedup.passes",))))


def _count_lines(lines: Lines, config: PassConfig, keys: Keys) -> int:
    batch, _ = decode(lines, keys)
    if config.unit == "ngram":
        num_words = np.diff(word_spans(batch.text, batch.offsets)[1])
        return int(np.where(num_words > 0, np.maximum(num_words - config.ngram + 1, 1), 0).sum())
    return len(find_units(batch.text, batch.offsets, config.unit).starts)


@contextmanager
def _listing(path: Path | None) -> Iterator[BinaryIO | None]:
    if path is None:
        yield None
    else:
        with replacing(path) as file:
            yield file
