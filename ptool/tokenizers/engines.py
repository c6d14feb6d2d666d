"""How texts are encoded in bulk: by the tokenizer's own library, or by a faster engine that is checked against it.

Texts come as columns (one UTF-8 buffer and offsets), since a fast engine spends most of its time on Python's lists. The
reference engine is the tokenizer itself. The fast engine is gigatoken (fast.py), young software: it is used only where
its ids are the library's, on the first documents before anything is written and on one text in a thousand after that,
chosen by a hash of the text, so that the choice is the same for every order and number of jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ptool.errors import PtoolError, UsageError
from ptool.reporting import Reporter
from ptool.tokenizers.loading import Tokenizer

EngineChoice = Literal["auto", "reference", "fast"]

FIRST_BYTES = 256 << 10
"""How much text is compared before anything is written: a third of a second of the slowest library."""
CHECKED_SHARE = 0.001
"""The share of all texts that is compared."""
SHOWN_IDS = 40

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


class Encoded(NamedTuple):
    """Ids of several texts: those of text i are ids[offsets[i] : offsets[i + 1]]."""

    ids: npt.NDArray[Any]
    offsets: Offsets


class Engine(Protocol):
    """Encodes columns of text."""

    name: str

    def encode(self, text: Bytes, offsets: Offsets) -> Encoded:
        """Ids of the texts text[offsets[i] : offsets[i + 1]], which are UTF-8."""


class ReferenceEngine:
    """The tokenizer's own library."""

    name = "reference"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: Bytes, offsets: Offsets) -> Encoded:
        """Ids of the texts."""
        data = text.tobytes()
        found = self._tokenizer.encode_utf8([data[start:end] for start, end in pairwise(offsets.tolist())])
        ends = np.zeros(len(found) + 1, dtype=np.int64)
        np.cumsum(np.array([len(ids) for ids in found], dtype=np.int64), out=ends[1:])
        return Encoded(np.concatenate([np.empty(0, dtype=np.int32), *found]), ends)


class Difference(NamedTuple):
    """Texts that two engines do not agree on: the first of them, and both lists of ids from where they part."""

    text: int
    fast: list[int]
    reference: list[int]
    position: int


class CheckedEngine:
    """The fast engine, compared with the reference on one text in a thousand."""

    name = "fast"

    def __init__(self, fast: Engine, reference: Engine, *, seed: int = 0, share: float = CHECKED_SHARE) -> None:
        self.fast = fast
        self.reference = reference
        self._key = np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
        self._bar = np.uint64(min(int(share * 2.0**64), 2**64 - 1))

    def encode(self, text: Bytes, offsets: Offsets) -> Encoded:
        """Ids of the texts, unchecked."""
        return self.fast.encode(text, offsets)

    def chosen(self, text_hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Which texts are compared, by the hashes of their bytes."""
        return np.flatnonzero((text_hashes ^ self._key) * np.uint64(0x9E3779B97F4A7C15) < self._bar)

    def check(self, text: Bytes, offsets: Offsets, encoded: Encoded, indices: Sequence[int]) -> Difference | None:
        """The first of the texts `indices` whose ids in `encoded` are not the reference's."""
        for index in indices:
            start, end = int(offsets[index]), int(offsets[index + 1])
            ours = encoded.ids[encoded.offsets[index] : encoded.offsets[index + 1]]
            theirs = self.reference.encode(text[start:end], np.array([0, end - start], dtype=np.int64)).ids
            if np.array_equal(ours, theirs):
                continue
            shorter = min(len(ours), len(theirs))
            apart = np.flatnonzero(ours[:shorter].astype(np.int64) != theirs[:shorter])
            at = int(apart[0]) if len(apart) else shorter
            return Difference(index, ours[at:].tolist(), theirs[at:].tolist(), at)
        return None


class EngineMismatch(PtoolError):
    """The fast engine gave a text other ids than the tokenizer's own library."""

    @classmethod
    def of(cls, identity: str, found: Difference) -> EngineMismatch:
        """The error for document `identity`, with both lists of ids from where they part."""
        fast, reference = (f"{ids[:SHOWN_IDS]}{' …' * (len(ids) > SHOWN_IDS)}" for ids in (found.fast, found.reference))
        message = (
            f"the fast engine and the tokenizer's own library differ on document {identity!r} from token "
            f"{found.position}: fast {fast}, reference {reference}"
        )
        return cls(message, hint="--engine reference")


def open_engine(choice: EngineChoice, tokenizer: Tokenizer, *, reporter: Reporter, seed: int = 0) -> Engine:
    """The engine for a tokenizer: `auto` is the fast one where there is one.

    Raises UsageError where `fast` is asked for and does not take this tokenizer.
    """
    reference = ReferenceEngine(tokenizer)
    if choice == "reference" or tokenizer.name == "bytes":
        return reference
    from ptool.tokenizers.fast import NotSupported, open_fast

    try:
        fast = open_fast(tokenizer, reference)
    except NotSupported as error:
        if choice == "fast":
            message = f"the fast engine does not take this tokenizer: {error}"
            raise UsageError(message, where=str(tokenizer.file), hint="--engine reference") from error
        reporter.notice(f"the tokenizer's own library encodes, since the fast engine does not: {error}")
        return reference
    return CheckedEngine(fast, reference, seed=seed)
