"""Training a vocabulary from a document stream: SentencePiece BPE and Unigram, and byte-level BPE.

The vocabulary is lossless: nothing is normalised, no space is added or removed, and characters it does not hold are
spelled in bytes (unless that is switched off). The trainers are trainers.py.

The result is a function of the documents, the configuration and the seed. A corpus larger than `sample_bytes` is
sampled by a keyed hash of each text, which no order of inputs changes; `weights` and `language_weights` give every
named source and language its share of the sample, and those without a name none (sample.py).

Cost: reading, and what `expected_seconds` says; memory a few times the sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ptool.errors import UsageError
from ptool.formats.artefacts import file_digest
from ptool.formats.atomic import replacing, write_bytes
from ptool.formats.manifests import FileEntry, Manifest, encode_manifest, new_manifest
from ptool.formats.runs import RunRecord
from ptool.formats.stages import manifest_beside, read_manifest
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import decode
from ptool.tokenizing.intake import Intake, Reading
from ptool.tokenizing.sample import WeightedSample
from ptool.tokenizing.trainers import special_ids, train
from ptool.units import format_duration

STAGE = "train-tokenizer"

ModelType = Literal["bpe", "unigram", "byte-bpe"]

USUAL_ENTRIES = (32_000, 128 << 10)
"""What models that were meant to be used have: Llama 2 to Llama 3. Smaller ones make long sequences, larger ones spend
parameters on tokens that are hardly ever trained."""
_BYTES_PER_SECOND = {"bpe": 6e6, "unigram": 0.6e6, "byte-bpe": 0.7e6}
"""Measured on one core of a busy machine, on mixed languages."""


class VocabularyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What determines a vocabulary, beside the documents."""

    vocab_size: int
    type: ModelType = "bpe"
    character_coverage: float = 0.9995
    """Rarer characters are spelled in bytes. 0.9995: SentencePiece's advice for rich character sets."""
    multiple: int = 1
    """`vocab_size` is rounded up to a multiple of this: matrices of 64 or 128 columns are quicker on a GPU."""
    special_tokens: tuple[str, ...] = ()
    """Further control tokens, such as those of a chat format, which no text encodes to."""
    byte_fallback: bool = True
    """SentencePiece: spell unknown characters in bytes. Without it they become <unk>, and text is lost."""
    split_digits: bool = False
    """Every digit is a token by itself; else numbers are cut as the trainer sees fit, byte-level ones in threes."""
    weights: dict[str, float] = {}
    """The share of each source in the sample; empty for documents as they come."""
    language_weights: dict[str, float] = {}
    """The share of each language, in every source alike; empty for documents as they come."""
    language_key: str = "lang"
    """The field that names the language, read where there are `language_weights`; a dotted path goes into objects."""
    sample_bytes: int = 256 << 20
    """Text to train on at most, UTF-8 bytes."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.vocab_size < 1:
            raise UsageError(f"a vocabulary of {self.vocab_size} entries", hint="for example --vocab-size 32000")
        if not 0.98 <= self.character_coverage <= 1:  # the trainer's own limits
            message = f"a character coverage of {self.character_coverage}"
            raise UsageError(message, hint="from 0.98 to 1; for example --character-coverage 0.9995")
        if self.multiple < 1:
            raise UsageError("a multiple of 0", hint="for example --multiple-of 128")
        if any(weight <= 0 for weight in [*self.weights.values(), *self.language_weights.values()]):
            raise UsageError("a weight that is not positive", hint="for example --weights en=0.7,zh=0.3")
        if self.sample_bytes < 1:
            raise UsageError("a sample of no bytes", hint="for example --sample 256MiB")

    @property
    def entries(self) -> int:
        """The size of the vocabulary, rounded."""
        return -(-self.vocab_size // self.multiple) * self.multiple

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.type} vocabulary of {self.entries:,}"


def expected_seconds(config: VocabularyConfig, sample_bytes: int) -> float:
    """How long training on so much text takes, on one core; within a factor of two."""
    return 1 + sample_bytes / _BYTES_PER_SECOND[config.type]


def is_usual(entries: int) -> bool:
    """Whether a vocabulary has a size that a real run would choose."""
    return USUAL_ENTRIES[0] <= entries <= USUAL_ENTRIES[1]


class VocabularyReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: where the model is, its manifest, and whether nothing had to be done."""

    manifest: Manifest
    output: Path
    up_to_date: bool = False


def train_tokenizer(
    inputs: Sequence[str | Path],
    output: Path,
    config: VocabularyConfig,
    *,
    reading: Reading | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> VocabularyReport:
    """Train a vocabulary on documents and write it to `output`, and its manifest beside it (`NAME.manifest.json`).

    Raises InputError where the text is too little for the vocabulary, UsageError where `output` is other work's.
    """
    reading = reading or Reading()
    settings = msgspec.json.decode(msgspec.json.encode(config))  # as a manifest has it: lists, no tuples
    settings["keys"] = msgspec.to_builtins(reading.keys)
    existing = None if force else _existing(output, settings)
    record = RunRecord()
    intake = Intake(STAGE, settings, inputs, output, reading=reading, force=force, reporter=reporter)
    if existing is not None:
        if not intake.is_of(existing):
            raise _exists(output, "was made from other input")
        reporter.notice(f"up to date: {output}")
        return VocabularyReport(manifest=existing, output=output, up_to_date=True)
    with intake.opened():
        sample = WeightedSample(config.sample_bytes, config.seed, config.weights, config.language_weights)
        num_bytes = 0
        for lines in intake.lines():
            batch, bad = decode(lines, reading.keys)
            intake.count(len(batch), bad, lines.path)
            num_bytes += len(batch.text)
            languages = batch.fields(config.language_key) if config.language_weights else [None] * len(batch)
            for index, language in enumerate(languages):
                known = language if isinstance(language, str) else None
                sample.add(batch.text_of(index), batch.sources[index], known)
        sample.check()
        for source, name in sample.empty_pairs:
            reporter.notice(f"no text of {source} in {name}: its part of the sample stays empty")
        seconds = format_duration(expected_seconds(config, sample.num_bytes))
        reporter.notice(f"training a {config.name} on {sample.num_bytes:,} bytes of text, about {seconds}")
        if not is_usual(config.entries):
            few, many = USUAL_ENTRIES
            reporter.notice(f"{config.entries:,} entries: a run in earnest has {few:,} to {many:,}")
        model = train(sample.texts(), config)
        manifest = new_manifest(
            STAGE,
            settings,
            counts=intake.counts,
            documents_in=intake.documents,
            num_documents=intake.counts.kept,
            num_bytes=num_bytes,
            details={
                "sample_bytes": sample.num_bytes,
                "sample_documents": len(sample),
                "sample_bytes_by_source": sample.bytes_by_source,
                "sample_bytes_by_language": sample.bytes_by_language,
                "entries": config.entries,
                "special_ids": special_ids(config),
                "lossless": config.byte_fallback,
            },
            upstream=intake.upstream,
        )
        with replacing(output) as file:
            file.write(model)
            digest = f"sha256:{hashlib.sha256(model).hexdigest()}"
            entry = FileEntry(path=output.name, size=len(model), digest=digest)
            manifest = msgspec.structs.replace(manifest, files=[entry])
            # First, so that a model that is there always has its manifest.
            write_bytes(manifest_beside(output), encode_manifest(manifest) + b"\n")
        intake.publish_rejects()
        record.write(output)
    intake.check()
    return VocabularyReport(manifest=manifest, output=output)


def _existing(output: Path, settings: dict[str, object]) -> Manifest | None:
    """The manifest of the finished model, None where it is still to be made. Raises UsageError for other work's."""
    found = read_manifest(output) if output.exists() else None
    if found is None:
        if output.exists():
            raise _exists(output, "is no finished output of ptool")
        return None
    expected = new_manifest(STAGE, settings)
    if (found.stage, found.version, found.config) != (STAGE, expected.version, settings):
        raise _exists(output, f"was made otherwise, by {found.stage} {found.version}")
    return found if found.files and file_digest(output) == found.files[0].digest else None


def _exists(output: Path, why: str) -> UsageError:
    return UsageError(f"the output is there and {why}", where=str(output), hint="--force replaces it")
