"""`ptool pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ptool.cli import options as opt
from ptool.cli.output import current
from ptool.errors import UsageError
from ptool.formats.artefacts import find_artefact
from ptool.packing.config import PackConfig
from ptool.packing.locating import locate_row
from ptool.packing.mixing import DomainKind, read_mix
from ptool.packing.plan import Strategy
from ptool.packing.report import row_for_people, rows_for_people, split_rows
from ptool.packing.run import pack as run
from ptool.packing.run import pack_each, preview, preview_each
from ptool.packing.source import is_megatron
from ptool.units import parse_count, parse_fraction


def pack(
    output: opt.FolderOutput,
    seq_len: Annotated[int, typer.Option(parser=parse_count, metavar="N", help="Tokens of a row: 2048, 8192.")],
    tokens: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FOLDER]...", help="Token folders; none or - reads the line on stdin."),
    ] = None,
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
    mix_by: Annotated[
        DomainKind | None, typer.Option(help="What is mixed; by default folders where several are given.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="Shares by tokens^(1/T): over 1 lifts small sources.")
    ] = None,
    num_tokens: Annotated[
        int | None, typer.Option("--tokens", parser=parse_count, metavar="N", help="Training tokens of the mix: 100B.")
    ] = None,
    max_epochs: Annotated[float, typer.Option(metavar="N", help="How often a source may come at most.")] = 4.0,
    domain_balance: Annotated[
        Literal["none", "batch"], typer.Option(help="batch: rows of one source each, in every batch by their shares.")
    ] = "none",
    balance_rows: Annotated[
        int, typer.Option(parser=parse_count, metavar="N", help="Rows of a batch for --domain-balance.")
    ] = 256,
    group_by: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Put documents that share this field side by side.")
    ] = None,
    split_by: Annotated[
        DomainKind | None, typer.Option(help="Write a packed folder for each, to be mixed while training.")
    ] = None,
    max_doc_pieces: Annotated[
        int | None, typer.Option(parser=parse_count, metavar="N", help="Cut a document off after so many rows.")
    ] = None,
    inspect: Annotated[
        int | None, typer.Option(parser=parse_count, metavar="ROW", help="Show a row of the outcome as text.")
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
    writes a folder for every source instead, below -o. --strategy pad gives every document rows of its own. Where
    several token folders are given, a mix names folders (--mix-by source: sources, over all of them).

    --domain-balance batch fills every training row from one source, and orders the rows so that of any --balance-rows
    next to one another each source has its share to within a row. --group-by puts training documents that have the same
    value of a field side by side and plans them as one, for long contexts; the field is source, or one that ptool
    tokenize --group-key kept. --inspect shows a training row with the boundaries of its documents.

    --holdout sets whole documents apart, chosen by a hash of their text, keyed by --seed; equal texts are never on both
    sides, and of two or more different texts at least one is held out and one is not. 0% holds out none.

    The input is a folder of ptool tokenize, or several, its line on stdin, or a pair of Megatron-LM's files (the
    prefix, .bin or .idx). Every file is compared with its digest first.

    Examples:
        ptool pack tok/ --seq-len 2048 -o packed/
        ptool pack web/ code/ --seq-len 8192 --strategy best-fit --mix web=0.8,code=0.2 --shuffle -o packed/
        ptool tokenize clean.jsonl.zst --tokenizer tok.model -o tok/ | ptool pack --seq-len 2048 -o packed/
    """
    out = current()
    given = [opt.artefact_input(name) for name in tokens or ["-"]]
    paths = [Path(one) if one and is_megatron(Path(one)) else find_artefact(one) for one in given]
    config = PackConfig(
        seq_len=seq_len,
        strategy=strategy,
        holdout=holdout,
        seed=seed,
        shuffle=shuffle,
        mix=read_mix(mix) if mix else {},
        mix_by=mix_by or split_by or ("folder" if len(paths) > 1 else "source"),
        temperature=temperature,
        tokens=num_tokens,
        max_epochs=max_epochs,
        domain_balance=domain_balance,
        balance_rows=balance_rows,
        group_by=group_by,
        max_doc_pieces=max_doc_pieces,
    )
    if split_by is not None and mix_by not in (None, split_by):
        raise UsageError(f"--split-by {split_by} and --mix-by {mix_by}", hint="leave --mix-by out")
    if split_by is not None and inspect is not None:
        raise UsageError("--inspect shows a row of one folder", hint="ptool locate FOLDER ROW --text")
    if dry_run:
        planned = (
            preview_each(paths, output, config, tokenizer=tokenizer, force=force)
            if split_by is not None
            else {"": preview(paths, output, config, tokenizer=tokenizer, force=force)}
        )
        rows = [("input", " ".join(map(str, paths))), ("rows", f"{seq_len:,} tokens, {strategy}")]
        for name, splits in planned.items():
            rows += [(f"{name} {key}".strip(), value) for key, value in split_rows(splits, seq_len)]
        out.summary([*rows, ("output", str(output))], title="would pack")
        return
    if split_by is not None:
        found = pack_each(paths, output, config, tokenizer=tokenizer, force=force, reporter=out.reporter)
        for name, one in found.items():
            out.artefact(one.output, one.manifest, [(split_by, name), *rows_for_people(one.manifest)])
        return
    report = run(paths, output, config, tokenizer=tokenizer, force=force, reporter=out.reporter)
    out.artefact(output, report.manifest, rows_for_people(report.manifest))
    if inspect is not None:
        out.summary(row_for_people(locate_row(output, inspect, text=True)), title=f"row {inspect:,}")
