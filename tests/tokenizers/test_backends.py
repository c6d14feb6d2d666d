"""tokenizer.json, rank files and bytes: the ids of the reference libraries, and texts that come back."""

from __future__ import annotations

import base64
import pydoc_data.topics
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from ptool.errors import InputError, UsageError
from ptool.reporting import SILENT
from ptool.tokenizers.engines import CheckedEngine, Encoded, EngineMismatch, ReferenceEngine, open_engine
from ptool.tokenizers.hf import byte_alphabet
from ptool.tokenizers.loading import Tokenizer, load_tokenizer
from ptool.tokenizers.tiktoken_ranks import PATTERNS

TEXTS = [*pydoc_data.topics.topics.values(), "天地玄黃，宇宙洪荒。日月盈昃。Привет, мир! Καλημέρα\n" * 40]
NASTY = [
    "",
    "\0",
    "<|endoftext|>",
    "a<|endoftext|>b</s><s> <unk>",
    "\u2581 ▁▁a",
    " " * 3000,
    "\n" * 3000,
    "x" * 20_000,
    "e\u0301\U0001f600\u200d\U0010ffff",
    "\u00a0\u3000 x  y\t\tz\r\n",
    "1234567890 ١٢٣ ½",
    "I'll 'LL don't ſ's",
    "the end " * 30_000,
    "天地。" * 40_000,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE as tokenizer.json, and as a rank file for every pattern."""
    made = tmp_path_factory.mktemp("backends")
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(TEXTS, trainer)
    library.save(str(made / "tokenizer.json"))
    value = {letter: bytes([byte]) for byte, letter in enumerate(byte_alphabet())}
    pieces = sorted(library.get_vocab().items(), key=lambda entry: entry[1])
    tokens = [b"".join(value[letter] for letter in piece) for piece, _ in pieces if not piece.startswith("<|")]
    ranks = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    for pattern in PATTERNS:
        (made / f"mine.{pattern}.tiktoken").write_bytes(ranks)
    (made / "unnamed").write_bytes(ranks)
    return made


@pytest.fixture(
    scope="module", params=["tokenizer.json", *(f"mine.{pattern}.tiktoken" for pattern in PATTERNS), "bytes"]
)
def loaded(request: pytest.FixtureRequest, folder: Path) -> Tokenizer:
    return load_tokenizer(Path("bytes") if request.param == "bytes" else folder / request.param)


def columns(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    raw = [text.encode() for text in texts]
    return np.frombuffer(b"".join(raw), dtype=np.uint8), np.cumsum([0, *map(len, raw)])


def test_texts_come_back(loaded: Tokenizer) -> None:
    assert loaded.lossless
    for text, ids in zip([*NASTY, *TEXTS[:20]], loaded.encode_batch([*NASTY, *TEXTS[:20]]), strict=True):
        assert loaded.decode(ids) == text
        assert ids.dtype == np.int32


@settings(max_examples=60)
@given(st.lists(st.text(), max_size=5))
def test_any_text_comes_back_the_same_through_both_engines(loaded: Tokenizer, texts: list[str]) -> None:
    text, offsets = columns(texts)
    found = open_engine("auto", loaded, reporter=SILENT).encode(text, offsets)
    assert len(found.offsets) == len(texts) + 1
    for index, (one, expected) in enumerate(zip(texts, loaded.encode_batch(texts), strict=True)):
        ids = found.ids[found.offsets[index] : found.offsets[index + 1]]
        assert np.array_equal(ids, expected)
        assert loaded.decode(ids) == one


def test_the_engines_agree_on_nasty_texts(loaded: Tokenizer) -> None:
    engine = open_engine("auto", loaded, reporter=SILENT)
    assert engine.name == ("reference" if loaded.name == "bytes" else "fast")
    text, offsets = columns([*NASTY, *TEXTS[:20]])
    expected = ReferenceEngine(loaded).encode(text, offsets)
    found = engine.encode(text, offsets)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.offsets, expected.offsets)


def test_ids_of_a_tokenizer_json_are_the_library_s_on_the_whole_text(folder: Path) -> None:
    loaded, library = load_tokenizer(folder / "tokenizer.json"), Library.from_file(str(folder / "tokenizer.json"))
    library.encode_special_tokens = True
    for text, ids in zip([*NASTY, *TEXTS], loaded.encode_batch([*NASTY, *TEXTS]), strict=True):
        assert ids.tolist() == library.encode(text, add_special_tokens=False).ids
    assert (loaded.vocab_size, loaded.eos_id, loaded.pad_id) == (2000, 0, 1)


@pytest.mark.parametrize(
    ("pattern", "published"), [("r50k", "r50k_base"), ("cl100k", "cl100k_base"), ("o200k", "o200k_base")]
)
def test_patterns_are_those_of_tiktoken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, published: str
) -> None:
    from tiktoken_ext import openai_public

    loaded = load_tokenizer(folder / f"mine.{pattern}.tiktoken")
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: loaded.ranks)  # type: ignore[attr-defined]
    theirs = tiktoken.Encoding(**{**openai_public.ENCODING_CONSTRUCTORS[published](), "explicit_n_vocab": None})
    assert PATTERNS[pattern].special == theirs._special_tokens
    for text, ids in zip(NASTY, loaded.encode_batch(NASTY), strict=True):
        assert ids.tolist() == theirs.encode_ordinary(text)


def test_a_rank_file_must_name_its_pattern(folder: Path) -> None:
    with pytest.raises(UsageError, match="how texts are cut"):
        load_tokenizer(folder / "unnamed")
    named = load_tokenizer(Path(f"{folder / 'unnamed'}:qwen2"))
    assert (named.name, named.artefact_name) == ("tiktoken", "tokenizer.qwen2.tiktoken")
    assert named.eos_id == named.vocab_size - 1
    (folder / named.artefact_name).write_bytes(named.data)
    again = load_tokenizer(folder / named.artefact_name)
    assert again.fingerprint == named.fingerprint
    assert again.encode_batch(["a 123 b"])[0].tolist() == named.encode_batch(["a 123 b"])[0].tolist()


def test_special_tokens_are_no_text_and_text_is_no_special_token(loaded: Tokenizer) -> None:
    assert loaded.eos_id is not None
    spelled = loaded.encode_batch(["<|endoftext|>"])[0]
    assert loaded.eos_id not in spelled
    assert loaded.decode([*spelled.tolist(), loaded.eos_id]) == "<|endoftext|>"


def test_what_is_no_tokenizer_is_an_input_error(tmp_path: Path) -> None:
    for content in (b"{}", b'{"model": 1}', b"{ not json", b"", b"YQ== 0\nYg== x\n", b"YQ== 0\nYg== 0\n"):
        (tmp_path / "tok.cl100k.tiktoken").write_bytes(content)
        with pytest.raises(InputError):
            load_tokenizer(tmp_path / "tok.cl100k.tiktoken")


def test_wrong_ids_and_texts_that_are_not_unicode_are_usage_errors(loaded: Tokenizer) -> None:
    with pytest.raises(UsageError):
        loaded.decode([loaded.vocab_size + 7])
    with pytest.raises(UsageError):
        loaded.encode_batch(["\ud800"])


class _Wrong:
    """An engine that is wrong about texts with a full stop of Chinese."""

    name = "fast"

    def __init__(self, right: ReferenceEngine) -> None:
        self._right = right

    def encode(self, text: np.ndarray, offsets: np.ndarray) -> Encoded:
        found = self._right.encode(text, offsets)
        ids = found.ids.copy()
        for start, end, first, last in zip(offsets, offsets[1:], found.offsets, found.offsets[1:], strict=False):
            if "。".encode() in text[start:end].tobytes():
                ids[first:last] = ids[first:last][::-1]
        return Encoded(ids, found.offsets)


def test_a_difference_is_found_and_shown_from_where_it_begins() -> None:
    reference = ReferenceEngine(load_tokenizer(Path("bytes")))
    engine = CheckedEngine(_Wrong(reference), reference, share=1.0)
    text, offsets = columns(["one", "aa。", "three"])
    hashes = np.array([1, 2, 3], dtype=np.uint64)
    found = engine.check(text, offsets, engine.encode(text, offsets), engine.chosen(hashes).tolist())
    assert found is not None
    assert (found.text, found.position) == (1, 0)
    assert found.reference == list("aa。".encode())
    error = EngineMismatch.of("书", found)
    assert "'书'" in error.message
    assert str(found.reference) in error.message
    assert error.hint == "--engine reference"


def test_one_text_in_a_thousand_is_compared_whatever_the_order() -> None:
    reference = ReferenceEngine(load_tokenizer(Path("bytes")))
    engine = CheckedEngine(reference, reference)
    hashes = np.random.default_rng(0).integers(0, 2**64, 200_000, dtype=np.uint64)
    chosen = set(hashes[engine.chosen(hashes)].tolist())
    assert 130 < len(chosen) < 280
    assert set(hashes[::-1][engine.chosen(hashes[::-1])].tolist()) == chosen
