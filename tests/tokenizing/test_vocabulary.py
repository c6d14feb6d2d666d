"""Training a vocabulary: nothing of the text is lost on the way, and the same text gives the same model."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import BadDocument, DamagedInput, InputError, TooManyRejected, UsageError
from ptool.formats.ledger import ErrorPolicy
from ptool.formats.stages import read_manifest
from ptool.reporting import SILENT
from ptool.tokenizers.engines import open_engine
from ptool.tokenizers.loading import load_tokenizer
from ptool.tokenizing.intake import Reading
from ptool.tokenizing.sample import Sample, WeightedSample
from ptool.tokenizing.shares import embedding_share, parse_weights
from ptool.tokenizing.trainers import pieces_of, train
from ptool.tokenizing.vocabulary import VocabularyConfig, train_tokenizer

SMALL = VocabularyConfig(vocab_size=400)
TOPICS = [text.encode() for text in pydoc_data.topics.topics.values()][:30]


def stream(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path


def pieces(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(number) for number in range(processor.vocab_size())]


def largest(*texts: str) -> list[str]:
    """The pieces of the largest vocabulary that the texts give."""
    raw = [text.encode() for text in texts]
    with pytest.raises(InputError, match="is the most it gives") as caught:
        train(raw, VocabularyConfig(vocab_size=100_000))
    size = int(str(caught.value.hint).split()[1].rstrip(","))
    found = pieces(train(raw, VocabularyConfig(vocab_size=size)))
    assert len(found) == size
    return found


def test_newlines_and_tabs_are_learned() -> None:
    found = largest("def first():\n\treturn 1\n\n\ndef second():\n\treturn 2\n\n\n" * 50)
    assert {"\n", "\t", "\n\t", "\n\n\n"} <= set(found)


def test_a_line_longer_than_the_trainer_s_limit_is_learned_from() -> None:
    line = "unwonderful " * 5000  # 60 kB without a newline
    assert "▁unwonderful" in largest("x y z", line)


def test_text_with_the_trainer_s_reserved_character_is_learned_from() -> None:
    assert "▁sesquipedalian" in largest("sesquipedalian sesquipedalian \u2585 " * 50)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", " ", "\n", "\u2585", "天" * 5000, "b" * 9000, "c d" * 2000])).map("".join))
def test_pieces_are_the_whole_text_but_the_reserved_character(text: str) -> None:
    found = list(pieces_of(text))
    assert "".join(found) == text.replace("\u2585", "")
    assert all(0 < len(piece) <= 4096 for piece in found)
    assert not any(piece.endswith("\n") and piece.strip("\n") for piece in found), "the trainer drops a final newline"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_same_text_gives_the_same_bytes_and_ids_as_stated(kind) -> None:
    config = VocabularyConfig(vocab_size=600, type=kind)
    model = train(TOPICS, config)
    assert model == train(TOPICS, config)
    assert pieces(model)[:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert len(pieces(model)) == 600


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.binary(max_size=30), max_size=30), limit=st.integers(1, 200), data=st.data())
def test_which_texts_are_sampled_does_not_depend_on_their_order(texts, limit, data) -> None:
    seed = data.draw(st.integers(0, 3))
    first, second = Sample(limit, seed), Sample(limit, seed)
    for text in texts:
        first.add(text)
    for text in data.draw(st.permutations(texts)):
        second.add(text)
    assert sorted(first.texts()) == sorted(second.texts())
    assert first.num_bytes == sum(map(len, first.texts()))
    assert first.num_bytes <= limit or len(first) == 1
    if sum(map(len, texts)) <= limit:
        assert list(first.texts()) == [text for text in texts if text]


def test_the_seed_decides_which_texts_are_sampled() -> None:
    chosen = []
    for seed in range(4):
        sample = Sample(50, seed)
        for number in range(100):
            sample.add(b"text %d" % number)
        chosen.append(tuple(sample.texts()))
    assert len(set(chosen)) == 4


def test_too_large_a_vocabulary_names_the_largest_possible_which_then_works(capfd) -> None:
    largest(TOPICS[0].decode(), TOPICS[1].decode())
    assert capfd.readouterr() == ("", ""), "the C++ library keeps silent"


def test_too_small_a_vocabulary_names_the_smallest_possible_which_then_works() -> None:
    with pytest.raises(InputError, match="too small") as caught:
        train(TOPICS[:2], VocabularyConfig(vocab_size=100))
    smallest = int(str(caught.value.hint).split()[1])
    assert len(pieces(train(TOPICS[:2], VocabularyConfig(vocab_size=smallest)))) == smallest


@pytest.mark.parametrize("texts", [[], [b""], [b"", b""]])
def test_no_text_is_an_error(texts) -> None:
    with pytest.raises(InputError, match="no text"):
        train(texts, SMALL)


@pytest.mark.parametrize("wrong", [{"vocab_size": 0}, {"character_coverage": 0.5}, {"sample_bytes": 0}])
def test_settings_that_cannot_be_are_refused(wrong) -> None:
    with pytest.raises(UsageError):
        VocabularyConfig(**{"vocab_size": 400, **wrong})


def test_a_model_has_its_manifest_beside_it(tmp_path: Path) -> None:
    source = stream(tmp_path / "文 in.jsonl", *[text.decode() for text in TOPICS])
    output = tmp_path / "my tok.model"
    report = train_tokenizer([source], output, SMALL)
    assert load_tokenizer(output).vocab_size == 400
    manifest = read_manifest(output)
    assert manifest == report.manifest
    assert manifest is not None
    assert manifest.counts is not None
    assert (manifest.counts.read, manifest.counts.kept, manifest.num_documents) == (30, 30, 30)
    assert manifest.num_bytes == sum(map(len, TOPICS))
    assert manifest.files[0].path == "my tok.model"
    assert manifest.files[0].digest == load_tokenizer(output).fingerprint


def test_an_output_that_is_there(tmp_path: Path) -> None:
    source = stream(tmp_path / "in.jsonl", *[text.decode() for text in TOPICS])
    other = stream(tmp_path / "other.jsonl", *[text.decode() for text in TOPICS[1:]])
    output = tmp_path / "tok.model"
    first = train_tokenizer([source], output, SMALL)
    made = output.read_bytes()
    again = train_tokenizer([source], output, SMALL)
    assert again.up_to_date
    assert again.manifest == first.manifest
    with pytest.raises(UsageError, match="other input"):
        train_tokenizer([other], output, SMALL)
    with pytest.raises(UsageError, match="made otherwise"):
        train_tokenizer([source], output, VocabularyConfig(vocab_size=401))
    assert output.read_bytes() == made
    assert not train_tokenizer([other], output, SMALL, force=True).up_to_date
    assert output.read_bytes() != made
    train_tokenizer([source], output, SMALL, force=True)
    assert output.read_bytes() == made, "the same work gives the same bytes"
    output.unlink()
    assert not train_tokenizer([source], output, SMALL).up_to_date
    output.write_bytes(made[:100])
    assert not train_tokenizer([source], output, SMALL).up_to_date, "a damaged model of the same work is made again"
    assert output.read_bytes() == made


def test_a_file_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    source = stream(tmp_path / "in.jsonl", "text")
    output = tmp_path / "notes.txt"
    output.write_text("mine")
    with pytest.raises(UsageError, match="no finished output of ptool"):
        train_tokenizer([source], output, SMALL)
    with pytest.raises(UsageError, match="also input"):
        train_tokenizer([source], source, SMALL, force=True)
    assert output.read_text() == "mine"


def test_after_a_failure_nothing_stands_under_the_output_s_names(tmp_path: Path) -> None:
    source = stream(tmp_path / "in.jsonl", "too little text")
    with pytest.raises(InputError):
        train_tokenizer([source], tmp_path / "tok.model", VocabularyConfig(vocab_size=9000))
    with pytest.raises(DamagedInput):
        (tmp_path / "empty.jsonl").write_bytes(b"\x28\xb5\x2f")
        train_tokenizer([tmp_path / "empty.jsonl"], tmp_path / "tok.model", SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.jsonl", "in.jsonl"]


def test_lines_that_are_no_documents_follow_the_policy(tmp_path: Path) -> None:
    source = stream(tmp_path / "in.jsonl", *[text.decode() for text in TOPICS])
    source.write_bytes(source.read_bytes() + b"nonsense\n")
    rejects = tmp_path / "rejects.jsonl"
    with pytest.raises(BadDocument, match="in.jsonl:31"):
        train_tokenizer([source], tmp_path / "tok.model", SMALL)
    reading = Reading(policy=ErrorPolicy(on_error="reject", rejects=rejects))
    with pytest.raises(TooManyRejected):
        train_tokenizer([source], tmp_path / "tok.model", SMALL, reading=reading)
    manifest = read_manifest(tmp_path / "tok.model")
    assert manifest is not None
    assert manifest.counts is not None
    assert (manifest.counts.read, manifest.counts.kept, manifest.counts.rejected) == (31, 30, 1)
    assert json.loads(rejects.read_text())["ptool"]["line"] == 31


def test_ctrl_c_while_the_c_library_works_ends_the_process_at_once(tmp_path: Path) -> None:
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(60_000)]
    source = stream(tmp_path / "in.jsonl", *[" ".join(draw.choices(words, k=1000)) for _ in range(300)])
    command = [sys.executable, "-m", "ptool", "train-tokenizer", str(source), "--vocab-size", "8000"]
    process = subprocess.Popen(
        [*command, "--type", "unigram", "-o", str(tmp_path / "tok.model")],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    assert b"training a unigram vocabulary" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(60) == -signal.SIGINT, said
    assert b"SIGINT" in said
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("split_digits", [False, True])
def test_a_byte_level_vocabulary_loses_nothing_and_goes_to_the_fast_engine(tmp_path: Path, split_digits: bool) -> None:
    config = VocabularyConfig(
        vocab_size=590, type="byte-bpe", multiple=64, special_tokens=("<|chat|>",), split_digits=split_digits
    )
    text = "In 2024 and 2025 there were 365 days, 書 and 天地, and \0 too. " * 50
    model = train([text.encode(), *TOPICS[:10]], config)
    assert model == train([text.encode(), *TOPICS[:10]], config)
    (tmp_path / "tokenizer.json").write_bytes(model)
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert (loaded.vocab_size, loaded.eos_id, loaded.lossless) == (640, 0, True)
    ids = loaded.encode_batch([text])[0]
    assert loaded.decode(ids) == text
    assert 1 not in loaded.encode_batch(["<|chat|>"])[0]
    digits = [loaded.decode([token]) for token in ids if any(letter.isdigit() for letter in loaded.decode([token]))]
    assert max(map(len, digits)) == (1 if split_digits else 3)
    assert open_engine("fast", loaded, reporter=SILENT).name == "fast"


def test_special_tokens_digits_and_bytes_of_a_sentencepiece_model(tmp_path: Path) -> None:
    text = "In 2024 and 2025 there were 365 days and more. " * 50
    config = VocabularyConfig(
        vocab_size=60, special_tokens=("<chat>",), split_digits=True, byte_fallback=False, character_coverage=1.0
    )
    (tmp_path / "tok.model").write_bytes(train([text.encode()], config))
    loaded = load_tokenizer(tmp_path / "tok.model")
    assert not loaded.lossless
    assert len(loaded.byte_ids) == 0
    assert loaded.unk_id in loaded.encode_batch(["書"])[0]
    assert len(loaded.encode_batch(["2024"])[0]) >= 4
    assert loaded.decode([3]) == "", "the control token after <unk>, <s> and </s> is no text"


def test_every_source_has_its_share_of_the_sample() -> None:
    texts = [(bytes([65 + number % 26]) * 100, "ab"[number % 2]) for number in range(1000)]
    sample = WeightedSample(10_000, 0, {"a": 3.0, "b": 1.0})
    for text, source in [*texts, (b"x" * 100, "c"), (b"y" * 100, None)]:
        sample.add(text, source)
    assert sample.bytes_by_source == {"a": 7500, "b": 2500}
    assert sample.num_bytes == 10_000
    assert all(len(set(text)) == 1 and text[:1] not in b"xy" for text in sample.texts())
    with pytest.raises(InputError, match="no text of d, which has a weight"):
        WeightedSample(100, 0, {"d": 1.0}).check()


@given(
    st.dictionaries(st.sampled_from("abc"), st.floats(0.1, 9), min_size=1),
    st.dictionaries(st.sampled_from("xyz"), st.floats(0.1, 9), min_size=1),
    st.integers(0, 1000),
)
def test_sources_and_languages_have_the_product_of_their_shares(
    sources: dict[str, float], languages: dict[str, float], seed: int
) -> None:
    limit = 3000
    texts = [(f"{source}{language}{number:05}".encode(), source, language)
             for source in "abc" for language in "xyz" for number in range(limit // 7 + 1)]  # fmt: skip
    texts += [(b"no-name", None, "x"), (b"no-lang", "a", None)]
    draw = random.Random(seed)
    samples = [WeightedSample(limit, 0, sources, languages) for _ in range(2)]
    for sample in samples:
        for text in draw.sample(texts, len(texts)):
            sample.add(*text)
    taken = [sorted(sample.texts()) for sample in samples]
    assert taken[0] == taken[1]
    for source in "abc":
        for language in "xyz":
            share = (
                sources.get(source, 0) / sum(sources.values()) * languages.get(language, 0) / sum(languages.values())
            )
            found = 7 * sum(text.startswith(f"{source}{language}".encode()) for text in taken[0])
            assert (share * limit - 7 < found <= max(7, share * limit)) if share else found == 0
    assert not {b"no-name", b"no-lang"} & set(taken[0])
    samples[0].check()
    assert samples[0].empty_pairs == []


def test_the_command_weighs_sources_and_languages(tmp_path: Path) -> None:
    text = b" ".join(TOPICS).decode()
    texts = [text[at : at + 200] for at in range(0, 20_000, 200)]
    pairs = [("web", "en"), ("web", "zh"), ("code", "en"), ("code", 7)]
    made = [{"text": t, "source": source, "meta": {"l": language}} for source, language in pairs for t in texts]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in made))
    command = [sys.executable, "-m", "ptool", "train-tokenizer", str(path), "--vocab-size", "400", "--sample", "20kB"]
    command += ["--weights", "web=3,code=1", "--language-weights", "en=4,zh=1", "--language-key", "meta.l"]
    done = subprocess.run([*command, "-o", str(tmp_path / "tok.model")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no text of code in zh: its part of the sample stays empty" in done.stderr
    manifest = read_manifest(tmp_path / "tok.model")
    assert manifest is not None
    by_source, by_language = (manifest.details[f"sample_bytes_by_{kind}"] for kind in ("source", "language"))
    assert sum(by_source.values()) == sum(by_language.values()) == manifest.details["sample_bytes"]
    expected = {"code": 4000, "web": 15_000, "en": 16_000, "zh": 3000}  # of 20,000; 1,000 would be code in zh
    assert {**by_source, **by_language} == pytest.approx(expected, abs=400)
    done = subprocess.run([*command, "-o", str(tmp_path / "fr.model"), "--language-weights", "fr=1"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1
    assert "no text of fr, which has a weight" in done.stderr
    assert "--language-key" in done.stderr


def test_weights_are_read_strictly() -> None:
    assert parse_weights(None) == {}
    assert parse_weights("web=0.7, a=b=3") == {"web": 0.7, "a=b": 3.0}
    for wrong in ("", "web", "web=", "=1", "web=-1", "web=nan", "web=inf", "web=0", "a=1,a=2"):
        with pytest.raises(UsageError):
            parse_weights(wrong)


def test_the_embedding_s_share_counts_a_tied_table_once() -> None:
    said = embedding_share("10m", 32_000)
    assert said.startswith("32,000 entries are ")
    with pytest.raises(UsageError, match="10x"):
        embedding_share("10x", 32_000)
