"""`ptool filter`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ptool.cli import options as opt
from ptool.cli.output import Out, current
from ptool.units import parse_count, parse_fraction

if TYPE_CHECKING:
    from ptool.filtering.run import Filtering
    from ptool.formats.manifests import Counts


def filter_(
    inputs: opt.Inputs = None,
    output: opt.StreamOutput = None,
    rejects: opt.RejectsFile = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="A recipe of rules by name; --list-rules shows which there are.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A recipe of your own (TOML), or the manifest of a run to repeat."),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PARAMETER=VALUE,...]",
            help="A rule, with bounds (min=, max=) of your own; changes the preset's rule of that name, or adds one.",
        ),
    ] = None,
    lang: Annotated[
        str | None,
        typer.Option(metavar="LANG,...", help="Keep these languages only, told by a bundled model; runs first."),
    ] = None,
    lang_threshold: Annotated[
        float, typer.Option(parser=parse_fraction, metavar="SHARE", help="How sure --lang must be.")
    ] = 0.65,
    blocklist: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LANG:]FILE", help="Drop documents with a word of this list; LANG: in that language only."
        ),
    ] = None,
    block_domains: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Drop pages of these domains and what is below them.")
    ] = None,
    block_urls: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Drop these pages.")] = None,
    block_url_words: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Drop pages with one of these words in the URL.")
    ] = None,
    url_key: Annotated[str, typer.Option(metavar="KEY", help="Field that holds the URL.")] = "url",
    keep_fraction: Annotated[
        float,
        typer.Option(
            parser=parse_fraction,
            metavar="SHARE",
            help="Keep this share of what --blocklist drops, by a hash of the text.",
        ),
    ] = 0.0,
    words: Annotated[
        Literal["cjk", "whitespace", "unicode"] | None,
        typer.Option(
            help="What a word is; default cjk: as whitespace, and each ideograph and kana is one. unicode cuts at "
            "punctuation too."
        ),
    ] = None,
    no_edits: Annotated[bool, typer.Option("--no-edits", help="Refuse a recipe that edits documents.")] = False,
    explain_all: Annotated[
        bool,
        typer.Option("--explain-all", help="Name every rule that a document fails in --rejects, not only the first."),
    ] = False,
    annotate: Annotated[
        bool, typer.Option("--annotate", help="Drop nothing; write what each rule measures into the documents.")
    ] = False,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="Show what thresholds would drop, from documents that --annotate wrote."),
    ] = None,
    list_rules: Annotated[bool, typer.Option("--list-rules", help="List all rules and end.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what each rule would drop from a sample; write nothing.")
    ] = False,
    sample: Annotated[
        int, typer.Option(parser=parse_count, metavar="N", help="Documents of each input for --dry-run.")
    ] = 10_000,
    seed: Annotated[
        int, typer.Option(parser=parse_count, metavar="N", help="Which random documents --dry-run takes.")
    ] = 0,
    shard: opt.Shard = None,
    jobs: opt.Jobs = None,
    text_key: opt.TextKey = "text",
    id_key: opt.IdKey = "id",
    source_key: opt.SourceKey = "source",
    on_error: opt.OnError = "fail",
    max_errors: opt.MaxErrors = 0,
    allow_empty: opt.AllowEmpty = False,
    compress: opt.Compress = "zstd",
    force: opt.Force = False,
) -> None:
    """Keep the documents that a set of rules accepts.

    A rule measures every document (its words, its share of bullet lines) and accepts a range of values, bounds
    included. A document is dropped by the first rule, in the recipe's order, whose range does not hold its value; a
    kept document's line goes out as the same bytes, unless the recipe edits: then its text, and nothing else, is
    written anew, and a rule after an edit measures the edited text. --no-edits refuses such recipes.

    --preset names a recipe, --recipe reads one: a TOML file (copy a preset and change it), or the manifest of an
    earlier run, which it repeats. --rule changes a bound of it or adds a rule; without --preset and --recipe, the rules
    given are the whole recipe. `max=none` lifts a bound. With none of them the preset is gopher-quality, which is made
    for English prose: it drops documents without English stop words.

    `--rule field:NAME:min=,max=` judges a number that another program wrote into the document (`field:quality.edu`
    looks into an object); without that number a document is dropped, unless `missing=keep`. Of the documents that a
    rule would drop, `keep-fraction=0.05` keeps that share, chosen by a hash of the text.

    URL lists, --lang and --blocklist run before the recipe, in this order; a list has an entry on each line, and its
    digest goes into the manifest. Languages are told by fastText's compressed lid.176, which comes with the package.
    Without --lang no language is preferred.

    The presets gopher-quality, gopher-repetition, c4, fineweb-quality and fineweb decide as datatrove 0.10.1 does on
    the same words (`--words whitespace` is `str.split`) and on sentences counted by punctuation. Differences from it:
    none found in 490,698 decisions (kept or dropped, the first reason, and the edited text byte for byte), on real text
    and on 20,008 generated texts; `python tests/benchmarks/filter_oracle.py` compares them anew. As it comes, datatrove
    cuts English with spaCy, which makes other words, and so other decisions. Lists of URL words are compared without
    case here, with the case of the URL there.

    Every dropped document goes to --rejects with the rule, the value and the accepted range; lines that are no
    documents go there too with --on-error reject. With `-o FOLDER/` every input has an output of its own, --rejects
    names a folder, and --shard shares the inputs out among tasks.

    --annotate drops nothing and writes what each rule measures into the field `measured` of every document, whose text
    stays as it is. --sweep NAME then shows, without reading a text again, how many documents a bound at each of some
    values would drop; `--rule field:measured.NAME:min=` drops them. `--sweep field:NAME` looks at any other number.

    --dry-run judges some documents of each input (--sample) and prints, for each rule, the share of documents that fail
    it and the share that it would be the first to drop, the same by source and by language, the ids of a few documents
    it would drop, and what time and space all of the inputs would take. ptool streams and plain JSON lines are sampled
    in random places (--seed); of pipes and other files it takes the first documents, which are no random sample, and
    says so.

    Examples:
        ptool filter crawl.jsonl.zst --preset gopher-quality -o clean.jsonl.zst --rejects dropped.jsonl.zst
        ptool filter crawl/*.jsonl.zst --rule word-count:min=20 | ptool dedup -o clean.jsonl.zst
        ptool filter crawl/*.jsonl.zst --rule mean-word-length:max=12 --dry-run
    """
    from ptool.filtering.recipe import choose_recipe
    from ptool.filtering.requests import steps_before
    from ptool.filtering.run import Filtering, filter_to
    from ptool.formats.ledger import ErrorPolicy
    from ptool.formats.stages import StreamOptions, refuse_terminal
    from ptool.text.batch import Keys

    out = current()
    if list_rules:
        _show_rules(out)
        return
    if sweep:
        _show_sweep(out, opt.stream_inputs(inputs), sweep)
        return
    first = steps_before(
        langs=lang,
        lang_threshold=lang_threshold,
        domains=block_domains or [],
        urls=block_urls or [],
        url_words=block_url_words or [],
        url_key=url_key,
        blocklists=blocklist or [],
        keep_fraction=keep_fraction,
    )
    if preset == "fineweb" and lang is None:
        out.notice("fineweb judges English pages, and no --lang is given: all languages go through it")
    filtering = Filtering(
        recipe=choose_recipe(
            preset,
            rule or [],
            recipe_file=recipe,
            first=first,
            words=words,
            edits=not no_edits,
            reporter=out.reporter,
        ),
        keys=Keys(text=text_key, id=id_key, source=source_key),
        options=StreamOptions(
            policy=ErrorPolicy(on_error=on_error, max_errors=max_errors, rejects=rejects),
            allow_empty=allow_empty,
            force=force,
            compress=compress == "zstd",
        ),
        jobs=opt.resolve_jobs(jobs),
        explain_all=explain_all,
        annotate=annotate,
    )
    sources = opt.stream_inputs(inputs)
    if dry_run:
        _show_rates(out, filtering, sources, sample, seed)
        return
    if output in (None, "-"):
        refuse_terminal(filtering.options.compress)
    _show_counts(out, filter_to(filtering, sources, output, shard=shard, reporter=out.reporter), output)


def _show_rules(out: Out) -> None:
    from ptool.filtering.report import list_rules as describe_rules
    from ptool.filtering.report import rules_text

    if out.json_mode:
        out.json(describe_rules())
    else:
        out.text(rules_text())


def _show_sweep(out: Out, sources: list[str], names: list[str]) -> None:
    from ptool.filtering.annotations import sweep, sweep_rows

    found = sweep(sources, names, reporter=out.reporter)
    out.finish_progress()
    if out.json_mode:
        out.json(found)
        return
    for one in found:
        out.table([one.rule, "min drops", "max drops", ""], sweep_rows(one), descriptor=1)
        if one.num_missing:
            out.notice(f"{one.num_missing:,} documents have no {one.rule}")


def _show_rates(out: Out, filtering: Filtering, sources: list[str], sample: int, seed: int) -> None:
    from ptool.filtering.rates import find_rates
    from ptool.filtering.report import groups_table, outlook, rates_json, rates_table, sampling_told

    found = find_rates(sources, filtering.recipe, keys=filtering.keys, sample=sample, seed=seed, reporter=out.reporter)
    if out.json_mode:
        out.json(rates_json(found))
    else:
        out.table(*rates_table(found), descriptor=1)
        if len(found.by_source) > 1:
            out.table(*groups_table("source", found.by_source), descriptor=1)
        if len(found.by_language) > 1:
            out.table(*groups_table("language", found.by_language), descriptor=1)
        out.summary(outlook(found))
        out.notice(sampling_told(found))


def _show_counts(out: Out, counts: Counts, output: str | None) -> None:
    from ptool.filtering.report import summary

    out.finish_progress()
    if out.json_mode and output not in (None, "-"):
        out.json(counts)  # with the stream on stdout, its trailer has them
    else:
        out.summary(summary(counts))
