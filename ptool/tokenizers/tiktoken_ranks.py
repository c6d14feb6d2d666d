"""tiktoken rank files: lines of `base64 rank`, and a pattern that the file does not have.

How a text is cut before its bytes are merged stands in code, not in the file, so it is named: by the file's own name
(`cl100k_base.tiktoken`), by the ending `NAME.PATTERN.tiktoken`, or as `FILE:PATTERN`. A copy in an artefact is named by
the second rule, so that it says itself how it is read. Nothing is guessed: the wrong pattern gives wrong ids silently.

Texts are encoded as ordinary text: the name of a special token in a document is not the token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ptool.errors import InputError, UsageError

Ids = npt.NDArray[np.int32]
END = "<|endoftext|>"


class Pattern(NamedTuple):
    """How a text is cut, and the special tokens that go with it; without any, the end comes after the last rank."""

    regex: str
    special: dict[str, int]


_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
_UPPER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

PATTERNS = {
    # tiktoken_ext/openai_public.py of tiktoken 0.14, each with the special tokens of its published rank file.
    "r50k": Pattern(
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
        {END: 50256},
    ),
    "cl100k": Pattern(
        _CL100K,
        {
            END: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k": Pattern(
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_CONTRACTION}"
        rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_CONTRACTION}"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        {END: 199999, "<|endofprompt|>": 200018},
    ),
    # The tokenizer.json of Qwen 2 and later: cl100k with single digits.
    "qwen2": Pattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
        {},
    ),
}
_PUBLISHED = {"r50k_base": "r50k", "gpt2": "r50k", "p50k_base": "r50k", "cl100k_base": "cl100k", "o200k_base": "o200k"}


class TiktokenTokenizer:
    """A tokenizer as `ptool.tokenizers.loading.Tokenizer` describes it."""

    name = "tiktoken"

    def __init__(self, file: Path, data: bytes, pattern: str | None = None) -> None:
        """Raises InputError where `data` is no rank file, UsageError where no pattern is named."""
        import tiktoken

        self.file = file
        self.data = data
        self.fingerprint = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.pattern = pattern or pattern_of(file)
        self.artefact_name = f"tokenizer.{self.pattern}.tiktoken"
        self.ranks = _read_ranks(file, data)
        regex, special = PATTERNS[self.pattern]
        first_free = max(self.ranks.values()) + 1
        taken = set(self.ranks.values())
        # The published ids belong to the published ranks; another file with the same pattern has its own end.
        published = bool(special) and special[END] <= first_free + 1 and not taken & set(special.values())
        self.special = special if published else {END: first_free}
        self._encoding: Any = tiktoken.Encoding(
            self.pattern, pat_str=regex, mergeable_ranks=self.ranks, special_tokens=self.special
        )
        self.vocab_size: int = self._encoding.n_vocab
        self.eos_id: int | None = self.special[END]
        self.pad_id: int | None = None
        self.unk_id: int | None = None
        self.byte_ids = np.array([], dtype=np.int32)
        self.lossless = all(bytes([byte]) in self.ranks for byte in range(256))

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text. Raises UsageError for a text that is not Unicode (a lone surrogate)."""
        try:
            for text in texts:
                text.encode()  # the library would put U+FFFD in place of a lone surrogate
        except UnicodeEncodeError as error:
            message = f"a text that is not Unicode cannot be encoded: {error.reason} at character {error.start + 1}"
            raise UsageError(message) from error
        return self._encode(texts)

    def encode_utf8(self, texts: Sequence[bytes]) -> list[Ids]:
        """The same for texts that are UTF-8 bytes."""
        return self._encode([text.decode() for text in texts])

    def _encode(self, texts: Sequence[str]) -> list[Ids]:
        return [self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.int32) for text in texts]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids, special tokens left out. Raises UsageError for an id outside the vocabulary."""
        control = set(self.special.values())
        try:
            return str(self._encoding.decode([token for token in np.asarray(ids).tolist() if token not in control]))
        except (KeyError, OverflowError) as error:
            raise UsageError(f"ids outside 0..{self.vocab_size - 1} have no text", where=str(self.file)) from error


def pattern_of(file: Path) -> str:
    """The pattern that a file's name tells. Raises UsageError where it tells none."""
    stem = file.name.removesuffix(".tiktoken")
    named = _PUBLISHED.get(stem) or stem.rpartition(".")[2]
    if named not in PATTERNS:
        known = ", ".join(PATTERNS)
        message = "a rank file does not say how texts are cut before merging"
        raise UsageError(message, where=str(file), hint=f"name the pattern, {file}:cl100k; there are {known}")
    return named


def is_rank_file(data: bytes) -> bool:
    """Whether the first line is `base64 rank`."""
    token, _, rank = data[:4096].partition(b"\n")[0].partition(b" ")
    try:
        return rank.strip().isdigit() and bool(base64.b64decode(token, validate=True))
    except binascii.Error:
        return False


def _read_ranks(file: Path, data: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            message = "not a line of a rank file: base64 of a token, and its rank"
            raise InputError(message, where=f"{file}:{number}") from error
    if not ranks or len(set(ranks.values())) != len(ranks):
        raise InputError("not a rank file: no tokens, or one rank for two", where=str(file))
    return ranks
