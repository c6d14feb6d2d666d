"""Streams into shards: every document once, in order, the same bytes for any number of jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import BadDocument, InputError, TooManyRejected, UsageError
from ptool.formats.artefacts import open_artefact
from ptool.formats.ledger import ErrorPolicy
from ptool.tokenizers.engines import Difference, EngineMismatch
from ptool.tokenizers.loading import Tokenizer
from ptool.tokenizing.intake import Reading
from ptool.tokenizing.run import TokenizeConfig, tokenize
from tests.tokenizing.topics import DOCUMENTS, TOPICS, Notices, contents, documents_of, expected, stream


@pytest.mark.parametrize(("eod", "end"), [("auto", [2]), ("none", []), (7, [7])])
def test_every_document_is_there_with_its_tokens_and_its_name(tmp_path: Path, tokenizer: Tokenizer, eod, end) -> None:
    source = stream(tmp_path / "我的 in.jsonl")
    report = tokenize([source], tmp_path / "tok", tokenizer.file, TokenizeConfig(eod=eod))
    assert documents_of(tmp_path / "tok") == expected(tokenizer, DOCUMENTS, "我的 in.jsonl", end)
    manifest = report.manifest
    assert manifest.counts is not None
    assert (manifest.counts.read, manifest.counts.kept) == (44, 44)
    assert manifest.num_documents == 44
    assert manifest.num_bytes == sum(len(document["text"].encode()) for document in DOCUMENTS)
    assert manifest.num_tokens == sum(manifest.details["tokens_by_source"].values())
    assert manifest.details["documents_by_source"] == {"docs": 41, "空": 1, "-": 2}
    assert manifest.details["empty_documents"] == 2
    assert manifest.details["eod_id"] == (end[0] if end else None)
    assert manifest.details["tokenizer"]["lossless"] is True
    assert (tmp_path / "tok" / "tokenizer.model").read_bytes() == tokenizer.file.read_bytes()


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 40), max_size=30), limit=st.integers(1, 60))
def test_shards_end_before_they_would_be_too_long(tmp_path_factory, tokenizer, sizes, limit) -> None:
    folder = tmp_path_factory.mktemp("shards")
    documents = [{"text": "a " * size, "id": str(number)} for number, size in enumerate(sizes)]
    source = stream(folder / "in.jsonl", documents)
    reading = Reading(allow_empty=True)
    report = tokenize([source], folder / "tok", tokenizer.file, TokenizeConfig(shard_tokens=limit), reading=reading)
    assert documents_of(folder / "tok") == expected(tokenizer, documents, "in.jsonl", [2])
    shards = report.manifest.details["shards"]
    assert sum(shard["documents"] for shard in shards) == len(documents)
    for shard, following in zip(shards, [*shards[1:], None], strict=True):
        assert shard["tokens"] <= limit or shard["documents"] == 1
        assert following is None or following["documents"] > 0, "no shard is empty but that of an empty stream"


def test_the_bytes_are_the_same_for_any_number_of_jobs(tmp_path: Path, tokenizer: Tokenizer) -> None:
    big = [{"text": text * 50, "source": str(number % 3)} for number, text in enumerate(TOPICS)]
    source = stream(tmp_path / "in.jsonl", big)
    assert source.stat().st_size > 10_000_000, "more than two batches, or no worker would start"
    config = TokenizeConfig(shard_tokens=1_000_000)
    for jobs in (1, 2):
        tokenize([source], tmp_path / str(jobs), tokenizer.file, config, jobs=jobs)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert (tmp_path / "1" / "shard-00001.bin").exists()


def test_an_output_that_is_there(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source, other = stream(tmp_path / "a.jsonl"), stream(tmp_path / "b.jsonl", DOCUMENTS[1:])
    folder = tmp_path / "tok"
    tokenize([source], folder, tokenizer.file)
    made = contents(folder)
    assert tokenize([source], folder, tokenizer.file).up_to_date
    with pytest.raises(UsageError, match="other input"):
        tokenize([other], folder, tokenizer.file)
    with pytest.raises(UsageError, match="made otherwise"):
        tokenize([source], folder, tokenizer.file, TokenizeConfig(eod="none"))
    assert contents(folder) == made
    (folder / "shard-00000.bin").write_bytes(b"cut")
    assert not tokenize([source], folder, tokenizer.file).up_to_date
    assert contents(folder) == made, "what was cut is made again"
    tokenize([other], folder, tokenizer.file, force=True)
    assert contents(folder) != made


def test_lines_that_are_no_documents_follow_the_policy(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = stream(tmp_path / "in.jsonl", DOCUMENTS[:3])
    source.write_bytes(source.read_bytes() + b'{"id":"no text"}\n')
    with pytest.raises(BadDocument, match="in.jsonl:4"):
        tokenize([source], tmp_path / "tok", tokenizer.file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"], "a failure leaves no folder"
    reading = Reading(policy=ErrorPolicy(on_error="reject", max_errors=1))
    counts = tokenize([source], tmp_path / "tok", tokenizer.file, reading=reading).manifest.counts
    assert counts is not None
    assert (counts.read, counts.kept, counts.rejected) == (4, 3, 1)
    strict = Reading(policy=ErrorPolicy(on_error="reject"))
    with pytest.raises(TooManyRejected):
        tokenize([source], tmp_path / "strict", tokenizer.file, reading=strict)
    open_artefact(tmp_path / "strict", stage="tokenize", verify=True)


def test_an_end_of_document_that_the_tokenizer_lacks_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = stream(tmp_path / "in.jsonl")
    for eod in (800, -1):
        with pytest.raises(UsageError, match="outside the vocabulary"):
            tokenize([source], tmp_path / "tok", tokenizer.file, TokenizeConfig(eod=eod))
    with pytest.raises(InputError, match="ptool train-tokenizer makes one"):
        tokenize([source], tmp_path / "tok", tmp_path / "none.model")
    with pytest.raises(UsageError, match="of no tokens"):
        TokenizeConfig(shard_tokens=0)
    assert not (tmp_path / "tok").exists()


def test_the_commands_are_one_pipe(tmp_path: Path) -> None:
    source = stream(tmp_path / "in.jsonl", [{"text": text, "id": str(n)} for n, text in enumerate(TOPICS)])

    def ptool(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "ptool", *map(str, arguments)], input=stdin, capture_output=True, cwd=tmp_path
        )

    trained = ptool("train-tokenizer", source, "--vocab-size", "600", "-o", "tok.model", "--json")
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["manifest"]["num_documents"] == 40
    tokens = ptool("tokenize", "--tokenizer", "tok.model", "-o", "tok", stdin=source.read_bytes())
    assert tokens.returncode == 0, tokens.stderr
    assert json.loads(tokens.stdout)["artefact"] == str(tmp_path / "tok")
    packed = ptool("pack", "--seq-len", "128", "-o", "packed", stdin=tokens.stdout)
    assert packed.returncode == 0, packed.stderr
    assert np.dtype(json.loads(packed.stdout)["manifest"]["details"]["layout"]["dtype"]) == np.uint16
    nothing = ptool("pack", "--seq-len", "128", "-o", "other", stdin=b"")
    assert nothing.returncode == 1
    assert b"upstream failed" in nothing.stderr
    for command in (
        ("tokenize", source, "--tokenizer", "tok.model", "-o", "dry", "--dry-run"),
        ("pack", "tok", "--seq-len", "64", "-o", "dry", "--dry-run"),
        ("train-tokenizer", source, "--vocab-size", "600", "-o", "dry", "--dry-run"),
    ):
        planned = ptool(*command)
        assert planned.returncode == 0, planned.stderr
        assert b"would" in planned.stderr
    assert not (tmp_path / "dry").exists()


def test_a_difference_of_the_engines_is_never_published(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stream(tmp_path / "in.jsonl", DOCUMENTS)
    found = Difference(3, [1, 2], [3], 0)
    with monkeypatch.context() as patch:
        patch.setattr("ptool.tokenizers.engines.CheckedEngine.check", lambda *_: found)
        said = Notices()
        tokenize([source], tmp_path / "first", tokenizer.file, reporter=said)
        assert any("own library encodes" in text for text in said.texts)
        with pytest.raises(EngineMismatch, match="topic 3"):
            tokenize([source], tmp_path / "later", tokenizer.file, engine="fast")
    monkeypatch.setattr("ptool.tokenizing.run.compare_first", lambda *_: None)
    monkeypatch.setattr("ptool.tokenizers.engines.CheckedEngine.check", lambda *_: found)
    with pytest.raises(EngineMismatch, match="--engine reference"):
        tokenize([source], tmp_path / "later", tokenizer.file)
    assert not (tmp_path / "later").exists()
    tokenize([source], tmp_path / "reference", tokenizer.file, engine="reference")
    assert contents(tmp_path / "first") == contents(tmp_path / "reference")


def test_a_lossy_tokenizer_is_named_in_the_manifest(tmp_path: Path) -> None:
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "a": 1, "</s>": 2}, unk_token="<unk>"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.add_special_tokens(["</s>"])
    library.save(str(tmp_path / "tokenizer.json"))
    said = Notices()
    source = stream(tmp_path / "in.jsonl", [{"text": "a", "id": "fine"}, {"text": "a b", "id": "书"}])
    report = tokenize([source], tmp_path / "tok", tmp_path / "tokenizer.json", reporter=said)
    assert report.manifest.details["round_trip"] == {"tried": 2, "lost": 1, "first_lost": ["书"]}
    assert report.manifest.details["tokenizer"]["lossless"] is False
    assert any("lossy" in text for text in said.texts)
