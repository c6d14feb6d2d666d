"""Streams into shards: every document once, in order, the same bytes for any number of jobs."""

from __future__ import annotations

import io
import json
import pydoc_data.topics
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import BadDocument, InputError, TooManyRejected, UsageError
from ptool.formats.artefacts import open_artefact
from ptool.formats.ledger import ErrorPolicy
from ptool.formats.shards import TokenShards
from ptool.formats.streams import StreamReader
from ptool.reporting import GOING_ON
from ptool.tokenizers.engines import Difference, EngineMismatch
from ptool.tokenizers.loading import Tokenizer, load_tokenizer
from ptool.tokenizing.encoding import EncodedBatch, Encoding, Item, encode_batch
from ptool.tokenizing.intake import Reading
from ptool.tokenizing.run import TokenizeConfig, tokenize
from ptool.tokenizing.vocabulary import VocabularyConfig, train

TOPICS = list(pydoc_data.topics.topics.values())[:40]
DOCUMENTS = [
    *({"text": text, "id": f"topic {number}", "source": "docs"} for number, text in enumerate(TOPICS)),
    {"text": "", "id": "空", "source": "空"},
    {"text": "no id and no source"},
    {"text": "", "id": "twice"},
    {"text": "天地\u2581玄黃\0\r\n", "id": "twice", "source": "docs"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tok.model"
    path.write_bytes(train([text.encode() for text in TOPICS], VocabularyConfig(vocab_size=800)))
    return load_tokenizer(path)


def stream(path: Path, documents=DOCUMENTS) -> Path:
    lines = (json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


def documents_of(folder: Path) -> list[tuple[str, str | None, int, int, list[int]]]:
    """(id, source, text bytes, text hash, tokens) of every document, shard after shard."""
    manifest = open_artefact(folder, stage="tokenize", verify=True)
    sources = manifest.details["sources"]
    opened = TokenShards(folder, [shard["name"] for shard in manifest.details["shards"]])
    found = []
    for shard, table in zip(opened.shards, opened.tables, strict=True):
        for index, record in enumerate(table.records):
            tokens = shard.tokens[shard.starts[index] : shard.starts[index + 1]].tolist()
            source = sources[record["source"]] if record["source"] >= 0 else None
            found.append((table.id(index), source, int(record["num_bytes"]), int(record["text_hash"]), tokens))
    return found


def expected(tokenizer: Tokenizer, documents, origin: str, end: list[int]):
    return [
        (
            document.get("id", f"{origin}#{number}"),
            document.get("source"),
            len(document["text"].encode()),
            xxhash.xxh3_64_intdigest(document["text"].encode()),
            [*tokenizer.encode_batch([document["text"]])[0].tolist(), *end],
        )
        for number, document in enumerate(documents, start=1)
    ]


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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_is_no_artefact_and_the_next_one_ends_with_the_same_bytes(
    tmp_path: Path, tokenizer: Tokenizer, number: signal.Signals
) -> None:
    source = stream(tmp_path / "in.jsonl", [{"text": text * 5} for text in TOPICS])
    folder = tmp_path / "tok"
    process = subprocess.Popen(
        [sys.executable, "-m", "ptool", "tokenize", "-", "--tokenizer", tokenizer.file, "-o", folder, "--jobs", "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.write(source.read_bytes())
    process.stdin.flush()  # and no end: the run waits for more
    while not (folder / "work.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate()[0]
    assert (process.returncode, said) == (-number, b""), "ends by the signal, and nothing goes down the pipe"
    assert not (folder / "manifest.json").exists()
    if number == signal.SIGINT:
        assert not folder.exists()
    tokenize([source], folder, tokenizer.file)
    tokenize([source], tmp_path / "unbroken", tokenizer.file)
    assert contents(folder) == contents(tmp_path / "unbroken")


def test_a_run_killed_after_some_shards_goes_on_with_them_and_ends_with_the_same_bytes(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    documents = [
        {"text": text * 18, "id": f"{turn} {number}"} for turn in range(4) for number, text in enumerate(TOPICS)
    ]
    source = stream(tmp_path / "in.jsonl", documents)
    data = source.read_bytes()
    assert len(data) > 12 << 20, "three batches at least"
    shards, folder = ("--max-shard-tokens", "500k"), tmp_path / "my tok"
    command = (sys.executable, "-m", "ptool", "tokenize", "--tokenizer", tokenizer.file, *shards, "-o", folder)
    process = subprocess.Popen([*command, "-", "--jobs", "1"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.write(data[: 12 << 20])
    process.stdin.flush()  # and no end: more is waited for
    while not (folder / "shard-00001.done").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    left = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*.bin")}
    assert not (folder / "manifest.json").exists()
    again = subprocess.run([*command, source, "--jobs", "2"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "going on after" in again.stderr
    assert all(path.stat().st_mtime_ns == time_before for path, time_before in left.items()), "nothing is made twice"
    tokenize([source], tmp_path / "unbroken", tokenizer.file, TokenizeConfig(shard_tokens=500_000))
    assert contents(folder) == contents(tmp_path / "unbroken")


def test_a_run_that_was_killed_goes_on_after_its_last_complete_shard(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [{"text": text * 9, "source": str(number % 3)} for number, text in enumerate(TOPICS * 4)]
    source, other = stream(tmp_path / "in.jsonl", documents), stream(tmp_path / "other.jsonl", documents[1:])
    shorter = stream(tmp_path / "shorter.jsonl", documents[:5])
    config = TokenizeConfig(shard_tokens=150_000)
    small = partial(StreamReader, batch_bytes=1 << 19)
    monkeypatch.setattr("ptool.tokenizing.intake.StreamReader", small)
    tokenize([source], tmp_path / "unbroken", tokenizer.file, config)

    folder, encoded = tmp_path / "tok", []

    def count(encoding: Encoding, item: Item) -> EncodedBatch:
        encoded.append(item.known)
        if len(encoded) == 4:
            raise KeyboardInterrupt
        return encode_batch(encoding, item)

    monkeypatch.setattr("ptool.tokenizing.run.encode_batch", count)
    with pytest.raises(KeyboardInterrupt):
        tokenize([source], folder, tokenizer.file, config)
    assert list(folder.glob("shard-*.done"))
    assert not (folder / "manifest.json").exists()
    for wrong in (other, shorter):
        with pytest.raises(UsageError, match="unfinished work"):
            tokenize([wrong], folder, tokenizer.file, config)
    encoded[:] = [False] * 5
    tokenize([source], folder, tokenizer.file, config)
    assert any(encoded)
    assert not all(encoded[5:])
    assert contents(folder) == contents(tmp_path / "unbroken")


def test_a_killed_run_goes_on_from_a_pipe_that_gives_its_bytes_in_other_portions(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f'{{"id":"{number}","text":"{number} cats"}}\n'.encode() for number in range(400)]
    data = b"".join(lines)

    class Pipe(io.RawIOBase):
        def __init__(self, portion: int) -> None:
            self._left, self._portion = data, portion

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            taken, self._left = self._left[: self._portion], self._left[self._portion :]
            return taken

    def run(portion: int, folder: Path) -> None:
        reader = partial(StreamReader, stdin=Pipe(portion), batch_bytes=1000)
        monkeypatch.setattr("ptool.tokenizing.intake.StreamReader", reader)
        tokenize(["-"], folder, tokenizer.file, TokenizeConfig(shard_tokens=300), reporter=Notices())

    def stop(encoding: Encoding, item: Item) -> EncodedBatch:
        if item.number == 6:
            raise KeyboardInterrupt
        return encode_batch(encoding, item)

    run(1 << 20, tmp_path / "unbroken")
    with monkeypatch.context() as patched:
        patched.setattr("ptool.tokenizing.run.encode_batch", stop)
        with pytest.raises(KeyboardInterrupt):
            run(7, tmp_path / "tok")
    assert list((tmp_path / "tok").glob("shard-*.done"))
    progress: list[tuple[int, str]] = []
    monkeypatch.setattr(Notices, "progress", lambda _, done, total, *, unit, detail="": progress.append((done, detail)))
    run(900, tmp_path / "tok")
    assert contents(tmp_path / "tok") == contents(tmp_path / "unbroken")
    (start,) = [done for done, detail in progress if detail == GOING_ON]
    assert 0 < start < len(data), "speed and time left count from what is new"


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


class Notices:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def notice(self, text: str) -> None:
        self.texts.append(text)

    def progress(self, done: int, total: int | None, *, unit: str, detail: str = "") -> None:
        pass
