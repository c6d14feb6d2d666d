"""Training a SentencePiece vocabulary from a document stream.

The vocabulary is lossless: nothing is normalised, no space is added or removed, and characters it does not hold are
spelled in bytes. Three habits of SentencePiece's trainer are worked around, because each loses text without a word: it
drops the newline at a sentence's end, so text is cut before newlines, never after; it leaves out sentences over 4,192
bytes, so long lines are cut at spaces; and it leaves out sentences with its reserved U+2585, so they are cut there.

The result is a function of the documents, the configuration and the seed. The trainer's thread count is fixed, since
Unigram's sums depend on how many partial sums there are (not on when each is ready): the machine's processors do not
enter. A corpus larger than `sample_bytes` is sampled by a keyed hash of each text, which no order of inputs changes.

Costs, measured on one core: BPE about 6 MB/s, Unigram 0.6 MB/s; memory a few times the sample. The training itself runs
in a thread of its own, so that a signal is answered at once.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import xxhash

from ptool.errors import InputError, PtoolError, UsageError
from ptool.formats.artefacts import file_digest
from ptool.formats.atomic import replacing, write_bytes
from ptool.formats.manifests import FileEntry, Manifest, encode_manifest, new_manifest
from ptool.formats.runs import RunRecord
from ptool.formats.stages import manifest_beside, read_manifest
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import decode
from ptool.tokenizing.intake import Intake, Reading

STAGE = "train-tokenizer"
UNK_ID, BOS_ID, EOS_ID, PAD_ID = 0, 1, 2, -1
"""SentencePiece's own defaults. No pad token: padding has no target, so any id will do."""

_THREADS = 16
_PIECE = re.compile(r"\n+[^\n\u2585]*|[^\n\u2585]+")
_PIECE_CHARACTERS = 4096
_MAX_SENTENCE_BYTES = 1 << 20
_TOO_HIGH = re.compile(r"Vocabulary size too high .*<= (\d+)")
_TOO_LOW = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")

ModelType = Literal["bpe", "unigram"]


class VocabularyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What determines a vocabulary, beside the documents."""

    vocab_size: int
    type: ModelType = "bpe"
    character_coverage: float = 0.9995
    """Rarer characters are spelled in bytes. 0.9995: SentencePiece's advice for rich character sets."""
    sample_bytes: int = 256 << 20
    """Text to train on at most, UTF-8 bytes."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.vocab_size < 1:
            raise UsageError(f"a vocabulary of {self.vocab_size} entries", hint="for example --vocab-size 32000")
        if not 0.98 <= self.character_coverage <= 1:  # the trainer's own limits
            message = f"a character coverage of {self.character_coverage}"
            raise UsageError(message, hint="from 0.98 to 1; for example --character-coverage 0.9995")
        if self.sample_bytes < 1:
            raise UsageError("a sample of no bytes", hint="for example --sample 256MiB")


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
    settings = {**msgspec.to_builtins(config), "keys": msgspec.to_builtins(reading.keys)}
    existing = None if force else _existing(output, settings)
    record = RunRecord()
    intake = Intake(STAGE, settings, inputs, output, reading=reading, force=force, reporter=reporter)
    if existing is not None:
        if not intake.is_of(existing):
            raise _exists(output, "was made from other input")
        reporter.notice(f"up to date: {output}")
        return VocabularyReport(manifest=existing, output=output, up_to_date=True)
    with intake.opened():
        sample = Sample(config.sample_bytes, config.seed)
        num_bytes = 0
        for lines in intake.lines():
            batch, bad = decode(lines, reading.keys)
            intake.count(len(batch), bad, lines.path)
            num_bytes += len(batch.text)
            for index in range(len(batch)):
                sample.add(batch.text_of(index))
        reporter.notice(
            f"training a {config.type} vocabulary of {config.vocab_size:,} on {sample.num_bytes:,} bytes of text"
        )
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
                "special_ids": {"unk": UNK_ID, "bos": BOS_ID, "eos": EOS_ID, "pad": None},
                "lossless": True,
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


class Sample:
    """The texts with the smallest keyed hashes, as many as fit into `limit` bytes, in the order they came.

    Which texts are taken depends on the texts and the seed alone, not on their order.
    """

    def __init__(self, limit: int, seed: int) -> None:
        self._limit = limit
        self._seed = seed
        self._heap: list[tuple[int, int, bytes]] = []
        self._bar = 1 << 64
        self._added = 0
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, text: bytes) -> None:
        """Offer a text, UTF-8."""
        key = xxhash.xxh3_64_intdigest(text, seed=self._seed)
        self._added += 1
        if key >= self._bar or not text:
            return
        heapq.heappush(self._heap, (-key, self._added, text))
        self.num_bytes += len(text)
        while self.num_bytes > self._limit and len(self._heap) > 1:
            dropped, _, gone = heapq.heappop(self._heap)
            self.num_bytes -= len(gone)
            self._bar = -dropped  # nothing at or above it can come back, or the order of the inputs would matter

    def texts(self) -> Iterator[bytes]:
        """The texts taken."""
        for _, _, text in sorted(self._heap, key=lambda entry: entry[1]):
            yield text


def train(texts: Iterable[bytes], config: VocabularyConfig) -> bytes:
    """The model file of a vocabulary trained on `texts` (UTF-8).

    Raises InputError with the largest or smallest possible size where the vocabulary does not suit the text.
    """
    import sentencepiece

    found = io.BytesIO()
    failures: list[BaseException] = []
    stopped = threading.Event()

    def pieces() -> Iterator[str]:
        for text in texts:
            if stopped.is_set():
                return
            yield from pieces_of(text.decode())

    def work() -> None:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=pieces(),
                model_writer=found,
                model_type=config.type,
                vocab_size=config.vocab_size,
                character_coverage=config.character_coverage,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                byte_fallback=True,
                max_sentence_length=_MAX_SENTENCE_BYTES,
                num_threads=_THREADS,
                unk_id=UNK_ID,
                bos_id=BOS_ID,
                eos_id=EOS_ID,
                pad_id=PAD_ID,
                minloglevel=2,
            )
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(error)

    # The C++ trainer answers no signal until it is done; the main thread, waiting here, does.
    thread = threading.Thread(target=work, name="train-tokenizer", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    finally:
        stopped.set()
    if failures:
        raise _explained(failures[0], config) from failures[0]
    return found.getvalue()


def pieces_of(text: str) -> Iterator[str]:
    """A document as the trainer takes it: cut before newlines, and at a space where a line is long."""
    for line in _PIECE.findall(text):
        while len(line) > _PIECE_CHARACTERS:
            at = line.rfind(" ", _PIECE_CHARACTERS // 2, _PIECE_CHARACTERS)
            at = at if at > 0 else _PIECE_CHARACTERS
            yield line[:at]
            line = line[at:]
        yield line


def _explained(error: BaseException, config: VocabularyConfig) -> BaseException:
    if not isinstance(error, RuntimeError):
        return error
    text = str(error)
    size = f"a {config.type} vocabulary of {config.vocab_size:,}"
    if match := _TOO_HIGH.search(text):
        largest = int(match[1])
        message = f"the text is too little for {size}: {largest:,} is the most it gives"
        return InputError(message, hint=f"--vocab-size {largest}, or more text")
    if match := _TOO_LOW.search(text):
        smallest = int(match[1])
        message = f"{size} is too small: the bytes and characters of the text take {smallest:,}"
        return InputError(message, hint=f"--vocab-size {smallest + 1} or more, or a lower --character-coverage")
    if "sentences_.empty()" in text:
        return InputError("there is no text to train on", hint="are all documents empty?")
    return PtoolError(f"SentencePiece failed: {text.splitlines()[0] if text else error!r}")


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
