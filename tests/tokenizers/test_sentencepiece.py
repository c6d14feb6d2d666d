"""The library's ids, in linear time, and every text back as it was."""

from __future__ import annotations

import hashlib
import io
import os
import pydoc_data.topics
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import InputError, UsageError
from ptool.tokenizers.loading import Tokenizer, load_tokenizer

NASTY = [
    "",
    "\0",
    "a\0b",
    "one\r\ntwo\r\n",
    "\n\n\n",
    "\t\tindented\n    more",
    " leading",
    "trailing ",
    "  double  spaces   everywhere    ",
    "\u2581",
    "a\u2581b",
    " \u2581 \u2581\u2581 ",
    "\u2585 reserved by the trainer",
    "\u0301\u0301 lone combining marks e\u0301",
    "👩\u200d👩\u200d👧 and 🏳️\u200d🌈",
    "\ufeffbyte order mark",
    "\u00a0no-break\u2003em\u3000ideographic",
    "<s> </s> <unk> <0x41> <pad>",
    "天地玄黃宇宙洪荒" * 3,
    "\U0010ffff\ue000\uffff",
    "ｆｕｌｌｗｉｄｔｈ ﬁ ① ½",
    "x" * 5000,
    " " * 5000,
    "\n" * 5000,
]
FRAGMENTS = ["the ", "class", "\n\n", " ", "def ", "天地", "\u2581", "e\u0301", "é"]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join),
)


def reference(tokenizer: Tokenizer) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.file))


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_nasty_texts_come_back_as_they_were(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_batch([text])[0]
    assert tokenizer.decode(ids) == text
    assert ids.dtype == np.int32


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXTS, max_size=5), repeats=st.integers(1, 300))
def test_every_text_comes_back_and_has_the_library_s_ids(tokenizer: Tokenizer, texts, repeats) -> None:
    texts = [*texts, "".join(texts) * repeats]  # the last is long enough to be cut
    library = reference(tokenizer)
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.decode(ids) == text
        if "\u2581" not in text:
            assert ids.tolist() == library.encode(text)


def test_real_prose_has_the_library_s_ids_though_it_is_cut(tokenizer: Tokenizer) -> None:
    text = "".join(pydoc_data.topics.topics.values()) + "天地玄黃，宇宙洪荒。" * 500
    pieces = list(tokenizer._cut(text))
    assert "".join(pieces) == text
    assert len(pieces) == 1 or len(text) // len(pieces) < 600, "BPE is cut about every 512 characters, Unigram never"
    assert tokenizer.encode_batch([text])[0].tolist() == reference(tokenizer).encode(text)


def test_the_space_mark_is_spelled_in_bytes_and_changes_nothing_beside_it(tokenizer: Tokenizer) -> None:
    before, after = tokenizer.encode_batch(["some text", " and more"])
    mark = [reference(tokenizer).piece_to_id(name) for name in ("<0xE2>", "<0x96>", "<0x81>")]
    together = tokenizer.encode_batch(["some text\u2581 and more"])[0]
    assert together.tolist() == [*before.tolist(), *mark, *after.tolist()]


def test_a_tokenizer_tells_what_it_is(tokenizer: Tokenizer) -> None:
    assert tokenizer.name == "sentencepiece"
    assert tokenizer.vocab_size == 2500
    assert (tokenizer.eos_id, tokenizer.pad_id) == (2, None)
    assert tokenizer.fingerprint == f"sha256:{hashlib.sha256(tokenizer.file.read_bytes()).hexdigest()}"
    assert tokenizer.lossless


def test_control_tokens_are_no_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_batch(["a b"])[0].tolist()
    assert tokenizer.decode([1, *ids, 2]) == "a b"


def test_ids_and_texts_that_cannot_be_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match=r"outside 0\.\.2499"):
        tokenizer.decode([2500])
    with pytest.raises(UsageError, match="not Unicode"):
        tokenizer.encode_batch(["\ud800"])


def test_a_model_that_normalises_is_called_lossy_and_keeps_the_library_s_ids(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(list(pydoc_data.topics.topics.values())[:20]),
        model_writer=model,
        vocab_size=500,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    path = tmp_path / "default.model"
    path.write_bytes(model.getvalue())
    tokenizer = load_tokenizer(path)
    assert not tokenizer.lossless
    texts = ["  two  spaces ", "a\u2581b", "the class statement " * 200]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == reference(tokenizer).encode(texts)


@pytest.mark.parametrize("data", [b"", b"not a model", b"\0" * 100])
def test_a_file_that_is_no_model_is_refused_without_noise(tmp_path: Path, capfd, data: bytes) -> None:
    path = tmp_path / "我的 tok.model"
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a tokenizer that ptool reads"):
        load_tokenizer(path)
    assert capfd.readouterr() == ("", "")


def test_a_cut_model_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "cut.model"
    path.write_bytes(tokenizer.file.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a tokenizer"):
        load_tokenizer(path)


def test_a_missing_file_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ptool train-tokenizer makes one"):
        load_tokenizer(tmp_path / "none.model")


def test_all_of_the_real_data_comes_back_as_it_was(tokenizer: Tokenizer) -> None:
    from ptool.formats.streams import StreamReader
    from ptool.text.batch import decode

    shared = Path(os.environ.get("PTOOL_SHARED", Path(__file__).parents[2] / ".." / "shared"))
    corpus = sorted((shared / "data" / "corpus").glob("*.jsonl.zst"))
    if not corpus:
        pytest.skip(f"no real data in {shared}: set PTOOL_SHARED")
    parity = 0 if tokenizer._neighbours else 1  # each document with one of the two models: tests/soak does both
    for lines in StreamReader(corpus):
        batch, bad = decode(lines)
        assert not bad
        texts = [batch.text_of(index).decode() for index in range(len(batch)) if batch.offsets[index + 1] % 2 == parity]
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            assert tokenizer.decode(ids) == text
