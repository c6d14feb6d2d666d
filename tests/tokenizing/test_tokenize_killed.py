"""A run that was stopped or killed: no artefact, and the next one ends with the same bytes."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from ptool.errors import UsageError
from ptool.formats.streams import StreamReader
from ptool.reporting import GOING_ON
from ptool.tokenizers.loading import Tokenizer
from ptool.tokenizing.encoding import EncodedBatch, Encoding, Item, encode_batch
from ptool.tokenizing.run import TokenizeConfig, tokenize
from tests.tokenizing.topics import TOPICS, Notices, contents, stream


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
