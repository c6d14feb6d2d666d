"""Encoding a document stream into token shards.

Batches of lines go to worker processes, which decode and encode them; one writer takes the results in order, so the
bytes are the same for every number of jobs. Tokens are written as they come: memory is a few batches, whatever the
corpus. A document is never split over two shards, and one longer than a shard has a shard of its own.

Every document ends in the end-of-document token (EOD), unless `eod` is "none". A document without text is kept, as its
EOD alone, and counted. One text in a thousand, and the first of all, are decoded again: a tokenizer that does not give
back the text is lossy, and the manifest says so. Nearly all time is the tokenizer's (tokenizers/engines.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec

from ptool.errors import UsageError
from ptool.executors import ordered_map
from ptool.formats.artefacts import FolderWriter, is_whole
from ptool.formats.manifests import Manifest, new_manifest
from ptool.formats.shards import token_dtype
from ptool.formats.streams import Lines
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import Keys, decode
from ptool.tokenizers.engines import FIRST_BYTES, CheckedEngine, Engine, EngineChoice, EngineMismatch, open_engine
from ptool.tokenizers.loading import Tokenizer, load_tokenizer
from ptool.tokenizing.encoding import Encoding, Item, compare_first, encode_batch, remember
from ptool.tokenizing.intake import Intake, Reading
from ptool.tokenizing.lanes import Lanes
from ptool.tokenizing.sharding import ShardSequence

STAGE = "tokenize"
Eod = int | Literal["auto", "none"]


class TokenizeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What determines the shards, beside documents and tokenizer."""

    eod: Eod = "auto"
    """The token after every document: "auto" is the tokenizer's end-of-sentence, "none" adds nothing, or an id."""
    shard_tokens: int = 1_000_000_000
    """A shard ends before the document that would bring it over this: 2 GB at two bytes a token."""
    group_keys: tuple[str, ...] = ()
    """Fields whose values are kept, as hashes, for `ptool pack --group-by`."""

    def __post_init__(self) -> None:
        if self.shard_tokens < 1:
            raise UsageError("shards of no tokens", hint="for example --max-shard-tokens 1e9")
        if len(set(self.group_keys)) < len(self.group_keys) or "" in self.group_keys:
            raise UsageError("a group key that is empty or given twice", hint="for example --group-key repo")


class TokenizeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: the folder, its manifest, and whether nothing had to be done."""

    manifest: Manifest
    output: Path
    up_to_date: bool = False


def tokenize(
    inputs: Sequence[str | Path],
    output: Path,
    tokenizer: Path,
    config: TokenizeConfig | None = None,
    *,
    reading: Reading | None = None,
    engine: EngineChoice = "auto",
    jobs: int = 1,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> TokenizeReport:
    """Encode documents into a token folder; the engine never changes the bytes (tokenizers/engines.py).

    Raises UsageError where the folder holds other work or the EOD does not suit the tokenizer, BadDocument for a line
    that is no document (unless the policy sets those aside), EngineMismatch where the fast engine is found wrong.
    """
    config, reading = config or TokenizeConfig(), reading or Reading()
    loaded = load_tokenizer(tokenizer)
    eod_id = resolve_eod(config.eod, loaded)
    settings = {
        **msgspec.to_builtins(config),
        "group_keys": list(config.group_keys),  # a tuple would differ from what the manifest gives back
        "keys": msgspec.to_builtins(reading.keys),
        "tokenizer": loaded.fingerprint,
        "backend": loaded.artefact_name,
    }
    writer = FolderWriter(output, stage=STAGE, config=settings, force=force)
    intake = Intake(STAGE, settings, inputs, output, reading=reading, force=force, reporter=reporter)
    if writer.existing is not None and is_whole(output, writer.existing):
        if not intake.is_of(writer.existing):
            writer.refuse("was made from other input")
        reporter.notice(f"up to date: {output}")
        return TokenizeReport(manifest=writer.existing, output=output, up_to_date=True)

    with writer, intake.opened():
        lines = intake.lines()
        opened, lines = _choose_engine(engine, loaded, lines, reading.keys, reporter)
        dtype = token_dtype(loaded.vocab_size)
        encoding = Encoding(tokenizer, loaded.fingerprint, opened.name, eod_id, dtype, reading.keys, config.group_keys)
        remember(encoding, loaded, opened)
        work = msgspec.json.encode([settings, opened.name], order="sorted").decode()
        sink = ShardSequence(
            writer,
            dtype,
            config.shard_tokens,
            work=work,
            resume=not force,
            with_group_keys=bool(config.group_keys),
        )
        try:
            with sink.opened():
                if sink.known_batches:
                    reporter.notice(f"going on after {len(sink.shards)} shards that are complete")
                # One for every batch that is under way, and one to fill; alone, the batch is used where it is.
                lanes = Lanes(jobs + 3 if jobs > 1 else 0)
                items = _items(lines, sink.known_batches, lanes, intake)
                for batch in ordered_map(
                    partial(encode_batch, encoding), items, jobs=jobs, preload=("ptool.tokenizers.fast",)
                ):
                    intake.count(len(batch.ids), batch.bad, batch.path)
                    sink.add(batch)
                    lanes.release(batch.lane)
        except EngineMismatch:
            sink.discard()
            raise
        if sink.lost:
            reporter.notice(
                f"the tokenizer is lossy: {len(sink.lost):,} of {sink.tripped:,} texts that were tried do not come "
                f"back, such as {sink.lost[0]!r}"
            )
        with writer.create(loaded.artefact_name) as file:
            file.write(loaded.data)
        intake.publish_rejects()
        manifest = writer.commit(
            new_manifest(
                STAGE,
                settings,
                counts=intake.counts,
                documents_in=intake.documents,
                num_documents=intake.counts.kept,
                num_tokens=sum(int(shard["tokens"]) for shard in sink.shards),
                num_bytes=sink.num_bytes,
                details={**_details(loaded, eod_id, dtype, sink), "group_keys": list(config.group_keys)},
                upstream=intake.upstream,
            )
        )
        sink.remove_notes()
    intake.check()
    return TokenizeReport(manifest=manifest, output=output)


def _items(lines: Iterator[Lines], known_batches: int, lanes: Lanes, intake: Intake) -> Iterator[Item]:
    for number, part in enumerate(lines):
        if number == known_batches > 0:
            intake.go_on()
        lane = lanes.lend(part.data)
        bare = part if lane is None else msgspec.structs.replace(part, data=b"")
        yield Item(bare, number, number < known_batches, lane)


def _details(loaded: Tokenizer, eod_id: int | None, dtype: str, sink: ShardSequence) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "vocab_size": loaded.vocab_size,
        "eod_id": eod_id,
        "pad_id": loaded.pad_id,
        "tokenizer": {
            "file": loaded.artefact_name,
            "backend": loaded.name,
            "fingerprint": loaded.fingerprint,
            "lossless": loaded.lossless and not sink.lost,
        },
        "round_trip": {"tried": sink.tripped, "lost": len(sink.lost), "first_lost": sink.lost[:1]},
        "shards": sink.shards,
        "sources": list(sink.sources),
        "documents_by_source": dict(sorted(sink.documents_by_source.items())),
        "tokens_by_source": dict(sorted(sink.tokens_by_source.items())),
        "empty_documents": sink.empty_documents,
    }


def _choose_engine(
    choice: EngineChoice, tokenizer: Tokenizer, lines: Iterator[Lines], keys: Keys, reporter: Reporter
) -> tuple[Engine, Iterator[Lines]]:
    """The engine for the whole run, after comparing both on the first documents; and all lines again.

    Raises EngineMismatch where they differ and the fast one was asked for by name.
    """
    engine = open_engine(choice, tokenizer, reporter=reporter)
    first = next(lines, None)
    if first is None:
        return engine, lines
    if isinstance(engine, CheckedEngine):
        batch, _ = decode(first, keys)
        found = compare_first(engine, batch, FIRST_BYTES)
        if found is not None:
            error = EngineMismatch.of(batch.ids[found.text], found)
            if choice == "fast":
                raise error
            reporter.notice(f"{error.message}; the tokenizer's own library encodes")
            return engine.reference, chain([first], lines)
    return engine, chain([first], lines)


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
