"""Fertility: the counts are those of counting by hand, whatever the number of jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ptool.errors import InputError
from ptool.tokenizers.loading import load_tokenizer
from ptool.tokenizing.fertility import draw_fertility, measure_fertility
from ptool.tokenizing.trainers import train
from ptool.tokenizing.vocabulary import VocabularyConfig

DOCUMENTS = [
    {"text": "the cat and the dog " * 5, "source": "web", "lang": "en"},
    {"text": "天地玄黃", "source": "书", "lang": "zh"},
    {"text": "", "source": "web"},
    {"text": "a dog 地", "source": "web", "lang": "en"},
]


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in DOCUMENTS), encoding="utf-8")
    config = VocabularyConfig(vocab_size=290)
    (tmp_path / "tok.model").write_bytes(train([b"the cat and the dog saw a dog and a cat. " * 50], config))
    return tmp_path / "in.jsonl", tmp_path / "tok.model"


def test_every_group_is_counted_as_by_hand(paths: tuple[Path, Path]) -> None:
    source, model = paths
    loaded = load_tokenizer(model)
    found = measure_fertility([model, Path("bytes")], [source])
    assert found == measure_fertility([model, Path("bytes")], [source], jobs=2)
    table = {(one.by, one.group, one.tokenizer): one for one in found}
    groups = {
        ("all", "all"): DOCUMENTS,
        ("source", "web"): [one for one in DOCUMENTS if one["source"] == "web"],
        ("source", "书"): DOCUMENTS[1:2],
        ("language", "en"): [DOCUMENTS[0], DOCUMENTS[3]],
        ("language", "zh"): DOCUMENTS[1:2],
        ("language", "-"): DOCUMENTS[2:3],
    }
    words = {0: 25, 1: 4, 2: 0, 3: 3}
    for (by, group), documents in groups.items():
        one = table[by, group, str(model)]
        ids = [token for document in documents for token in loaded.encode_batch([document["text"]])[0].tolist()]
        assert (one.documents, one.tokens) == (len(documents), len(ids))
        assert one.words == sum(words[DOCUMENTS.index(document)] for document in documents)
        assert one.byte_fallback == sum(token in loaded.byte_ids for token in ids)
        assert one.unknown == 0
        in_bytes = table[by, group, "bytes"]
        assert in_bytes.tokens == in_bytes.bytes == sum(len(document["text"].encode()) for document in documents)
    assert len(table) == 2 * len(groups)


def test_no_text_is_an_error(tmp_path: Path, paths: tuple[Path, Path]) -> None:
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(InputError, match="no text"):
        measure_fertility([paths[1]], [tmp_path / "empty.jsonl"])
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\nno\n')
    with pytest.raises(InputError, match="not JSON"):
        measure_fertility([paths[1]], [tmp_path / "bad.jsonl"])


def test_the_command_prints_a_table_json_and_a_picture(paths: tuple[Path, Path], tmp_path: Path) -> None:
    source, model = paths
    command = [sys.executable, "-m", "ptool", "fertility", model, "bytes"]
    done = subprocess.run([*command, "-"], input=source.read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"language zh" in done.stdout
    done = subprocess.run([*command, source, "--json", "--plot", tmp_path / "f.png"], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[1]["tokens_per_word"] == pytest.approx(121 / 32)
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_bars_are_drawn_for_sources_where_no_language_is_known(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a b", "source": "web"}\n')
    draw_fertility(measure_fertility([Path("bytes")], [tmp_path / "in.jsonl"]), tmp_path / "f.svg")
    assert "web" in (tmp_path / "f.svg").read_text() or (tmp_path / "f.svg").stat().st_size > 1000
