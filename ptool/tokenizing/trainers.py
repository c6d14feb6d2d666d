"""The trainers themselves: texts in, the bytes of a tokenizer file out.

Three habits of SentencePiece's trainer are worked around, because each loses text without a word: it drops the newline
at a sentence's end, so text is cut before newlines, never after; it leaves out sentences over 4,192 bytes, so long
lines are cut at spaces; and it leaves out sentences with its reserved U+2585, so they are cut there. Its thread count
is fixed, since Unigram's sums depend on how many partial sums there are: the machine's processors do not enter.

Byte-level BPE is trained by the `tokenizers` library. Texts are cut before merging by the pattern of cl100k (numbers in
threes), or of Qwen 2 (single digits): both are known to the fast engine.

Training runs in a thread of its own, so that a signal is answered at once.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from ptool.errors import InputError, PtoolError
from ptool.tokenizers.tiktoken_ranks import PATTERNS

if TYPE_CHECKING:
    from ptool.tokenizing.vocabulary import VocabularyConfig

UNK_ID, BOS_ID, EOS_ID, PAD_ID = 0, 1, 2, -1
"""SentencePiece's own defaults. No pad token: padding has no target, so any id will do."""
END_OF_TEXT = "<|endoftext|>"
"""Id 0 of a byte-level vocabulary; what GPT-2 ends documents with."""
_SINGLE_DIGITS = PATTERNS["qwen2"].regex
_DIGITS_IN_THREES = _SINGLE_DIGITS.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
"""cl100k, as Llama 3's tokenizer.json spells it."""

_THREADS = 16
_PIECE = re.compile(r"\n+[^\n\u2585]*|[^\n\u2585]+")
_PIECE_CHARACTERS = 4096
_MAX_SENTENCE_BYTES = 1 << 20
_TOO_HIGH = re.compile(r"Vocabulary size too high .*<= (\d+)")
_TOO_LOW = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")


def train(texts: Iterable[bytes], config: VocabularyConfig) -> bytes:
    """The model file of a vocabulary trained on `texts` (UTF-8).

    Raises InputError with the largest or smallest possible size where the vocabulary does not suit the text.
    """
    if config.type == "byte-bpe":
        return _train_byte_level(texts, config)
    import sentencepiece

    found = io.BytesIO()
    stopped = threading.Event()

    def pieces() -> Iterator[str]:
        for text in texts:
            if stopped.is_set():
                return
            yield from pieces_of(text.decode())

    def work() -> None:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=pieces(),
            model_writer=found,
            model_type=config.type,
            vocab_size=config.entries,
            character_coverage=config.character_coverage,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            byte_fallback=config.byte_fallback,
            split_digits=config.split_digits,
            control_symbols=list(config.special_tokens),
            max_sentence_length=_MAX_SENTENCE_BYTES,
            num_threads=_THREADS,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            pad_id=PAD_ID,
            minloglevel=2,
        )

    try:
        _answering_signals(work, stopped)
    except BaseException as error:
        raise _explained(error, config) from error
    return found.getvalue()


def _train_byte_level(texts: Iterable[bytes], config: VocabularyConfig) -> bytes:
    """A tokenizer.json. Raises InputError where the text is too little."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE())
    pattern = _SINGLE_DIGITS if config.split_digits else _DIGITS_IN_THREES
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=config.entries,
        special_tokens=[END_OF_TEXT, *config.special_tokens],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    stopped = threading.Event()

    def pieces() -> Iterator[str]:
        for text in texts:
            if stopped.is_set():
                return
            yield text.decode()

    _answering_signals(lambda: tokenizer.train_from_iterator(pieces(), trainer), stopped)
    found = tokenizer.get_vocab_size()
    if found < config.entries:
        message = f"the text is too little for {_size(config)}: {found:,} is the most it gives"
        raise InputError(message, hint=f"--vocab-size {found}, or more text")
    return str(tokenizer.to_str()).encode()


def _answering_signals(work: Callable[[], None], stopped: threading.Event) -> None:
    """Run `work` in a thread: trainers answer no signal until they are done, the main thread, waiting here, does."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=guarded, name="train-tokenizer", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    finally:
        stopped.set()
    if failures:
        raise failures[0]


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
    size = _size(config)
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


def _size(config: VocabularyConfig) -> str:
    return f"a {config.type} vocabulary of {config.entries:,}"


def special_ids(config: VocabularyConfig) -> dict[str, int | None]:
    """The ids of the tokens that every vocabulary of this type has."""
    if config.type == "byte-bpe":
        return {"unk": None, "bos": None, "eos": 0, "pad": None}
    return {"unk": UNK_ID, "bos": BOS_ID, "eos": EOS_ID, "pad": None}
