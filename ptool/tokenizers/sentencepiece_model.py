"""SentencePiece models (BPE and Unigram), with the library's ids, and two things it does not do by itself.

Linear time. The library runs BPE over a whole text at once, which costs n log n and falls out of the caches: 2.8 MB/s
on 5 MB of English against 5 MB/s in pieces. BPE merges only into pieces of the vocabulary, so no merge crosses two
neighbouring characters that stand side by side in no piece; cutting there gives the same ids, and that is the only
place where a text is cut. Unigram is linear, and its path scores are rounded (float32) along the whole text, so a cut
can change its ids: those texts are always encoded whole.

Lossless for every text. A model trained without normalisation still takes U+2581 (the mark it puts in place of a space)
for a space. Such a model can spell any character in bytes, so this one is spelled, and decoding gives it back. For all
other texts the ids are the library's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptool.errors import InputError, UsageError

SPACE_MARK = "\u2581"
_SPACE_MARK_BYTES = SPACE_MARK.encode()
_BPE = 2  # TrainerSpec.ModelType in sentencepiece_model.proto
_CONTROL = 3  # SentencePiece.Type in the same file
_PIECE_CHARACTERS = 512
"""A text is cut once it is this long; from 200 to 4,000 the speed differs by less than the noise."""

Ids = npt.NDArray[np.int32]


class SentencePieceTokenizer:
    """A tokenizer as `ptool.tokenizers.loading.Tokenizer` describes it."""

    name = "sentencepiece"
    artefact_name = "tokenizer.model"

    def __init__(self, file: Path, data: bytes) -> None:
        """Raises InputError where `data` is no SentencePiece model."""
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2

        sentencepiece.SetMinLogLevel(2)  # the C++ library logs to stderr by itself
        self.file = file
        self.data = data
        self.fingerprint = f"sha256:{hashlib.sha256(data).hexdigest()}"
        spec = sentencepiece_model_pb2.ModelProto()
        try:
            spec.ParseFromString(data)
            processor = sentencepiece.SentencePieceProcessor(model_proto=data) if spec.pieces else None
        except Exception as error:
            raise _not_a_model(file) from error
        if processor is None:
            raise _not_a_model(file)
        self._processor: Any = processor
        self.vocab_size: int = processor.vocab_size()
        self.eos_id: int | None = _valid(processor.eos_id())
        self.pad_id: int | None = _valid(processor.pad_id())
        self.unk_id: int | None = _valid(processor.unk_id())
        self.byte_ids = np.array(
            [token for token in range(self.vocab_size) if processor.is_byte(token)], dtype=np.int32
        )
        self.lossless = _is_lossless(spec)
        self._mark_ids = np.array(
            [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()] if self.lossless else [],
            dtype=np.int32,
        )
        self.is_bpe = spec.trainer_spec.model_type == _BPE
        self._neighbours = _neighbours(spec) if self.lossless and self.is_bpe else None
        self.control_pieces = [piece.piece for piece in spec.pieces if piece.type == _CONTROL]
        """Names of tokens that no text has, though a text may spell them."""

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text. Raises UsageError for a text that is not Unicode (a lone surrogate)."""
        try:
            return self.encode_utf8([text.encode() for text in texts])
        except UnicodeEncodeError as error:
            message = f"a text that is not Unicode cannot be encoded: {error.reason} at character {error.start + 1}"
            raise UsageError(message) from error

    def encode_utf8(self, texts: Sequence[bytes]) -> list[Ids]:
        """Ids of each text, which is UTF-8; the library takes bytes as they are."""
        pieces: list[bytes] = []
        plans: list[list[int]] = []
        for text in texts:
            plans.append([])
            for part in text.split(_SPACE_MARK_BYTES) if self.lossless else [text]:
                before = len(pieces)
                if self._neighbours is None or len(part) <= _PIECE_CHARACTERS:
                    pieces.append(part)
                else:
                    pieces.extend(piece.encode() for piece in self._cut(part.decode()))
                plans[-1].append(len(pieces) - before)
        found = iter(self._processor.encode(pieces, return_type="numpy", num_threads=1))
        return [self._join(found, plan) for plan in plans]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids. Raises UsageError for an id outside the vocabulary."""
        try:
            return str(self._processor.decode(np.asarray(ids, dtype=np.int64).tolist()))
        except IndexError as error:
            raise UsageError(f"ids outside 0..{self.vocab_size - 1} have no text", where=str(self.file)) from error

    def _join(self, found: Iterator[Ids], plan: list[int]) -> Ids:
        """The ids of one text from those of its pieces; `plan` counts the pieces between its space marks."""
        if plan == [1]:
            return next(found)
        ids: list[Ids] = []
        for part, count in enumerate(plan):
            if part:
                ids.append(self._mark_ids)
            ids.extend(next(found) for _ in range(count))
        return np.concatenate(ids)

    def _cut(self, text: str) -> Iterator[str]:
        start = 0
        if self._neighbours is not None and len(text) > _PIECE_CHARACTERS:
            at = _PIECE_CHARACTERS
            while at < len(text):
                if text[at - 1 : at + 1] in self._neighbours:
                    at += 1
                    continue
                yield text[start:at]
                start, at = at, at + _PIECE_CHARACTERS
        yield text[start:]


def _neighbours(spec: Any) -> frozenset[str]:
    """All pairs of characters that stand side by side in some piece, with a space for the space mark."""
    pairs: set[str] = set()
    for piece in spec.pieces:
        text = piece.piece.replace(SPACE_MARK, " ")
        pairs.update(text[at : at + 2] for at in range(len(text) - 1))
    return frozenset(pairs)


def _is_lossless(spec: Any) -> bool:
    """Nothing is normalised or stripped, and every byte has a piece."""
    normalizer = spec.normalizer_spec
    kept = not (
        normalizer.precompiled_charsmap
        or normalizer.add_dummy_prefix
        or normalizer.remove_extra_whitespaces
        or spec.denormalizer_spec.precompiled_charsmap
    )
    return kept and normalizer.escape_whitespaces and spec.trainer_spec.byte_fallback


def _valid(token: int) -> int | None:
    return token if token >= 0 else None


def _not_a_model(file: Path) -> InputError:
    hint = "ptool reads SentencePiece .model, tokenizer.json and .tiktoken files; ptool train-tokenizer makes them"
    return InputError("not a tokenizer that ptool reads", where=str(file), hint=hint)
