"""`ptool fertility`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptool.cli import options as opt
from ptool.cli.output import current
from ptool.text.batch import Keys
from ptool.tokenizing.fertility import draw_fertility, measure_fertility


def fertility(
    tokenizers: Annotated[
        list[str],
        typer.Argument(metavar="TOKENIZER... [STREAM]", help="Tokenizers, and last the documents; one alone: stdin."),
    ],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw tokens per word as bars (.png, .svg).")
    ] = None,
    language_key: Annotated[str, typer.Option(metavar="KEY", help="Field that names the language.")] = "lang",
    jobs: opt.Jobs = None,
    text_key: opt.TextKey = "text",
    id_key: opt.IdKey = "id",
    source_key: opt.SourceKey = "source",
) -> None:
    """Compare tokenizers by the tokens they need for a text.

    For all documents, every source and every language: tokens per word (fertility; every ideograph and kana counts as a
    word), bytes per token, and the share of unknown and of byte-fallback tokens. Unknown tokens are lost text. The last
    argument is the document stream, - is stdin; what stands before it are tokenizers, as ptool tokenize takes them.

    Examples:
        ptool fertility tok.model docs.jsonl.zst
        ptool fertility tok.model tokenizer.json bytes docs.jsonl.zst --plot fertility.png
        ptool filter crawl.jsonl.zst | ptool fertility tok.model tokenizer.json -
    """
    out = current()
    *names, stream = tokenizers if len(tokenizers) > 1 else [*tokenizers, "-"]
    found = measure_fertility(
        [Path(name) for name in names],
        opt.stream_inputs([stream]),
        keys=Keys(text=text_key, id=id_key, source=source_key),
        language_key=language_key,
        jobs=opt.resolve_jobs(jobs),
        reporter=out.reporter,
    )
    out.finish_progress()
    if plot is not None:
        draw_fertility(found, plot)
    if out.json_mode:
        out.json([one.as_row() for one in found])
        return
    header = ("group", "tokenizer", "documents", "words", "tokens/word", "bytes/token", "unknown", "byte fallback")
    rows = [
        (
            one.group if one.by == "all" else f"{one.by} {one.group}",
            one.tokenizer,
            f"{one.documents:,}",
            f"{one.words:,}",
            f"{one.tokens_per_word:.3f}",
            f"{one.bytes_per_token:.3f}",
            f"{one.unknown / max(one.tokens, 1):.3%}",
            f"{one.byte_fallback / max(one.tokens, 1):.3%}",
        )
        for one in found
    ]
    out.table(header, rows, descriptor=1)
