"""Packing token shards into rows of one length, ready for training.

The plan (plan.py) is made from document lengths alone; then rows are filled in batches by copying spans out of the
memory-mapped shards. Nothing is added: every token that comes in goes out exactly once, in `train` or in `holdout`, and
only the ends of rows are padded. Memory is the plan (about 100 bytes a document and row) and one batch of rows.

One process does it: planning runs at 200 million tokens a second or more, copying at the speed of the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.errors import UsageError
from ptool.formats.artefacts import FolderWriter, is_whole
from ptool.formats.documents import Records
from ptool.formats.manifests import Counts, Manifest, new_manifest
from ptool.formats.packed import SPLITS, PackedLayout, SplitCounts
from ptool.formats.packed_writer import SplitWriter, rows_per_shard
from ptool.packing.holdout import choose_holdout
from ptool.packing.plan import Integers, Plan, Strategy, plan_rows
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
    """Keys the choice of held-out documents."""

    def __post_init__(self) -> None:
        if not 2 <= self.seq_len <= _MAX_SEQ_LEN:
            message = f"rows of {self.seq_len:,} tokens"
            raise UsageError(message, hint=f"from 2 to {_MAX_SEQ_LEN:,}; for example --seq-len 2048")
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
    source = open_source(tokens, tokenizer)
    settings = _settings(config, source)
    writer = FolderWriter(output, stage=STAGE, config=settings, force=force)
    if writer.existing is not None and is_whole(output, writer.existing):
        reporter.notice(f"up to date: {output}")
        return PackReport(manifest=writer.existing, output=output, up_to_date=True)

    records = source.records
    vocabulary = source.vocabulary
    per_shard = rows_per_shard(config.seq_len, vocabulary.dtype)
    num_tokens, packed = int(records["num_tokens"].sum()), 0
    splits: dict[str, SplitCounts] = {}
    shape: dict[str, Any] = {}
    with writer:
        for name, chosen in _split(records, config).items():
            plan = plan_rows(records["num_tokens"][chosen], config.seq_len, config.strategy)
            split = SplitWriter(
                writer.create, name, seq_len=config.seq_len, dtype=vocabulary.dtype, rows_per_shard=per_shard
            )
            with split.opened():
                split.add_documents(records[chosen], *source.ids(chosen), source.sources)
                for done in _fill(split, source, chosen, plan, config.seq_len):
                    reporter.progress(packed + done, num_tokens, unit="tokens")
            packed += split.counts.tokens
            splits[name] = split.counts
            shape[name] = _shape(plan)
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
                counts=Counts(read=len(records), kept=len(records)),
                num_documents=len(records),
                num_tokens=num_tokens,
                num_bytes=int(records["num_bytes"].sum()),
                details={
                    "layout": msgspec.to_builtins(layout),
                    "documents_in_pieces": {name: shape[name][0] for name in SPLITS},
                    "tokens_in_later_pieces": {name: shape[name][1] for name in SPLITS},
                    "sum_squared_documents": _sum_of_squares(records["num_tokens"]),
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
    FolderWriter(output, stage=STAGE, config=_settings(config, source), force=force)
    found: dict[str, SplitCounts] = {}
    for name, chosen in _split(source.records, config).items():
        plan = plan_rows(source.records["num_tokens"][chosen], config.seq_len, config.strategy)
        num_tokens = int(source.records["num_tokens"][chosen].sum())
        found[name] = SplitCounts(
            rows=len(plan.counts),
            documents=int(chosen.sum()),
            tokens=num_tokens,
            padding=len(plan.counts) * config.seq_len - num_tokens,
            pieces=len(plan.spans),
        )
    return found


def _settings(config: PackConfig, source: TokenSource) -> dict[str, Any]:
    return {**msgspec.to_builtins(config), "input": source.identity}


def _split(records: Records, config: PackConfig) -> dict[str, npt.NDArray[np.bool_]]:
    """Which documents are in which split."""
    held = choose_holdout(records["text_hash"], records["num_bytes"] > 0, config.holdout, config.seed)
    return {"train": ~held, "holdout": held}


def _fill(
    split: SplitWriter,
    source: TokenSource,
    chosen: npt.NDArray[np.bool_],
    plan: Plan,
    seq_len: int,
) -> Iterator[int]:
    """Copy the planned spans, a batch of rows at a time; yields the tokens done."""
    starts = source.starts[chosen]
    lengths = source.records["num_tokens"][chosen]
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
