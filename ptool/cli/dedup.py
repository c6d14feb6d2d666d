"""`ptool dedup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ptool.cli import options as opt
from ptool.cli.output import current
from ptool.errors import UsageError
from ptool.units import parse_bytes, parse_count, parse_fraction


def dedup(
    inputs: opt.Inputs = None,
    output: opt.StreamOutput = None,
    rejects: opt.RejectsFile = None,
    mode: Annotated[
        Literal["exact", "minhash", "line", "paragraph", "ngram"],
        typer.Option(help="Equal texts, near duplicates too, repeated lines or paragraphs, or n-grams seen before."),
    ] = "minhash",
    threshold: Annotated[
        float,
        typer.Option(
            parser=parse_fraction, metavar="SIMILARITY", help="Jaccard similarity from which texts are twins."
        ),
    ] = 0.8,
    unit: Annotated[
        Literal["document", "paragraph"],
        typer.Option(help="What near duplicates are: documents, or paragraphs in them."),
    ] = "document",
    ngram: Annotated[
        int | None,
        typer.Option(
            parser=parse_count, metavar="N", help="Words or characters of a shingle: 5, with --mode ngram 13."
        ),
    ] = None,
    shingle: Annotated[Literal["word", "char"], typer.Option(help="What shingles are runs of.")] = "word",
    words: Annotated[
        Literal["cjk", "whitespace"], typer.Option(help="What a word is: every ideograph too, or what spaces separate.")
    ] = "cjk",
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Compare without case, punctuation, digits, accents.")
    ] = False,
    num_perm: Annotated[
        int, typer.Option(parser=parse_count, metavar="N", help="Permutations: values of a signature.")
    ] = 112,
    bands: Annotated[
        str | None,
        typer.Option(metavar="N|datasketch", help="Bands, with --rows; or datasketch's optimum; default: see below."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(parser=parse_count, metavar="N", help="Signature values of a band; with --bands.")
    ] = None,
    scheme: Annotated[
        Literal["affine32", "legacy"], typer.Option(help="Permutations of datasketch 2, or those before it.")
    ] = "affine32",
    compat: Annotated[
        Literal["none", "datatrove"], typer.Option(help="Another tool's texts, arithmetic and bands.")
    ] = "none",
    verify: Annotated[
        Literal["exact", "signature", "none"],
        typer.Option(help="What decides about a candidate: its shingles, its signature, or that it is one."),
    ] = "exact",
    max_bucket: Annotated[
        int, typer.Option(parser=parse_count, metavar="N", help="Kept documents that a bucket remembers.")
    ] = 256,
    hash_name: Annotated[
        Literal["xxh3", "sha256"], typer.Option("--hash", help="With --mode line or paragraph: what equal ones share.")
    ] = "xxh3",
    bloom: Annotated[
        float | None,
        typer.Option(
            parser=parse_fraction,
            metavar="RATE",
            help="A Bloom filter with this rate of false alarms, for lines to n-grams.",
        ),
    ] = None,
    expected_items: Annotated[
        int | None,
        typer.Option(
            parser=parse_count, metavar="N", help="Lines, paragraphs or n-grams to expect; of files, counted."
        ),
    ] = None,
    max_seen: Annotated[
        float,
        typer.Option(parser=parse_fraction, metavar="SHARE", help="With --mode ngram: n-grams that may be known."),
    ] = 0.8,
    removed: Annotated[
        Path | None, typer.Option(metavar="FILE", help="List every span that was cut out of a text.")
    ] = None,
    prefer: Annotated[
        str, typer.Option(metavar="first|longest|source=A,B", help="Which twin to keep; all but first need files.")
    ] = "first",
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Keep one of each connected component; needs files.")
    ] = False,
    clusters: Annotated[
        Path | None, typer.Option(metavar="FILE", help="List kept documents with those dropped for them; needs files.")
    ] = None,
    plan: Annotated[
        Literal["auto", "stream", "files"],
        typer.Option(help="One pass, or tasks on files with the same result; auto: files where they are needed."),
    ] = "auto",
    workdir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the tasks' files stand meanwhile; default: OUTPUT.dedup-work."),
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(parser=parse_count, metavar="N", help="Ranges of keys, a task each; default: as needed."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="INDEX", help="Count the documents of a saved index as earlier and kept.")
    ] = None,
    save_index: Annotated[
        Path | None, typer.Option(metavar="INDEX", help="Save the index of what is kept, that of --against included.")
    ] = None,
    tmp_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where shingle sets are kept meanwhile; default $TMPDIR or /var/tmp."),
    ] = None,
    max_memory: Annotated[
        int | None,
        typer.Option(parser=parse_bytes, metavar="BYTES", help="What the index may take; default: what is free."),
    ] = None,
    seed: opt.Seed = 1,
    dry_run: opt.DryRun = False,
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
    """Drop documents that repeat an earlier one.

    One pass, in stream order, files in the order given. A document is dropped when its text equals that of an earlier
    kept document, or (--mode minhash) when it is a near duplicate of one; of several such twins the most similar is
    named, of equally similar ones the earliest. Kept lines go out as the same bytes.

    Similarity is Jaccard's, of the sets of 5-word shingles; every ideograph and kana is a word, a text of fewer words
    is one shingle, a text without words is compared by its exact text only. Candidates come from MinHash signatures
    (datasketch's `affine32`), and each is verified before it costs a document its place: by the exact similarity of the
    two sets of 32-bit shingle hashes, by --verify signature from the signatures (off by 0.04 near the threshold, with
    112 permutations), by --verify none not at all: that removes texts which are no duplicates, and says how many.

    Candidates are documents that share a band of their signatures. Bands are chosen so that a pair at --threshold +
    0.05 is found with a probability of at least 0.985, with as few candidates as that allows (14 x 8 at 0.8); --bands
    and --rows override. A bucket remembers its first --max-bucket kept documents; comparisons left out are counted.

    The index is in memory: at most 380 bytes for each kept document (700 with --verify signature or none, 30 with
    --mode exact), and with --rejects its id. The shingle sets are on disk, 4 bytes for each distinct shingle of a kept
    document, in a file in --tmp-dir that is gone when the command ends, however it ends.
    With --plan files the same documents are kept, byte for byte, by tasks that leave files in --workdir: inputs are
    described in parallel, keys that only one document has are thrown away, and the index holds what is left. Its memory
    is that of documents which share a band with another one, and a run that was killed goes on when it is started
    again. --prefer keeps the longest of several twins, or that of the first source named; --cluster keeps one of each
    connected component, as other tools do, which drops documents that are no near duplicate of any kept one; both take
    all documents at once, so they need files. Kept documents leave in stream order, whatever is preferred.

    --mode line and --mode paragraph cut out of each text what an earlier line or paragraph of the stream equals, and
    --unit paragraph near-duplicate paragraphs; a document of which nothing is left is dropped. --removed lists the
    spans, as offsets into the UTF-8 of the text. --mode ngram drops documents of whose 13-grams more than --max-seen
    occurred in kept ones. --bloom takes a filter of a few bits an item instead of exact hashes: repetitions are never
    missed, and at the rate it reports, others are taken for one. These modes are one pass, and -o is a file.

    --save-index keeps the index, and --against deduplicates a new crawl against it: what is kept is what one run over
    both would have kept of the new one. The parameters of the shingles and bands must be the same.

    --rejects gets every dropped document with its twin's id and their similarity. With `-o FOLDER/` every input has an
    output of its own; all share one index. --shard is refused: a twin may be in another task's files.

    Examples:
        ptool dedup crawl.jsonl.zst -o unique.jsonl.zst --rejects duplicates.jsonl.zst
        ptool filter crawl/*.jsonl.zst | ptool dedup --threshold 0.7 -o unique.jsonl.zst
        ptool dedup crawl/*.jsonl.zst --plan files --clusters clusters.jsonl -o unique/
    """
    from ptool.dedup import report
    from ptool.dedup.config import configured
    from ptool.formats.ledger import ErrorPolicy
    from ptool.formats.stages import StreamOptions, refuse_terminal

    out = current()
    if shard is not None:
        raise UsageError(
            "--shard cannot split a deduplication: a document's twin may be in another task's files",
            hint="run it once over all files; --jobs uses all processors",
        )
    passes = unit == "paragraph" or mode in ("line", "paragraph", "ngram")
    if passes and (against is not None or save_index is not None):
        raise UsageError("an index is of whole documents", hint="leave out --against and --save-index")
    if bloom is not None and not passes:
        raise UsageError(f"--bloom goes with lines, paragraphs and n-grams, not with --mode {mode}")
    config = configured(
        compat,
        bands,
        mode="exact" if passes and mode != "minhash" else mode,
        threshold=threshold,
        ngram=5 if ngram is None or mode == "ngram" else ngram,
        shingle=shingle,
        words=words,
        normalize=normalize,
        num_perm=num_perm,
        rows=rows,
        scheme=scheme,
        seed=seed,
        verify=verify,
        max_bucket=max_bucket,
        prefer=prefer,
        cluster=cluster,
    )
    if passes:
        from ptool.dedup.passes import pass_config

        chosen = pass_config(
            mode,
            config,
            ngram=ngram,
            hash=hash_name,
            error_rate=bloom,
            expected_items=expected_items,
            max_seen=max_seen,
            seed=seed,
        )
    if dry_run:
        if passes:
            planned = {**chosen.record(), "inputs": list(inputs or ["-"]), "output": output or "-"}
            if out.json_mode:
                out.json(planned)
            else:
                out.summary([(name, str(value)) for name, value in planned.items()], title="would deduplicate")
        elif out.json_mode:
            out.json(report.plan(config, inputs or ["-"], output))
        else:
            out.summary(report.plan_rows(config, inputs or ["-"], output), title="would deduplicate")
        return
    sources = opt.stream_inputs(inputs)
    if output in (None, "-"):
        refuse_terminal(compress == "zstd")

    from ptool.dedup.run import Deduplication, FilesPlan, dedup_to, pass_to
    from ptool.executors import free_memory
    from ptool.text.batch import Keys

    policy = ErrorPolicy(on_error=on_error, max_errors=max_errors, rejects=rejects)
    options = StreamOptions(policy=policy, allow_empty=allow_empty, force=force, compress=compress == "zstd")
    keys = Keys(text=text_key, id=id_key, source=source_key)
    work = Deduplication(
        config=config,
        keys=keys,
        options=options,
        jobs=opt.resolve_jobs(jobs),
        tmp_dir=tmp_dir,
        max_memory=max_memory or free_memory(),
        against=against,
        save_index=save_index,
    )
    if passes:
        manifest = pass_to(work, chosen, sources, output, removed=removed, reporter=out.reporter).manifest
        out.finish_progress()
        if out.json_mode and output not in (None, "-"):
            out.json(report.pass_json(manifest))
        else:
            out.summary(report.pass_summary(manifest))
        return
    files = FilesPlan.chosen(plan, config, output, folder=workdir, partitions=partitions, clusters=clusters)
    manifest = dedup_to(work, sources, output, files=files, reporter=out.reporter).manifest
    out.finish_progress()
    if out.json_mode and output not in (None, "-"):
        out.json(report.summary_json(manifest))  # with the stream on stdout, its trailer has them
    else:
        out.summary(report.summary(manifest))
