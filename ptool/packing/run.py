"""Packing token shards into rows of one length, ready for training.

The plan (plan.py) is made from document lengths alone; then rows are filled in batches by copying spans out of the
memory-mapped shards. Nothing is added: every token that comes in goes out exactly once, in `train` or in `holdout`, and
only the ends of rows are padded. Memory is the plan (about 100 bytes a document and row) and one batch of rows.

One process does it: planning runs at 200 million tokens a second or more, copying at the speed of the disk. Digests of
what is read and written are taken by threads meanwhile, and nothing is published before the input is known to be whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.errors import UsageError
from ptool.formats.artefacts import FolderWriter, is_whole
from ptool.formats.documents import NO_SOURCE, Records
from ptool.formats.manifests import Counts, Manifest, new_manifest
from ptool.formats.packed import SPLITS, PackedLayout, SplitCounts
from ptool.formats.packed_writer import SplitWriter, rows_per_shard
from ptool.packing.holdout import choose_holdout
from ptool.packing.holdout import mix as scramble
from ptool.packing.mixing import choose_documents, plan_mix, shares_by_temperature, shuffle_documents
from ptool.packing.plan import Integers, Plan, Strategy, plan_rows, reorder
from ptool.packing.source import TokenSource, open_source
from ptool.reporting import SILENT, Reporter

STAGE = "pack"
_BATCH_TOKENS = 4 << 20
_MAX_SEQ_LEN = 1 << 30


class PackConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What determines the rows, beside the tokens."""

    seq_len: int
    strategy: Strategy = "concat"
    holdout: float = 0.005
    """The share of documents set apart for evaluation, by hash of the text (holdout.py)."""
    seed: int = 0
    """Keys the choice of held-out documents, of those of a last epoch, and the order of `shuffle`."""
    shuffle: bool = False
    """Documents before they are packed, and rows after, in an order that hashes of the texts give."""
    mix: dict[str, float] = {}
    """The share of each source in the training rows (mixing.py); empty for what there is."""
    temperature: float | None = None
    """The same by p_i proportional to n_i^(1/T)."""
    tokens: int | None = None
    """Training tokens of the mix; as many as there are where it is not given."""
    max_epochs: float = 4.0
    source: str | None = None
    """Documents of this source alone ("-" for those without one); None for all."""
    max_doc_pieces: int | None = None
    """A document is cut off after so many rows; the manifest counts what is left out."""

    def __post_init__(self) -> None:
        if not 2 <= self.seq_len <= _MAX_SEQ_LEN:
            message = f"rows of {self.seq_len:,} tokens"
            raise UsageError(message, hint=f"from 2 to {_MAX_SEQ_LEN:,}; for example --seq-len 2048")
        if self.source is not None and (self.mix or self.temperature is not None):
            raise UsageError("one source alone is no mix", hint="leave --mix and --temperature to the training run")
        if self.mix and self.temperature is not None:
            raise UsageError("a mix and a temperature exclude each other", hint="give one")
        if not 0 < self.max_epochs < float("inf"):
            raise UsageError(f"at most {self.max_epochs} epochs", hint="for example --max-epochs 4")
        if self.tokens is not None and self.tokens < 1:
            raise UsageError("a mix of no tokens", hint="for example --tokens 100B")
        if self.max_doc_pieces is not None and self.max_doc_pieces < 1:
            raise UsageError("documents of no pieces", hint="for example --max-doc-pieces 4")
        if not 0 <= self.holdout < 1:
            raise UsageError(f"a holdout of {self.holdout}", hint="less than 1; for example --holdout 0.5%")


class PackReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: the folder, its manifest, and whether nothing had to be done."""

    manifest: Manifest
    output: Path
    up_to_date: bool = False


def pack(
    tokens: Path,
    output: Path,
    config: PackConfig,
    *,
    tokenizer: Path | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> PackReport:
    """Pack a token folder, or a pair of Megatron files with their `tokenizer`, into `output`.

    Raises DamagedInput for a shard that is not the one its manifest tells of, UsageError where `output` holds other
    work.
    """
    if output.resolve() == tokens.resolve():
        raise UsageError("-o is also the input", where=str(output), hint="give another name")
    return _pack(open_source(tokens, tokenizer), output, config, force, reporter)


def pack_by_source(
    tokens: Path,
    output: Path,
    config: PackConfig,
    *,
    tokenizer: Path | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> dict[str, PackReport]:
    """Pack every source into a folder of its own below `output`, to be mixed while training; by name of the source."""
    source = open_source(tokens, tokenizer)
    reports = {}
    for name in _tokens_by_source(source.records, source.sources):
        reporter.notice(f"packing {name}")
        folder = output / quote(name, safe=" ")
        reports[name] = _pack(source, folder, msgspec.structs.replace(config, source=name), force, reporter)
    return reports


def _pack(source: TokenSource, output: Path, config: PackConfig, force: bool, reporter: Reporter) -> PackReport:
    settings = _settings(config, source)
    writer = FolderWriter(output, stage=STAGE, config=settings, force=force)
    if writer.existing is not None and is_whole(output, writer.existing):
        source.confirm()
        reporter.notice(f"up to date: {output}")
        return PackReport(manifest=writer.existing, output=output, up_to_date=True)

    records = source.records
    vocabulary = source.vocabulary
    per_shard = rows_per_shard(config.seq_len, vocabulary.dtype)
    prepared = _prepare(source, config, reporter)
    num_tokens, packed = sum(int(part.lengths.sum()) for part in prepared.splits.values()), 0
    splits: dict[str, SplitCounts] = {}
    shape: dict[str, Any] = {}
    with writer:
        for name, part in prepared.splits.items():
            plan = _plan(part, records, config)
            split = SplitWriter(
                writer.create_digested, name, seq_len=config.seq_len, dtype=vocabulary.dtype, rows_per_shard=per_shard
            )
            with split.opened():
                listed = records[part.documents]
                listed["num_tokens"] = part.lengths
                split.add_documents(listed, *source.ids(part.documents), source.sources)
                for done in _fill(split, source, part, plan, config.seq_len):
                    reporter.progress(packed + done, num_tokens, unit="tokens")
            packed += split.counts.tokens
            splits[name] = split.counts
            shape[name] = _shape(plan)
        source.confirm()
        writer.copy(vocabulary.file, vocabulary.artefact_name)
        layout = PackedLayout(
            seq_len=config.seq_len,
            vocab_size=vocabulary.vocab_size,
            dtype=vocabulary.dtype,
            eod_id=vocabulary.eod_id,
            pad_id=vocabulary.padding,
            rows_per_shard=per_shard,
            sources=source.sources,
            tokenizer=vocabulary.artefact_name,
            tokenizer_fingerprint=vocabulary.fingerprint,
            splits=splits,
        )
        manifest = writer.commit(
            new_manifest(
                STAGE,
                settings,
                counts=_counts(len(records), prepared),
                num_documents=sum(len(part.documents) for part in prepared.splits.values()),
                num_tokens=num_tokens,
                num_bytes=sum(int(records["num_bytes"][part.documents].sum()) for part in prepared.splits.values()),
                details={
                    "layout": msgspec.to_builtins(layout),
                    "documents_in_pieces": {name: shape[name][0] for name in SPLITS},
                    "tokens_in_later_pieces": {name: shape[name][1] for name in SPLITS},
                    "sum_squared_documents": _sum_of_squares(
                        np.concatenate([part.lengths for part in prepared.splits.values()])
                    ),
                    "tokens_left_out": prepared.left_out,
                    "mix": prepared.mix,
                    "tokens_by_document_length": _by_length(source, prepared.splits["train"]),
                },
                upstream=source.upstream,
            )
        )
    return PackReport(manifest=manifest, output=output)


def preview(
    tokens: Path, output: Path, config: PackConfig, *, tokenizer: Path | None = None, force: bool = False
) -> dict[str, SplitCounts]:
    """What `pack` would make, in numbers, with nothing written. Raises what `pack` would raise."""
    source = open_source(tokens, tokenizer)
    source.confirm()
    FolderWriter(output, stage=STAGE, config=_settings(config, source), force=force)
    found: dict[str, SplitCounts] = {}
    for name, part in _prepare(source, config, SILENT).splits.items():
        plan = _plan(part, source.records, config)
        num_tokens = int(part.lengths.sum())
        found[name] = SplitCounts(
            rows=len(plan.counts),
            documents=len(part.documents),
            tokens=num_tokens,
            padding=len(plan.counts) * config.seq_len - num_tokens,
            pieces=len(plan.spans),
        )
    return found


def _settings(config: PackConfig, source: TokenSource) -> dict[str, Any]:
    return {**msgspec.to_builtins(config), "input": source.identity}


class _Part(NamedTuple):
    """The documents of one split, by number, as often as they are to come, and how much of each is packed."""

    documents: Integers
    lengths: Integers


class _Prepared(NamedTuple):
    splits: dict[str, _Part]
    left_out: int
    mix: dict[str, dict[str, Any]]


def _prepare(source: TokenSource, config: PackConfig, reporter: Reporter) -> _Prepared:
    """Which documents go into which split, how often and in which order."""
    records = source.records
    held = choose_holdout(records["text_hash"], records["num_bytes"] > 0, config.holdout, config.seed)
    here = np.ones(len(records), dtype=bool)
    if config.source is not None:
        here = records["source"] == (-1 if config.source == NO_SOURCE else source.sources.index(config.source))
    train, holdout = np.flatnonzero(~held & here), np.flatnonzero(held & here)
    mix: dict[str, dict[str, Any]] = {}
    if config.mix or config.temperature is not None or config.tokens is not None:
        train, mix = _mixed(source, train, config, reporter)
    if config.shuffle:
        train = shuffle_documents(train, records["text_hash"], config.seed)
    limit = config.seq_len * config.max_doc_pieces if config.max_doc_pieces else None
    splits, left_out = {}, 0
    for name, documents in (("train", train), ("holdout", holdout)):
        whole = records["num_tokens"][documents].astype(np.int64)
        lengths = whole if limit is None else np.minimum(whole, limit)
        left_out += int((whole - lengths).sum())
        splits[name] = _Part(documents, lengths)
    return _Prepared(splits, left_out, mix)


def _counts(read: int, prepared: _Prepared) -> Counts:
    """Documents of which the mix or another source takes nothing are dropped; repeats count once."""
    kept = len(np.unique(np.concatenate([part.documents for part in prepared.splits.values()])))
    return Counts(read=read, kept=kept, dropped=read - kept, dropped_by={"mix": read - kept} if read > kept else {})


def _mixed(
    source: TokenSource, train: Integers, config: PackConfig, reporter: Reporter
) -> tuple[Integers, dict[str, dict[str, Any]]]:
    """The training documents of a mix, and the table before and after."""
    records = source.records[train]
    there = _tokens_by_source(records, source.sources)
    if config.mix and abs(sum(config.mix.values()) - 1) > 1e-6:
        reporter.notice(f"the weights sum to {sum(config.mix.values()):.4g}; they are taken as shares of that")
    shares = config.mix or shares_by_temperature(there, 1.0 if config.temperature is None else config.temperature)
    plan = plan_mix(there, shares, config.tokens or sum(there.values()), config.max_epochs)
    chosen = choose_documents(records, source.sources, plan, config.seed)
    achieved = _tokens_by_source(records[chosen], source.sources)
    total_before, total_after = max(sum(there.values()), 1), max(sum(achieved.values()), 1)
    asked = {one.name: one.share for one in plan}
    table = {
        name: {
            "tokens_before": tokens,
            "share_before": tokens / total_before,
            "share_asked": asked.get(name, 0.0),
            "tokens": achieved.get(name, 0),
            "share": achieved.get(name, 0) / total_after,
            "epochs": achieved.get(name, 0) / max(tokens, 1),
        }
        for name, tokens in sorted(there.items())
    }
    return train[chosen], table


def _tokens_by_source(records: Records, sources: list[str]) -> dict[str, int]:
    sums = np.zeros(len(sources) + 1, dtype=np.int64)
    np.add.at(sums, records["source"] + 1, records["num_tokens"])
    names = [NO_SOURCE, *sources]
    return {name: total for name, total in zip(names, sums.tolist(), strict=True) if total}


def _plan(part: _Part, records: Records, config: PackConfig) -> Plan:
    """The rows of a split, shuffled where that is asked for."""
    plan = plan_rows(part.lengths, config.seq_len, config.strategy)
    if not config.shuffle or not len(plan.counts):
        return plan
    first = plan.spans[np.cumsum(plan.counts) - plan.counts]
    owner = part.documents[first["document"]]
    keys = scramble(records["text_hash"][owner] ^ scramble(first["offset"].astype(np.uint64), config.seed), config.seed)
    return reorder(plan, np.argsort(keys, kind="stable"))


_LENGTH_STEPS = (512, 2048, 8192, 32768)


def _by_length(source: TokenSource, part: _Part) -> dict[str, dict[str, int]]:
    """Training tokens of each source by the length of their documents: long rows see other shares than the whole."""
    records = source.records[part.documents]
    bands = np.digitize(part.lengths, _LENGTH_STEPS)
    found: dict[str, dict[str, int]] = {}
    for number, name in enumerate([NO_SOURCE, *source.sources], start=-1):
        here = records["source"] == number
        if here.any():
            sums = np.zeros(len(_LENGTH_STEPS) + 1, dtype=np.int64)
            np.add.at(sums, bands[here], part.lengths[here])
            labels = [*(f"under {step}" for step in _LENGTH_STEPS), f"{_LENGTH_STEPS[-1]} and more"]
            found[name] = dict(zip(labels, sums.tolist(), strict=True))
    return found


def _fill(
    split: SplitWriter,
    source: TokenSource,
    part: _Part,
    plan: Plan,
    seq_len: int,
) -> Iterator[int]:
    """Copy the planned spans, a batch of rows at a time; yields the tokens done."""
    starts = source.starts[part.documents]
    lengths = part.lengths
    num_rows = len(plan.counts)
    ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(plan.counts)])
    batch_rows = max(1, _BATCH_TOKENS // seq_len)
    for first in range(0, num_rows, batch_rows):
        stop = min(first + batch_rows, num_rows)
        counts = plan.counts[first:stop]
        spans = plan.spans[ends[first] : ends[stop]]
        row_of_span = np.repeat(np.arange(stop - first), counts)
        positions = starts[spans["document"]] + spans["offset"]
        rows = np.full((stop - first, seq_len), source.vocabulary.padding, dtype=source.vocabulary.dtype)
        source.copy(
            rows.reshape(-1), row_of_span * seq_len + spans["start"], positions, spans["length"].astype(np.int64)
        )
        split.add_rows(rows, _following(source, spans, positions, counts, lengths), spans, counts)
        yield split.counts.tokens


def _following(
    source: TokenSource, spans: Any, positions: Integers, counts: Integers, lengths: Integers
) -> npt.NDArray[np.int32]:
    """The token after each row's last one in its document, -1 where the document ends there."""
    last = np.cumsum(counts) - 1
    goes_on = spans["offset"][last] + spans["length"][last] < lengths[spans["document"][last]]
    following = np.full(len(counts), -1, dtype=np.int32)
    following[goes_on] = source.take((positions[last] + spans["length"][last])[goes_on])
    return following


def _shape(plan: Plan) -> tuple[int, int]:
    """Documents that lie in more than one piece, and tokens that lie in a later piece than their document's first."""
    later = plan.spans["offset"] > 0
    return len(np.unique(plan.spans["document"][later])), int(plan.spans["length"][later].sum(dtype=np.int64))


def _sum_of_squares(lengths: Integers) -> int:
    """Exact: the squares of a large corpus do not fit into 64 bits."""
    values, counts = np.unique(lengths, return_counts=True)
    return sum(value * value * count for value, count in zip(values.tolist(), counts.tolist(), strict=True))
