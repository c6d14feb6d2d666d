"""`ptool stats`: a document stream in numbers."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ptool.cli import options as opt
from ptool.cli.output import current


def stats(
    inputs: opt.Inputs = None,
    languages: Annotated[
        bool, typer.Option("--languages", help="Also count languages, by a bundled model: 10 times slower.")
    ] = False,
    words: Annotated[
        Literal["cjk", "whitespace", "unicode"], typer.Option(help="What a word is, as for ptool filter.")
    ] = "cjk",
    jobs: opt.Jobs = None,
    text_key: opt.TextKey = "text",
    id_key: opt.IdKey = "id",
    source_key: opt.SourceKey = "source",
) -> None:
    """Count what a document stream holds.

    Documents, bytes of text, characters and words, per source and in all, and how long the texts are. With --languages
    also how many are in which language, by fastText's compressed lid.176 on the first 1000 characters of each. The
    tables are the product, on stdout; --json gives the same in base units. Lines that are no documents are counted.

    Examples:
        ptool stats crawl/*.jsonl.zst
        ptool stats clean.jsonl.zst --languages --json
        ptool filter crawl.jsonl.zst | ptool stats
    """
    from ptool.filtering.statistics import find_statistics, languages_table, lengths_table, totals_table
    from ptool.text.batch import Keys

    out = current()
    found = find_statistics(
        opt.stream_inputs(inputs),
        keys=Keys(text=text_key, id=id_key, source=source_key),
        words=words,
        languages=languages,
        jobs=opt.resolve_jobs(jobs),
        reporter=out.reporter,
    )
    out.finish_progress()
    if out.json_mode:
        out.json(found)
        return
    out.table(*totals_table(found), descriptor=1)
    out.table(*lengths_table(found), descriptor=1)
    if found.languages:
        out.table(*languages_table(found), descriptor=1)
    if found.bad_lines:
        out.notice(f"{found.bad_lines:,} lines are no documents")
