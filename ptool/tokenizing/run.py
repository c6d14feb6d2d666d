"""Encoding a document stream into token shards.

Batches of lines go to worker processes, which decode and encode them; one writer takes the results in order, so the
bytes are the same for every number of jobs. Tokens are written as they come: memory is a few batches, whatever the
corpus. A document is never split over two shards, and one longer than a shard has a shard of its own.

Every document ends in the end-of-document token (EOD), unless `eod` is "none". A document without text is kept, as its
EOD alone, and counted. Nearly all time is the tokenizer's: SentencePiece BPE 7.5 MB/s and Unigram 20 MB/s a core.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from ptool.errors import DamagedInput, InputError, UsageError
from ptool.executors import ordered_map
from ptool.formats.artefacts import FolderWriter, check_files
from ptool.formats.documents import NO_SOURCE, Create, DocumentTableWriter, Records, new_records
from ptool.formats.manifests import Manifest, new_manifest
from ptool.formats.shards import ShardWriter, shard_name, token_dtype
from ptool.formats.streams import Lines
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import BadLine, Keys, decode
from ptool.tokenizers.loading import Tokenizer, load_tokenizer
from ptool.tokenizing.intake import Intake, Reading

STAGE = "tokenize"
Eod = int | Literal["auto", "none"]


class TokenizeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What determines the shards, beside documents and tokenizer."""

    eod: Eod = "auto"
    """The token after every document: "auto" is the tokenizer's end-of-sentence, "none" adds nothing, or an id."""
    shard_tokens: int = 1_000_000_000
    """A shard ends before the document that would bring it over this: 2 GB at two bytes a token."""

    def __post_init__(self) -> None:
        if self.shard_tokens < 1:
            raise UsageError("shards of no tokens", hint="for example --max-shard-tokens 1e9")


class TokenizeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: the folder, its manifest, and whether nothing had to be done."""

    manifest: Manifest
    output: Path
    up_to_date: bool = False


class _Encoded(NamedTuple):
    """One batch, encoded."""

    path: str
    bad: list[BadLine]
    tokens: npt.NDArray[np.int32]
    records: Records
    ids: list[str]
    sources: list[str | None]


def tokenize(
    inputs: Sequence[str | Path],
    output: Path,
    tokenizer: Path,
    config: TokenizeConfig | None = None,
    *,
    reading: Reading | None = None,
    jobs: int = 1,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> TokenizeReport:
    """Encode documents into a token folder.

    Raises UsageError where the folder holds other work or the EOD does not suit the tokenizer, BadDocument for a line
    that is no document (unless the policy sets those aside).
    """
    config, reading = config or TokenizeConfig(), reading or Reading()
    loaded = load_tokenizer(tokenizer)
    eod_id = resolve_eod(config.eod, loaded)
    settings = {
        **msgspec.to_builtins(config),
        "keys": msgspec.to_builtins(reading.keys),
        "tokenizer": loaded.fingerprint,
    }
    writer = FolderWriter(output, stage=STAGE, config=settings, force=force)
    intake = Intake(STAGE, settings, inputs, output, reading=reading, force=force, reporter=reporter)
    if writer.existing is not None and _is_whole(output, writer.existing):
        if not intake.is_of(writer.existing):
            writer.refuse("was made from other input")
        reporter.notice(f"up to date: {output}")
        return TokenizeReport(manifest=writer.existing, output=output, up_to_date=True)

    encode = partial(_encode, tokenizer, loaded.fingerprint, eod_id, reading.keys)
    dtype = token_dtype(loaded.vocab_size)
    with writer, intake.opened():
        sink = _ShardSequence(writer.create, dtype, config.shard_tokens)
        with sink.opened():
            for batch in ordered_map(encode, intake.lines(), jobs=jobs, preload=(__name__,)):
                intake.count(len(batch.ids), batch.bad, batch.path)
                sink.add(batch)
        writer.copy(tokenizer, loaded.artefact_name)
        intake.publish_rejects()
        manifest = writer.commit(
            new_manifest(
                STAGE,
                settings,
                counts=intake.counts,
                documents_in=intake.documents,
                num_documents=intake.counts.kept,
                num_tokens=sum(shard["tokens"] for shard in sink.shards),
                num_bytes=sink.num_bytes,
                details={
                    "dtype": dtype,
                    "vocab_size": loaded.vocab_size,
                    "eod_id": eod_id,
                    "pad_id": loaded.pad_id,
                    "tokenizer": {
                        "file": loaded.artefact_name,
                        "backend": loaded.name,
                        "fingerprint": loaded.fingerprint,
                        "lossless": loaded.lossless,
                    },
                    "shards": sink.shards,
                    "sources": list(sink.sources),
                    "documents_by_source": dict(sorted(sink.documents_by_source.items())),
                    "tokens_by_source": dict(sorted(sink.tokens_by_source.items())),
                    "empty_documents": sink.empty_documents,
                },
                upstream=intake.upstream,
            )
        )
    intake.check()
    return TokenizeReport(manifest=manifest, output=output)


def resolve_eod(choice: Eod, tokenizer: Tokenizer) -> int | None:
    """The id that ends every document, None for none. Raises UsageError where the tokenizer cannot serve the choice."""
    if choice == "none":
        return None
    if choice == "auto":
        if tokenizer.eos_id is None:
            message = "the tokenizer has no end-of-sentence token to end documents with"
            raise UsageError(message, where=str(tokenizer.file), hint="--eod ID names one, --eod none adds none")
        return tokenizer.eos_id
    if not 0 <= choice < tokenizer.vocab_size:
        raise UsageError(f"--eod {choice} is outside the vocabulary", hint=f"0 to {tokenizer.vocab_size - 1}")
    return choice


def _encode(tokenizer: Path, fingerprint: str, eod_id: int | None, keys: Keys, lines: Lines) -> _Encoded:
    """One batch of lines, in a worker."""
    batch, bad = decode(lines, keys)
    raw = [batch.text_of(index) for index in range(len(batch))]
    encoded = _loaded(tokenizer, fingerprint).encode_batch([text.decode() for text in raw])
    end = np.array([] if eod_id is None else [eod_id], dtype=np.int32)
    records = new_records(len(batch))
    records["text_hash"] = [xxhash.xxh3_64_intdigest(text) for text in raw]
    records["num_bytes"] = np.diff(batch.offsets)
    records["num_tokens"] = [len(ids) + len(end) for ids in encoded]
    tokens = np.concatenate([np.empty(0, dtype=np.int32), *(part for ids in encoded for part in (ids, end))])
    return _Encoded(lines.path, bad, tokens, records, batch.ids, batch.sources)


@lru_cache(maxsize=1)
def _loaded(path: Path, fingerprint: str) -> Tokenizer:
    tokenizer = load_tokenizer(path)
    if tokenizer.fingerprint != fingerprint:
        raise InputError("the tokenizer changed while documents were encoded", where=str(path), hint="start again")
    return tokenizer


class _ShardSequence:
    """Writes encoded batches to one shard after another, and counts."""

    def __init__(self, create: Create, dtype: str, shard_tokens: int) -> None:
        self._create = create
        self._dtype = dtype
        self._shard_tokens = shard_tokens
        self._current = ExitStack()
        self.shards: list[dict[str, int | str]] = []
        self.sources: dict[str, int] = {}
        self.documents_by_source: dict[str, int] = {}
        self.tokens_by_source: dict[str, int] = {}
        self.empty_documents = 0
        self.num_bytes = 0

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The shards; the last one is complete when the block ends without an error."""
        with self._current:
            self._next_shard()
            yield
            self._close_shard()

    def add(self, batch: _Encoded) -> None:
        """Append a batch."""
        records = batch.records
        self._count(records, batch.sources)
        ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(records["num_tokens"])])
        first = 0
        while first < len(records):
            space = self._shard_tokens - self._shard.num_tokens
            last = int(np.searchsorted(ends, ends[first] + space, side="right")) - 1
            if last <= first and self._table.num_documents:
                self._close_shard()
                self._next_shard()
                continue
            last = max(last, first + 1)
            self._shard.add(batch.tokens[ends[first] : ends[last]], records["num_tokens"][first:last])
            self._table.add(records[first:last], batch.ids[first:last])
            first = last

    def _count(self, records: Records, sources: list[str | None]) -> None:
        self.num_bytes += int(records["num_bytes"].sum())
        self.empty_documents += int((records["num_bytes"] == 0).sum())
        for name in sources:
            if name is not None:
                self.sources.setdefault(name, len(self.sources))
        records["source"] = [-1 if name is None else self.sources[name] for name in sources]
        for name, tokens in zip(sources, records["num_tokens"].tolist(), strict=True):
            key = NO_SOURCE if name is None else name
            self.documents_by_source[key] = self.documents_by_source.get(key, 0) + 1
            self.tokens_by_source[key] = self.tokens_by_source.get(key, 0) + tokens

    def _next_shard(self) -> None:
        self._name = shard_name(len(self.shards))
        self._shard = self._current.enter_context(ShardWriter(self._create, self._name, self._dtype).opened())
        self._table = self._current.enter_context(DocumentTableWriter(self._create, self._name))

    def _close_shard(self) -> None:
        self._current.close()
        counts = {"documents": self._table.num_documents, "tokens": self._shard.num_tokens}
        self.shards.append({"name": self._name, **counts})


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    try:
        check_files(folder, manifest, verify=False)
    except DamagedInput:
        return False
    return True
