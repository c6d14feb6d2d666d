"""Bytes as tokens: 256 of them and an end-of-document token, with nothing to train and nothing to lose.

The reference point of every fertility table, and a tokenizer for tests that need none. Its file only says what it is,
so that an artefact carries one like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptool.errors import UsageError

SPELLING = "bytes"
"""What is given in place of a file."""
CONTENT = b'{"ptool_tokenizer": "bytes", "eos_id": 256}\n'

Ids = npt.NDArray[np.int32]


class ByteTokenizer:
    """A tokenizer as `ptool.tokenizers.loading.Tokenizer` describes it: ids 0 to 255 are the bytes, 256 ends."""

    name = "bytes"
    artefact_name = "tokenizer.bytes.json"

    def __init__(self, file: Path) -> None:
        self.file = file
        self.data = CONTENT
        self.fingerprint = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
        self.vocab_size = 257
        self.eos_id: int | None = 256
        self.pad_id: int | None = None
        self.unk_id: int | None = None
        self.byte_ids = np.arange(256, dtype=np.int32)
        self.lossless = True

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The UTF-8 bytes of each text. Raises UsageError for a text that is not Unicode (a lone surrogate)."""
        try:
            return self.encode_utf8([text.encode() for text in texts])
        except UnicodeEncodeError as error:
            message = f"a text that is not Unicode cannot be encoded: {error.reason} at character {error.start + 1}"
            raise UsageError(message) from error

    def encode_utf8(self, texts: Sequence[bytes]) -> list[Ids]:
        """The bytes of each text."""
        return [np.frombuffer(text, dtype=np.uint8).astype(np.int32) for text in texts]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. Raises UsageError for an id over 256."""
        values = np.asarray(ids, dtype=np.int64)
        if len(values) and (int(values.min()) < 0 or int(values.max()) > 256):
            raise UsageError("ids outside 0..256 have no text", where=str(self.file))
        return values[values < 256].astype(np.uint8).tobytes().decode("utf-8", "replace")
