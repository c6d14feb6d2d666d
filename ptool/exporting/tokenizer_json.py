"""A SentencePiece model as `tokenizer.json`, the file that Hugging Face's fast tokenizers load.

BPE: a piece's score is its rank, and each way of making a piece of two others is a merge of that rank. Unigram: pieces
and scores as they are. Spaces become U+2581 before and are put back after; what has no piece falls into bytes.

Written only where it means the same: models that normalise text, or have pieces defined by the user, are left alone,
and the file is tried on sentences of random pieces before it is handed out: the ids must be those of the model. Two
things remain different for any such file: a text that spells a control token (`</s>`) becomes that token, and U+2581 in
a text becomes a space.
"""

from __future__ import annotations

import json
import random
from typing import Any

from ptool.tokenizers.loading import Tokenizer
from ptool.tokenizers.sentencepiece_model import SPACE_MARK

_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType in sentencepiece_model.proto
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5  # SentencePiece.Type in the same file
TRIED = 500  # sentences

_NASTY = (
    "",
    " ",
    "   ",
    "\n\n",
    " \t x ",
    "a\u0301",
    "日本語と中文",
    "👩‍👩‍👧 \u200d",
    "\x00\x7f",
    "0123456789" * 9,
    "ß" * 40,
)


def tokenizer_json(data: bytes, tokenizer: Tokenizer) -> bytes | None:
    """The file's bytes for the SentencePiece model in `data`; None where it would not give the ids of `tokenizer`."""
    from sentencepiece import sentencepiece_model_pb2

    spec = sentencepiece_model_pb2.ModelProto()
    spec.ParseFromString(data)
    pieces = list(spec.pieces)
    normalizer = spec.normalizer_spec
    if (
        normalizer.precompiled_charsmap
        or normalizer.remove_extra_whitespaces
        or not normalizer.escape_whitespaces
        or spec.trainer_spec.treat_whitespace_as_suffix
        or any(piece.type in (_USER_DEFINED, _UNUSED) for piece in pieces)
        or spec.trainer_spec.model_type not in (_UNIGRAM, _BPE)
    ):
        return None
    found = json.dumps(_table(spec, pieces), ensure_ascii=False).encode()
    return found if _agrees(found, tokenizer, pieces) else None


def _table(spec: Any, pieces: list[Any]) -> dict[str, Any]:
    has_prefix = spec.normalizer_spec.add_dummy_prefix
    mark: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    unmark: dict[str, Any] = {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}
    decoders = [unmark, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if has_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    prefix = [{"type": "Prepend", "prepend": SPACE_MARK}] if has_prefix else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": piece.piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, piece in enumerate(pieces)
            if piece.type in (_CONTROL, _UNKNOWN)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, mark]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _unigram(spec, pieces) if spec.trainer_spec.model_type == _UNIGRAM else _bpe(spec, pieces),
    }


def _unigram(spec: Any, pieces: list[Any]) -> dict[str, Any]:
    unknown = next((number for number, piece in enumerate(pieces) if piece.type == _UNKNOWN), None)
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": [[piece.piece, piece.score] for piece in pieces],
        "byte_fallback": spec.trainer_spec.byte_fallback,
    }


def _bpe(spec: Any, pieces: list[Any]) -> dict[str, Any]:
    ids = {piece.piece: number for number, piece in enumerate(pieces)}
    normal = [piece for piece in pieces if piece.type == 1]
    merges: list[tuple[float, int, int, list[str]]] = []
    for piece in normal:
        text = piece.piece
        for cut in range(1, len(text)):
            left, right = ids.get(text[:cut]), ids.get(text[cut:])
            if left is not None and right is not None:
                merges.append((-piece.score, left, right, [text[:cut], text[cut:]]))
    merges.sort(key=lambda merge: merge[:3])
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": next((piece.piece for piece in pieces if piece.type == _UNKNOWN), None),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": spec.trainer_spec.byte_fallback,
        "ignore_merges": False,
        "vocab": ids,
        "merges": [merge[3] for merge in merges],
    }


def _agrees(found: bytes, tokenizer: Tokenizer, pieces: list[Any]) -> bool:
    from tokenizers import Tokenizer as FastTokenizer

    try:
        fast = FastTokenizer.from_str(found.decode())
    except Exception:  # noqa: BLE001  the library raises plain Exception for a file it does not accept
        return False
    chooser = random.Random(0)
    words = [piece.piece.replace(SPACE_MARK, " ") for piece in pieces if piece.type == 1]
    texts = list(_NASTY)
    if words:
        texts += ["".join(chooser.choices(words, k=chooser.randint(1, 60))) for _ in range(TRIED)]
    mine = tokenizer.encode_batch(texts)
    theirs = fast.encode_batch(texts, add_special_tokens=False)
    return all(one.tolist() == other.ids for one, other in zip(mine, theirs, strict=True))
