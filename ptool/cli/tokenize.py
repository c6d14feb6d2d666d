"""`ptool tokenize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptool.cli import options as opt
from ptool.cli.output import current
from ptool.errors import UsageError
from ptool.formats.ledger import ErrorPolicy
from ptool.formats.shards import token_dtype
from ptool.text.batch import Keys
from ptool.tokenizers.engines import EngineChoice
from ptool.tokenizers.loading import load_tokenizer
from ptool.tokenizing.intake import Reading
from ptool.tokenizing.run import Eod, TokenizeConfig, resolve_eod
from ptool.tokenizing.run import tokenize as run
from ptool.units import format_count, parse_count


def parse_eod(text: str) -> Eod:
    """`auto`, `none`, or a token's id."""
    choices: dict[str, Eod] = {"auto": "auto", "none": "none"}
    if text in choices:
        return choices[text]
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"--eod {text!r} is no choice", hint="auto, none, or a token's id: --eod 2")
    return int(text)


def tokenize(
    output: opt.FolderOutput,
    tokenizer: Annotated[
        Path, typer.Option(metavar="FILE", help="A SentencePiece model, tokenizer.json, rank file, or `bytes`.")
    ],
    inputs: opt.Inputs = None,
    eod: Annotated[
        str, typer.Option(metavar="auto|none|ID", help="The token after every document; auto: the tokenizer's </s>.")
    ] = "auto",
    max_shard_tokens: Annotated[
        int, typer.Option(parser=parse_count, metavar="N", help="A shard ends before it would have more tokens.")
    ] = 1_000_000_000,
    group_key: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="Keep a field (repo, meta.book) for ptool pack --group-by; repeatable."),
    ] = None,
    engine: Annotated[
        EngineChoice, typer.Option(help="What encodes: the tokenizer's own library, or a faster one that is checked.")
    ] = "auto",
    jobs: opt.Jobs = None,
    text_key: opt.TextKey = "text",
    id_key: opt.IdKey = "id",
    source_key: opt.SourceKey = "source",
    on_error: opt.OnError = "fail",
    max_errors: opt.MaxErrors = 0,
    rejects: opt.RejectsFile = None,
    allow_empty: opt.AllowEmpty = False,
    force: opt.Force = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Turn a document stream into token shards.

    Writes Megatron-LM's format: shard-00000.bin and .idx, and so on, which Megatron-LM and GPT-NeoX read as they are,
    two bytes a token for vocabularies below 65,500 and four from there. Beside each shard stand its documents: id,
    source, hash and bytes of the text (.docs, .ids), so that every token can be traced. The folder also holds the
    tokenizer, and a manifest with the tokens of every source.

    The tokenizer is told by its content: a SentencePiece model (BPE or Unigram), a Hugging Face tokenizer.json, a
    tiktoken rank file, whose pattern is named by FILE.cl100k.tiktoken or FILE:cl100k (r50k, cl100k, o200k, qwen2), or
    the word bytes. Names of special tokens inside a text are text. BPE is encoded by a faster engine (gigatoken) where
    it takes the file: only after it gave the library's ids for the first documents, and one text in a thousand is
    compared all along. A difference on the first documents leaves the work to the library; a later one ends the run
    with nothing published. --engine reference uses the library alone; the bytes are the same. Some texts are decoded
    again, and a tokenizer that does not give them back is called lossy in the manifest.

    A run that was stopped goes on after its last complete shard. Documents keep their order, are never split over
    shards, and end in the token that --eod names. A document without text is kept and counted. On stdout goes one line
    that ptool pack reads.

    Examples:
        ptool tokenize clean.jsonl.zst --tokenizer tok.model -o tok/
        ptool tokenize *.jsonl.zst --tokenizer tok.model --eod none --max-shard-tokens 500M -o tok/
        ptool dedup crawl.jsonl.zst | ptool tokenize --tokenizer tok.model -o tok/ | ptool pack --seq-len 2048 -o rows/
    """
    out = current()
    config = TokenizeConfig(eod=parse_eod(eod), shard_tokens=max_shard_tokens, group_keys=tuple(group_key or ()))
    reading = Reading(
        keys=Keys(text=text_key, id=id_key, source=source_key),
        policy=ErrorPolicy(on_error=on_error, max_errors=max_errors, rejects=rejects),
        allow_empty=allow_empty,
    )
    if dry_run:
        loaded = load_tokenizer(tokenizer)
        rows = [
            ("inputs", " ".join(inputs or ["stdin"])),
            ("tokenizer", f"{tokenizer}, {loaded.name}, {loaded.vocab_size:,} entries"),
            ("end of document", f"{eod}: {resolve_eod(config.eod, loaded)}"),
            ("shards", f"at most {format_count(max_shard_tokens)} tokens, {token_dtype(loaded.vocab_size)}"),
            ("output", str(output)),
        ]
        out.summary(rows, title="would tokenize")
        return
    report = run(
        opt.stream_inputs(inputs),
        output,
        tokenizer,
        config,
        reading=reading,
        engine=engine,
        jobs=opt.resolve_jobs(jobs),
        force=force,
        reporter=out.reporter,
    )
    found = report.manifest
    rows = [
        ("documents", f"{found.num_documents:,}"),
        ("tokens", f"{found.num_tokens:,}"),
        ("bytes per token", f"{(found.num_bytes or 0) / max(found.num_tokens or 0, 1):.2f}"),
    ]
    out.artefact(output, found, rows)
