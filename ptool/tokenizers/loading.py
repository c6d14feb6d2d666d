"""What every tokenizer offers, and how one is loaded from its file.

A tokenizer is its file: it is loaded offline, identified by the sha256 of its bytes, and a copy of it travels in every
artefact made with it. So the ids mean the same wherever a folder is carried.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ptool.errors import InputError


class Tokenizer(Protocol):
    """Text to ids and back."""

    name: str
    """The backend: "sentencepiece"."""
    file: Path
    artefact_name: str
    """What a copy of the file is called in an artefact."""
    fingerprint: str
    """sha256 of the file, as `sha256:<hex>`."""
    vocab_size: int
    eos_id: int | None
    """The end-of-document token, None where the tokenizer has none."""
    pad_id: int | None
    lossless: bool
    """Whether decode(encode(text)) is the same text, for every text."""

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """Ids of each text, with no token added before or after."""

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids; end-of-document and other control tokens are no text."""


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file. Raises InputError where the file is missing or is no tokenizer that ptool reads."""
    from ptool.tokenizers.sentencepiece_model import SentencePieceTokenizer

    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "ptool train-tokenizer makes one" if not path.exists() else None
        raise InputError(f"cannot read the tokenizer: {reason}", where=str(path), hint=hint) from error
    return SentencePieceTokenizer(path, data)
