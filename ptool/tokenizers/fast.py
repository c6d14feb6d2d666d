"""gigatoken as an engine: byte-level BPE and SentencePiece BPE at 30 to 300 MB/s a core instead of 1 to 8.

English runs at 300 MB/s, since most words are in its cache; Chinese at 25, since few clauses come twice. Texts go in as
bytes, one call each, and come back as arrays: that is as fast as handing over whole batches as awkward arrays, which
costs a quarter of a second of imports first. It always works on the calling thread: our worker processes share the
work out, and its thread pool does not survive a fork.

What it would do otherwise than the library goes to the library instead: texts with the name of a control token (which
it takes for the token) or with SentencePiece's space mark. Special tokens of a tokenizer.json are taken out of the file
before it sees it, since they are text here (hf.py).
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.tokenizers.engines import Bytes, Encoded, Engine, Offsets
from ptool.tokenizers.hf import HuggingFaceTokenizer
from ptool.tokenizers.loading import Tokenizer
from ptool.tokenizers.sentencepiece_model import SPACE_MARK, SentencePieceTokenizer
from ptool.tokenizers.tiktoken_ranks import TiktokenTokenizer

_GIGATOKEN_PATTERNS = {"r50k": "gpt2", "cl100k": "gpt4", "o200k": "o200k", "qwen2": "qwen2"}


class NotSupported(Exception):
    """Why gigatoken does not serve a tokenizer."""


class FastEngine:
    """Encodes columns by gigatoken, and the few texts it must not see by the `reference`."""

    name = "fast"

    def __init__(self, backend: Any, reference: Engine, withheld: list[bytes]) -> None:
        """Texts that contain one of `withheld` go to the reference."""
        self._backend = backend
        self._reference = reference
        self._withheld = withheld

    def encode(self, text: Bytes, offsets: Offsets) -> Encoded:
        """Ids of the texts."""
        apart = self._find_withheld(text, offsets)
        if not len(apart):
            return self._encode(text, offsets)
        # The texts between two that are withheld are still one call.
        parts: list[npt.NDArray[Any]] = []
        lengths: list[npt.NDArray[np.int64]] = []
        first = 0
        for index in [*apart.tolist(), len(offsets) - 1]:
            for engine, start, stop in ((self._encode, first, index), (self._reference.encode, index, index + 1)):
                stop = min(stop, len(offsets) - 1)
                if start < stop:
                    bounds = offsets[start : stop + 1]
                    found = engine(text[bounds[0] : bounds[-1]], bounds - bounds[0])
                    parts.append(found.ids)
                    lengths.append(np.diff(found.offsets))
            first = index + 1
        ends = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *lengths]))
        return Encoded(np.concatenate(parts).astype(np.int32), ends)

    def _encode(self, text: Bytes, offsets: Offsets) -> Encoded:
        data = text.tobytes()
        found = [self._backend.encode(data[start:end]) for start, end in pairwise(offsets.tolist())]
        ends = np.zeros(len(found) + 1, dtype=np.int64)
        np.cumsum(np.array([len(ids) for ids in found], dtype=np.int64), out=ends[1:])
        return Encoded(np.concatenate([np.empty(0, dtype=np.uint32), *found]).view(np.int32), ends)

    def _find_withheld(self, text: Bytes, offsets: Offsets) -> npt.NDArray[np.int64]:
        """Numbers of the texts that contain a withheld string; a few searches at memory speed."""
        data = text.tobytes() if self._withheld else b""
        places: list[int] = []
        for string in self._withheld:
            at = data.find(string)
            while at >= 0:
                places.append(at)
                at = data.find(string, at + 1)
        return np.unique(np.searchsorted(offsets, np.array(places, dtype=np.int64), side="right") - 1)


def open_fast(tokenizer: Tokenizer, reference: Engine) -> FastEngine:
    """The engine for a tokenizer. Raises NotSupported."""
    if isinstance(tokenizer, SentencePieceTokenizer) and not tokenizer.is_bpe:
        raise NotSupported("it takes BPE alone, and this is a Unigram model")
    try:
        import gigatoken
    except ImportError as error:
        raise NotSupported("gigatoken is not installed") from error
    try:
        if isinstance(tokenizer, HuggingFaceTokenizer):
            return FastEngine(gigatoken.Tokenizer.from_json(_without_special(tokenizer.data)).backend, reference, [])
        if isinstance(tokenizer, TiktokenTokenizer):
            return FastEngine(_from_ranks(gigatoken, tokenizer).backend, reference, [])
        if isinstance(tokenizer, SentencePieceTokenizer):
            withheld = [piece.encode() for piece in [SPACE_MARK, *tokenizer.control_pieces]]
            return FastEngine(gigatoken.Tokenizer.from_sentencepiece(tokenizer.data).backend, reference, withheld)
    except Exception as error:
        raise NotSupported(str(error).splitlines()[0] if str(error) else repr(error)) from error
    raise NotSupported(f"there is none for {tokenizer.name}")


def _without_special(data: bytes) -> bytes:
    spec = msgspec.json.decode(data)
    spec["added_tokens"] = [token for token in spec.get("added_tokens") or [] if not token.get("special")]
    spec["post_processor"] = None
    return msgspec.json.encode(spec)


def _from_ranks(gigatoken: Any, tokenizer: TiktokenTokenizer) -> Any:
    """The rank file by its path, which is how gigatoken takes it; the bytes that were hashed are the ones it gets."""
    with tempfile.TemporaryDirectory(prefix="ptool-") as folder:
        path = Path(folder) / "ranks.tiktoken"
        path.write_bytes(tokenizer.data)
        return gigatoken.Tokenizer.from_tiktoken(path, pretokenizer=_GIGATOKEN_PATTERNS[tokenizer.pattern])
