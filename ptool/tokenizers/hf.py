"""Hugging Face `tokenizer.json` files, through the `tokenizers` library itself.

Never through AutoTokenizer: what that makes of a file depends on its own version and on other files beside it
(transformers#45812 gave wrong ids after an upgrade). The file alone decides here, with two settings: no token is put
before or after a text, and the name of a special token inside a text is text, not the token, since a document may well
quote `<|endoftext|>`.

The library's time for one text grows faster than its length (16 MB: 54 s, where four times 4 MB are 26 s), and its
memory is a hundred times the text. So a long text is cut where the file's own pre-tokenizer always cuts: between a
letter and a space or newline that a letter follows, or a full stop or comma of Chinese. Which of those hold is asked of
the pre-tokenizer when the file is loaded; where none does, or the text is normalised first, texts are encoded whole.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.errors import InputError, UsageError

END_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<|EOT|>", "[EOS]", "<|im_end|>")
"""A file does not say which token ends a document: the first of these names that it has (GPT-2, Llama 3, Llama 2,
Gemma, and so on)."""
PAD_NAMES = ("<pad>", "<|pad|>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>")

Ids = npt.NDArray[np.int32]

_PIECE_CHARACTERS = 1 << 16
_LETTER = r"[^\W\d_]"
_CUTS = {
    rf"(?<={_LETTER})(?= {_LETTER})": ("ab cd", "天 地", "é x"),
    rf"(?<={_LETTER})(?=\n{_LETTER})": ("ab\ncd", "天\n地", "é\nx"),
    rf"(?<={_LETTER})(?=[。，])": ("ab。", "天。地", "天，x"),
}
"""Places to cut, each with texts in which the pre-tokenizer must agree."""


class HuggingFaceTokenizer:
    """A tokenizer as `ptool.tokenizers.loading.Tokenizer` describes it."""

    name = "hf"
    artefact_name = "tokenizer.json"

    def __init__(self, file: Path, data: bytes) -> None:
        """Raises InputError where `data` is no tokenizer.json."""
        # Our own worker processes share the work out; the library's threads do not survive a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import tokenizers

        self.file = file
        self.data = data
        self.fingerprint = f"sha256:{hashlib.sha256(data).hexdigest()}"
        try:
            loaded: Any = tokenizers.Tokenizer.from_buffer(data)
            spec = msgspec.json.decode(data)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise InputError(
                f"not a tokenizer.json that the tokenizers library reads: {reason}", where=str(file)
            ) from error
        loaded.encode_special_tokens = True
        loaded.no_padding()
        loaded.no_truncation()
        self._tokenizer = loaded
        vocabulary: dict[str, int] = loaded.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values(), default=-1) + 1
        special = {token["content"] for token in spec.get("added_tokens") or [] if token.get("special")}
        self.eos_id = next((vocabulary[name] for name in END_NAMES if name in special), None)
        self.pad_id = next((vocabulary[name] for name in PAD_NAMES if name in special), None)
        unknown = spec["model"].get("unk_token")
        self.unk_id: int | None = vocabulary.get(unknown) if isinstance(unknown, str) else None
        fallback = [vocabulary.get(f"<0x{byte:02X}>") for byte in range(256)]
        self.byte_ids = np.array([token for token in fallback if token is not None], dtype=np.int32)
        self.lossless = _is_lossless(spec, vocabulary)
        in_text = [token for token in spec.get("added_tokens") or [] if not token.get("special")]
        self._cuts = None if in_text else _agreed_cuts(loaded)  # such a token may reach over a cut

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text. Raises UsageError for a text that is not Unicode (a lone surrogate)."""
        pieces = [list(self._cut(text)) for text in texts]
        try:
            found = self._tokenizer.encode_batch_fast(
                [piece for cut in pieces for piece in cut], add_special_tokens=False
            )
        except (TypeError, UnicodeEncodeError) as error:
            raise UsageError("a text that is not Unicode cannot be encoded") from error
        encoded = iter(found)
        return [
            np.concatenate([np.array(next(encoded).ids, dtype=np.int32) for _ in cut], dtype=np.int32) for cut in pieces
        ]

    def encode_utf8(self, texts: Sequence[bytes]) -> list[Ids]:
        """The same for texts that are UTF-8 bytes."""
        return self.encode_batch([text.decode() for text in texts])

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids. Raises UsageError for an id outside the vocabulary."""
        values = np.asarray(ids, dtype=np.int64)
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < self.vocab_size:
            raise UsageError(f"ids outside 0..{self.vocab_size - 1} have no text", where=str(self.file))
        return str(self._tokenizer.decode(values.tolist(), skip_special_tokens=True))

    def _cut(self, text: str) -> Iterator[str]:
        """The text in pieces, cut at the first agreed place after every so many characters."""
        start = 0
        while self._cuts is not None and len(text) - start > _PIECE_CHARACTERS:
            found = self._cuts.search(text, start + _PIECE_CHARACTERS)
            if found is None:
                break
            yield text[start : found.start()]
            start = found.start()
        yield text[start:] if start else text


def _agreed_cuts(loaded: Any) -> re.Pattern[str] | None:
    """A pattern of the places where texts may be cut, None for none."""
    if loaded.normalizer is not None or loaded.pre_tokenizer is None or _puts_a_space_first(loaded):
        return None
    agreed = []
    for place, samples in _CUTS.items():
        pattern = re.compile(place)
        ends = [
            (pattern.search(sample), {end for _, (_, end) in loaded.pre_tokenizer.pre_tokenize_str(sample)})
            for sample in samples
        ]
        if all(found is not None and found.start() in cut for found, cut in ends):
            agreed.append(place)
    return re.compile("|".join(agreed)) if agreed else None


def _puts_a_space_first(loaded: Any) -> bool:
    """Whether what is done to the start of a text would be done to the start of every piece."""
    pieces = [text for text, _ in loaded.pre_tokenizer.pre_tokenize_str("ab")]
    return pieces != ["ab"]


def _is_lossless(spec: dict[str, Any], vocabulary: dict[str, int]) -> bool:
    """A byte-level BPE over all bytes that changes nothing before: it can spell every text."""
    stages = _stages(spec.get("pre_tokenizer"))
    byte_level = [stage for stage in stages if stage.get("type") == "ByteLevel"]
    kept = all(
        stage.get("type") in ("ByteLevel", "Digits")
        or (stage.get("type") == "Split" and stage.get("behavior") != "Removed")
        for stage in stages
    )
    return (
        spec["model"].get("type") == "BPE"
        and not spec["model"].get("dropout")
        and not _stages(spec.get("normalizer"))
        and bool(byte_level)
        and kept
        and not any(stage.get("add_prefix_space", True) for stage in byte_level)
        and any(stage.get("type") == "ByteLevel" for stage in _stages(spec.get("decoder")))
        and all(letter in vocabulary for letter in byte_alphabet())
    )


def _stages(stage: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A normalizer, pre-tokenizer or decoder as the list of its steps."""
    if not stage:
        return []
    inner = next((stage[key] for key in ("pretokenizers", "normalizers", "decoders") if key in stage), None)
    return [step for part in inner for step in _stages(part)] if inner is not None else [stage]


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in a byte-level vocabulary (GPT-2's `bytes_to_unicode`), by byte."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]
