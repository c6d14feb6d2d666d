"""`ptool train-tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptool.cli import options as opt
from ptool.cli.output import current
from ptool.formats.ledger import ErrorPolicy
from ptool.text.batch import Keys
from ptool.tokenizing.intake import Reading
from ptool.tokenizing.shares import embedding_share, parse_weights
from ptool.tokenizing.vocabulary import ModelType, VocabularyConfig
from ptool.tokenizing.vocabulary import train_tokenizer as train
from ptool.units import format_bytes, parse_bytes, parse_count, parse_fraction


def train_tokenizer(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The model file to write.")],
    vocab_size: Annotated[
        int, typer.Option(parser=parse_count, metavar="N", help="Entries of the vocabulary: 32000, 64k.")
    ],
    inputs: opt.Inputs = None,
    type: Annotated[
        ModelType, typer.Option(help="SentencePiece BPE or Unigram, or byte-level BPE (tokenizer.json).")
    ] = "bpe",
    character_coverage: Annotated[
        float,
        typer.Option(parser=parse_fraction, metavar="SHARE", help="Rarer characters are spelled in bytes."),
    ] = 0.9995,
    sample: Annotated[
        int, typer.Option(parser=parse_bytes, metavar="BYTES", help="Train on at most so much text, chosen by hash.")
    ] = 256 << 20,
    multiple_of: Annotated[
        int, typer.Option(parser=parse_count, metavar="N", help="Round --vocab-size up to a multiple: 64, 128.")
    ] = 1,
    special_token: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further control token; may be repeated.")
    ] = None,
    byte_fallback: Annotated[bool, typer.Option(help="Spell characters outside the vocabulary in bytes.")] = True,
    split_digits: Annotated[bool, typer.Option("--split-digits", help="Make every digit a token by itself.")] = False,
    weights: Annotated[
        str | None, typer.Option(metavar="SOURCE=SHARE,...", help="The sample's make-up, by --source-key.")
    ] = None,
    language_weights: Annotated[
        str | None, typer.Option(metavar="LANGUAGE=SHARE,...", help="The same by --language-key, in every source.")
    ] = None,
    language_key: Annotated[str, typer.Option(metavar="KEY", help="Field that names the language.")] = "lang",
    model: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Say how much of a model of this size the vocabulary is: 1b.")
    ] = None,
    seed: opt.Seed = 0,
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
    """Train a tokenizer on a document stream.

    Writes a SentencePiece model (--type bpe or unigram), which Hugging Face and llama.cpp read too, or a tokenizer.json
    (--type byte-bpe), and its manifest beside it (FILE.manifest.json). The vocabulary is lossless: text is not
    normalised, spaces, tabs and newlines are kept, no space is put before a text, and characters outside the vocabulary
    are spelled in bytes, so that decoding gives back every text exactly. Special tokens of SentencePiece: <unk> is 0,
    <s> 1, </s> 2; of byte-bpe: <|endoftext|> is 0. --special-token adds more; a text that spells one is text.

    --weights gives every source its share of the sample, --language-weights every language; each is normalised, and
    with both the share of a language in a source is their product. What has no weight is left out. For a run in earnest
    32,000 to 131,072 entries are usual; --model says what share of the parameters they take.

    The whole stream is read; at most --sample bytes of it are trained on, whole documents chosen by a hash of their
    text and --seed. The same documents give the same model on every machine. Where the text is too little for the
    vocabulary, the error says how large it can be.

    Examples:
        ptool train-tokenizer clean.jsonl.zst --vocab-size 32000 -o tok.model
        ptool train-tokenizer wiki.jsonl.zst --vocab-size 64k --type byte-bpe --language-weights en=0.7,zh=0.3 \
            -o tokenizer.json
        ptool filter *.jsonl.zst --preset gopher-quality | ptool train-tokenizer --vocab-size 32000 -o tok.model
    """
    out = current()
    config = VocabularyConfig(
        vocab_size=vocab_size,
        type=type,
        character_coverage=character_coverage,
        multiple=multiple_of,
        special_tokens=tuple(special_token or ()),
        byte_fallback=byte_fallback,
        split_digits=split_digits,
        weights=parse_weights(weights),
        language_weights=parse_weights(language_weights),
        language_key=language_key,
        sample_bytes=sample,
        seed=seed,
    )
    reading = Reading(
        keys=Keys(text=text_key, id=id_key, source=source_key),
        policy=ErrorPolicy(on_error=on_error, max_errors=max_errors, rejects=rejects),
        allow_empty=allow_empty,
    )
    if model is not None:
        out.notice(embedding_share(model, config.entries))
    if dry_run:
        plan = [("inputs", " ".join(inputs or ["stdin"])), ("vocabulary", f"{config.entries:,} entries, {type}")]
        out.summary([*plan, ("text", f"at most {format_bytes(sample)}"), ("output", str(output))], title="would train")
        return
    report = train(opt.stream_inputs(inputs), output, config, reading=reading, force=force, reporter=out.reporter)
    out.finish_progress()
    if out.json_mode:
        out.json({"tokenizer": str(output.resolve()), "manifest": report.manifest})
