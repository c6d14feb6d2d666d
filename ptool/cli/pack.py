"""`ptool pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ptool.cli import options as opt
from ptool.cli.output import current
from ptool.formats.artefacts import find_artefact
from ptool.packing.mixing import read_mix
from ptool.packing.plan import Strategy
from ptool.packing.report import rows_for_people, split_rows
from ptool.packing.run import PackConfig, pack_by_source, preview
from ptool.packing.run import pack as run
from ptool.packing.source import is_megatron
from ptool.units import parse_count, parse_fraction


def pack(
    output: opt.FolderOutput,
    seq_len: Annotated[int, typer.Option(parser=parse_count, metavar="N", help="Tokens of a row: 2048, 8192.")],
    tokens: opt.Artefact = None,
    strategy: Annotated[
        Strategy, typer.Option(help="One after another, documents whole where they fit, or a row for each.")
    ] = "concat",
    holdout: Annotated[
        float, typer.Option(parser=parse_fraction, metavar="SHARE", help="Documents set apart for evaluation.")
    ] = 0.005,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For Megatron's own files: the tokenizer that made them.")
    ] = None,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Shuffle documents before packing, rows after.")] = False,
    mix: Annotated[
        str | None, typer.Option(metavar="SOURCE=SHARE,...|NAME", help="Shares of the sources in the training rows.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="Shares by tokens^(1/T): over 1 lifts small sources.")
    ] = None,
    num_tokens: Annotated[
        int | None, typer.Option("--tokens", parser=parse_count, metavar="N", help="Training tokens of the mix: 100B.")
    ] = None,
    max_epochs: Annotated[float, typer.Option(metavar="N", help="How often a source may come at most.")] = 4.0,
    split_by: Annotated[
        Literal["source"] | None, typer.Option(help="Write a packed folder for each, to be mixed while training.")
    ] = None,
    max_doc_pieces: Annotated[
        int | None, typer.Option(parser=parse_count, metavar="N", help="Cut a document off after so many rows.")
    ] = None,
    seed: opt.Seed = 0,
    force: opt.Force = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Pack token shards into rows of one length.

    Every token goes into exactly one row, and only the ends of rows are padded. Rows carry the boundaries of their
    documents, so that attention can stop there, and the documents' ids. Where a document goes on in another row, the
    token that follows is stored too, so no target is lost to the cut.

    --strategy concat puts documents one after another and cuts every --seq-len tokens. best-fit keeps documents whole:
    only those longer than a row are cut, and the padding stays small (0.03 % of mixed text at 2048).

    --mix gives every source its share of the training tokens (a list, or a mix that ships with ptool: gpt-3, llama-1),
    --temperature makes the shares from the sizes, and --tokens says how many there are to be. Sources that are too
    small are repeated, up to --max-epochs; beyond that the error says what is missing. The shares before and after are
    printed, and stand in the manifest to the token. The held-out documents stay out of the mix. --split-by source
    writes a folder for every source instead, below -o. --strategy pad gives every document rows of its own.

    --holdout sets whole documents apart, chosen by a hash of their text, keyed by --seed; equal texts are never on both
    sides, and of two or more different texts at least one is held out and one is not. 0% holds out none.

    The input is a folder of ptool tokenize, its line on stdin, or a pair of Megatron-LM's files (the prefix, .bin or
    .idx). Every file is compared with its digest first.

    Examples:
        ptool pack tok/ --seq-len 2048 -o packed/
        ptool pack tok/ --seq-len 8192 --strategy best-fit --mix web=0.8,code=0.2 --shuffle -o packed/
        ptool tokenize clean.jsonl.zst --tokenizer tok.model -o tok/ | ptool pack --seq-len 2048 -o packed/
    """
    out = current()
    config = PackConfig(
        seq_len=seq_len,
        strategy=strategy,
        holdout=holdout,
        seed=seed,
        shuffle=shuffle,
        mix=read_mix(mix) if mix else {},
        temperature=temperature,
        tokens=num_tokens,
        max_epochs=max_epochs,
        max_doc_pieces=max_doc_pieces,
    )
    given = opt.artefact_input(tokens)
    path = Path(given) if given and is_megatron(Path(given)) else find_artefact(given)
    if dry_run:
        planned = preview(path, output, config, tokenizer=tokenizer, force=force)
        rows = [("input", str(path)), ("rows", f"{seq_len:,} tokens, {strategy}"), *split_rows(planned, seq_len)]
        out.summary([*rows, ("output", str(output))], title="would pack")
        return
    if split_by is not None:
        found = pack_by_source(path, output, config, tokenizer=tokenizer, force=force, reporter=out.reporter)
        for name, one in found.items():
            out.artefact(output / one.output.name, one.manifest, [("source", name), *rows_for_people(one.manifest)])
        return
    report = run(path, output, config, tokenizer=tokenizer, force=force, reporter=out.reporter)
    out.artefact(output, report.manifest, rows_for_people(report.manifest))
