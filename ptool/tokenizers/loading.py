"""What every tokenizer offers, and how one is loaded from its file.

A tokenizer is its file: it is loaded offline, identified by the sha256 of its bytes, and a copy of it travels in every
artefact made with it. So the ids mean the same wherever a folder is carried. Which backend reads a file is told by its
first bytes: a SentencePiece model, a Hugging Face `tokenizer.json`, a tiktoken rank file. `bytes` needs no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ptool.errors import InputError
from ptool.tokenizers.byte_values import CONTENT, SPELLING, ByteTokenizer
from ptool.tokenizers.tiktoken_ranks import PATTERNS, TiktokenTokenizer, is_rank_file


class Tokenizer(Protocol):
    """Text to ids and back."""

    name: str
    """The backend: "sentencepiece", "hf", "tiktoken", "bytes"."""
    file: Path
    data: bytes
    """What is in the file."""
    artefact_name: str
    """What a copy of the file is called in an artefact."""
    fingerprint: str
    """sha256 of the file, as `sha256:<hex>`."""
    vocab_size: int
    """One more than the largest id."""
    eos_id: int | None
    """The end-of-document token, None where the tokenizer has none."""
    pad_id: int | None
    unk_id: int | None
    """What stands for text that the vocabulary cannot spell, None where there is no such token."""
    byte_ids: npt.NDArray[np.int32]
    """Tokens for the single bytes of characters outside the vocabulary; empty where there is no such fallback."""
    lossless: bool
    """Whether decode(encode(text)) is the same text, for every text."""

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """Ids of each text, with no token added before or after."""

    def encode_utf8(self, texts: Sequence[bytes]) -> list[npt.NDArray[np.int32]]:
        """The same for texts that are UTF-8 bytes."""

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids; end-of-document and other control tokens are no text."""


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file, or "bytes"; a rank file may be given as `FILE:PATTERN`.

    Raises InputError where the file is missing or is no tokenizer that ptool reads, UsageError for a rank file whose
    pattern nobody names.
    """
    file, pattern = _split_pattern(path)
    if str(file) == SPELLING and not file.exists():
        return ByteTokenizer(file)
    try:
        data = file.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "ptool train-tokenizer makes one" if not file.exists() else None
        raise InputError(f"cannot read the tokenizer: {reason}", where=str(file), hint=hint) from error
    if data == CONTENT:
        return ByteTokenizer(file)
    if data.lstrip()[:1] == b"{":
        from ptool.tokenizers.hf import HuggingFaceTokenizer

        return HuggingFaceTokenizer(file, data)
    if pattern is not None or is_rank_file(data):
        return TiktokenTokenizer(file, data, pattern)
    from ptool.tokenizers.sentencepiece_model import SentencePieceTokenizer

    return SentencePieceTokenizer(file, data)


def _split_pattern(path: Path) -> tuple[Path, str | None]:
    name, _, pattern = str(path).rpartition(":")
    return (Path(name), pattern) if name and pattern in PATTERNS else (path, None)
