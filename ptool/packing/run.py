"""Packing token shards into rows of one length, ready for training.

The plan (plan.py) is made from document lengths alone; then rows are filled in batches by copying spans out of the
memory-mapped shards. Nothing is added: every token that comes in goes out exactly once, in `train` or in `holdout`, and
only the ends of rows are padded. Memory is the plan (about 100 bytes a document and row) and one batch of rows.

One process does it: planning runs at 200 million tokens a second or more, copying at the speed of the disk. Digests of
what is read and written are taken by threads meanwhile, and nothing is published before the input is known to be whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from ptool.errors import UsageError
from ptool.formats.artefacts import FolderWriter, is_whole
from ptool.formats.documents import Records
from ptool.formats.manifests import Manifest, new_manifest
from ptool.formats.packed import SPLITS, PackedLayout, SplitCounts
from ptool.formats.packed_writer import SplitWriter, rows_per_shard
from ptool.packing.config import PackConfig
from ptool.packing.plan import Integers, Plan
from ptool.packing.selection import Part, count, plan_split, select, tokens_by_length
from ptool.packing.source import TokenSource, open_source
from ptool.reporting import SILENT, Reporter
from ptool.tokenizers.loading import load_tokenizer

STAGE = "pack"
_BATCH_TOKENS = 4 << 20


class PackReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: the folder, its manifest, and whether nothing had to be done."""

    manifest: Manifest
    output: Path
    up_to_date: bool = False


def pack(
    tokens: Path | Sequence[Path],
    output: Path,
    config: PackConfig,
    *,
    tokenizer: Path | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> PackReport:
    """Pack token folders, or pairs of Megatron files with their `tokenizer`, into `output`.

    Raises DamagedInput for a shard that is not the one its manifest tells of, UsageError where `output` holds other
    work.
    """
    return _pack(_opened(tokens, output, tokenizer), output, config, force, reporter)


def pack_each(
    tokens: Path | Sequence[Path],
    output: Path,
    config: PackConfig,
    *,
    tokenizer: Path | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> dict[str, PackReport]:
    """Pack every source (by `config.mix_by`: every folder) into a folder of its own below `output`, to be mixed while
    training; by name.
    """
    source = _opened(tokens, output, tokenizer)
    reports = {}
    for name, folder, one in _each(source, output, config):
        reporter.notice(f"packing {name}")
        reports[name] = _pack(source, folder, one, force, reporter)
    return reports


def _opened(tokens: Path | Sequence[Path], output: Path, tokenizer: Path | None) -> TokenSource:
    given = [tokens] if isinstance(tokens, Path) else list(tokens)
    if output.resolve() in {path.resolve() for path in given}:
        raise UsageError("-o is also the input", where=str(output), hint="give another name")
    return open_source(given, tokenizer)


def _each(source: TokenSource, output: Path, config: PackConfig) -> list[tuple[str, Path, PackConfig]]:
    """Name, folder and configuration of each source that has tokens."""
    there = source.domains(config.mix_by).tokens(source.records["num_tokens"])
    return [
        (name, output / folder_name(name), msgspec.structs.replace(config, only=name))
        for name, tokens in there.items()
        if tokens
    ]


def folder_name(source: str) -> str:
    """What the folder of a source is called: below the output and nowhere else, and no longer than a name may be."""
    quoted = quote(source, safe=" ")
    if not quoted.strip("."):  # "..", ".", and no name at all
        return quoted.replace(".", "%2E") or "%"
    return quoted if len(quoted) <= 200 else f"{quoted[:180]}%{xxhash.xxh3_64_hexdigest(source)}"


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
    prepared = select(source, config, reporter)
    balance: dict[str, Any] = {}
    num_tokens, packed = sum(int(part.lengths.sum()) for part in prepared.splits.values()), 0
    splits: dict[str, SplitCounts] = {}
    shape: dict[str, Any] = {}
    with writer:
        for name, part in prepared.splits.items():
            plan, found = plan_split(name, part, records, config)
            balance |= found
            split = SplitWriter(
                writer.create_digested, name, seq_len=config.seq_len, dtype=vocabulary.dtype, rows_per_shard=per_shard
            )
            with split.opened():
                listed = records[part.documents]
                listed["num_tokens"] = part.lengths
                if name == "holdout":
                    _count_bytes_again(listed, source, part)
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
                counts=count(len(records), prepared),
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
                    "balance": balance,
                    "tokens_by_document_length": tokens_by_length(source, prepared.splits["train"]),
                },
                upstream=source.upstream,
            )
        )
    return PackReport(manifest=manifest, output=output)


def preview(
    tokens: Path | Sequence[Path],
    output: Path,
    config: PackConfig,
    *,
    tokenizer: Path | None = None,
    force: bool = False,
) -> dict[str, SplitCounts]:
    """What `pack` would make, in numbers, with nothing written. Raises what `pack` would raise."""
    return _preview(_opened(tokens, output, tokenizer), output, config, force)


def preview_each(
    tokens: Path | Sequence[Path],
    output: Path,
    config: PackConfig,
    *,
    tokenizer: Path | None = None,
    force: bool = False,
) -> dict[str, dict[str, SplitCounts]]:
    """What `pack_each` would make, by name."""
    source = _opened(tokens, output, tokenizer)
    return {name: _preview(source, folder, one, force) for name, folder, one in _each(source, output, config)}


def _preview(source: TokenSource, output: Path, config: PackConfig, force: bool) -> dict[str, SplitCounts]:
    source.confirm()
    FolderWriter(output, stage=STAGE, config=_settings(config, source), force=force)
    found: dict[str, SplitCounts] = {}
    for name, part in select(source, config, SILENT).splits.items():
        plan, _ = plan_split(name, part, source.records, config)
        num_tokens = int(part.lengths.sum())
        found[name] = SplitCounts(
            rows=len(plan.counts),
            documents=len(part.documents),
            tokens=num_tokens,
            padding=len(plan.counts) * config.seq_len - num_tokens,
            pieces=len(plan.spans),
        )
    return found


def _count_bytes_again(listed: Records, source: TokenSource, part: Part) -> None:
    """Of held-out documents that --max-doc-pieces cuts off, the bytes of what is left: they are scored by the byte."""
    cut = np.flatnonzero(part.lengths < source.records["num_tokens"][part.documents])
    tokenizer = load_tokenizer(source.vocabulary.file) if len(cut) else None
    for one in cut.tolist():
        start = int(source.starts[part.documents[one]])
        tokens = source.take(np.arange(start, start + int(part.lengths[one])))
        text = tokenizer.decode(tokens) if tokenizer else ""
        listed["num_bytes"][one] = len(text.encode("utf-8", "surrogatepass"))


def _settings(config: PackConfig, source: TokenSource) -> dict[str, Any]:
    return {**msgspec.to_builtins(config), "input": source.identity}


def _fill(
    split: SplitWriter,
    source: TokenSource,
    part: Part,
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
        rows = np.empty((stop - first, seq_len), dtype=source.vocabulary.dtype)
        used = np.add.reduceat(spans["length"], np.cumsum(counts) - counts, dtype=np.int64)
        for row in np.flatnonzero(used < seq_len).tolist():
            rows[row, used[row] :] = source.vocabulary.padding
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
    cut = np.zeros(int(plan.spans["document"].max(initial=-1)) + 1, dtype=bool)
    cut[plan.spans["document"][later]] = True
    return int(cut.sum()), int(plan.spans["length"][later].sum(dtype=np.int64))


def _sum_of_squares(lengths: Integers) -> int:
    """Exact: the squares of a large corpus do not fit into 64 bits."""
    values, counts = np.unique(lengths, return_counts=True)
    return sum(value * value * count for value, count in zip(values.tolist(), counts.tolist(), strict=True))
