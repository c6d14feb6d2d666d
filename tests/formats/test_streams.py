"""Streams: what was written is read, and no damage is ever taken for an end."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import DamagedInput, InputError, PtoolError
from ptool.formats import frames
from ptool.formats.manifests import DocumentsDigest, Manifest, new_manifest
from ptool.formats.streams import StreamReader, StreamWriter, labels, read_trailer

LINES = [f'{{"id":"d{n}","text":"文 document number {n}"}}\n'.encode() for n in range(20)]


def stream(lines: list[bytes], stage: str = "filter") -> bytes:
    digest = DocumentsDigest()
    sink = io.BytesIO()
    writer = StreamWriter(sink, stage=stage)
    for line in lines:
        digest.update(line, 1)
        writer.write(line)
    writer.finish(new_manifest(stage, {"rule": "x"}, documents_out=digest.documents))
    return sink.getvalue()


def read(data: bytes, **options: object) -> tuple[bytes, StreamReader]:
    reader = StreamReader(["-"], stdin=io.BytesIO(data), **options)  # type: ignore[arg-type]
    return b"".join(lines.data for lines in reader), reader


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "FRAME_BYTES", 200)


def test_what_was_written_is_read_with_its_manifest(small_frames: None) -> None:
    data, reader = read(stream(LINES))
    assert data == b"".join(LINES)
    assert [manifest.stage for manifest in reader.upstream] == ["filter"]


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(
        st.binary(max_size=90).map(lambda b: b.replace(b"\n", b" ").replace(b"\0", b"0") + b"\n"), min_size=1
    ),
    cuts=st.lists(st.integers(0, 400)),
)
def test_the_bytes_depend_on_the_lines_and_not_on_how_they_were_handed_over(
    lines: list[bytes], cuts: list[int]
) -> None:
    original, frames.FRAME_BYTES = frames.FRAME_BYTES, 100
    try:
        one_by_one, grouped = io.BytesIO(), io.BytesIO()
        writer = StreamWriter(one_by_one, stage="x")
        for line in lines:
            writer.write(line)
        writer.finish(new_manifest("x", {}))
        writer = StreamWriter(grouped, stage="x")
        position = 0
        for cut in sorted({min(cut, len(lines)) for cut in cuts} | {len(lines)}):
            writer.write(b"".join(lines[position:cut]))
            position = cut
        writer.finish(new_manifest("x", {}))
    finally:
        frames.FRAME_BYTES = original
    assert grouped.getvalue() == one_by_one.getvalue()
    assert zstandard.ZstdDecompressor().stream_reader(grouped.getvalue(), read_across_frames=True).read() == b"".join(
        lines
    )


def test_every_cut_is_an_error(small_frames: None) -> None:
    whole = stream(LINES)
    for length in range(len(whole)):
        with pytest.raises(PtoolError):
            read(whole[:length])


def test_every_flipped_bit_is_an_error_or_harmless(small_frames: None) -> None:
    whole = stream(LINES[:8])
    harmless = 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        try:
            data, _ = read(bytes(damaged))
        except PtoolError:
            continue
        harmless += 1
        assert data == b"".join(LINES[:8]), f"bit {bit} changed the documents unnoticed"
    assert harmless < 64, "only bits of magic numbers and unused header bits may be harmless"


def test_cuts_and_flips_of_a_longer_stream_are_errors_or_harmless() -> None:
    chance = random.Random(7)
    lines = [json.dumps({"text": chance.randbytes(200).hex()}).encode() + b"\n" for _ in range(25_000)]
    whole = stream(lines)
    assert len(whole) > frames.FRAME_BYTES
    expected = b"".join(lines)
    for _ in range(12):
        damaged = bytearray(whole)
        position = chance.randrange(len(whole))
        damaged[position] ^= 1 << chance.randrange(8)
        for candidate in (bytes(damaged), whole[:position]):
            try:
                data, _ = read(candidate)
            except PtoolError:
                continue
            assert data == expected


def test_a_dead_upstream_is_noticed_at_each_of_its_frames(small_frames: None) -> None:
    whole = stream(LINES)
    starts = [n for n in range(len(whole)) if whole.startswith((frames.ZSTD_MAGIC, frames.SKIPPABLE_MAGIC), n)][1:]
    assert len(starts) > 3
    for start in starts:
        with pytest.raises(DamagedInput, match="upstream failed"):
            read(whole[:start])


def test_streams_can_be_concatenated(small_frames: None) -> None:
    data, reader = read(stream(LINES[:5]) + stream(LINES[5:], stage="dedup"))
    assert data == b"".join(LINES)
    assert [manifest.stage for manifest in reader.upstream] == ["filter", "dedup"]


@pytest.mark.parametrize("kind", ["plain", "gzip", "two gzip members", "zstd", "two zstd frames", "zstd without size"])
def test_other_programs_files_are_read(kind: str) -> None:
    text = b"".join(LINES)
    half = len(b"".join(LINES[:7]))
    compress = zstandard.ZstdCompressor(write_checksum=True).compress
    unsized = zstandard.ZstdCompressor().compressobj()
    data = {
        "plain": text,
        "gzip": gzip.compress(text),
        "two gzip members": gzip.compress(text[:half]) + gzip.compress(text[half:]) + b"\0" * 512,
        "zstd": compress(text),
        "two zstd frames": compress(text[:half]) + compress(text[half:]),
        "zstd without size": unsized.compress(text) + unsized.flush(),
    }[kind]
    found, reader = read(data)
    assert found == text
    assert reader.upstream == []


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_what_the_compressors_own_test_refuses_is_an_error(kind: str) -> None:
    text = b"".join(LINES)
    whole = gzip.compress(text) if kind == "gzip" else zstandard.ZstdCompressor(write_checksum=True).compress(text)
    chance = random.Random(3)
    command = shutil.which(kind)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[chance.randrange(2 if kind == "gzip" else 4, len(whole))] ^= 1 << chance.randrange(8)
        candidate = bytes(damaged[: chance.choice([len(whole), chance.randrange(1, len(whole))])])
        try:
            data, _ = read(candidate)
        except PtoolError:
            continue
        assert data == text
        if command is not None:
            tested = subprocess.run([command, "-t"], input=candidate, capture_output=True)
            assert tested.returncode == 0, tested.stderr


def test_garbage_after_gzip_data_is_an_error() -> None:
    with pytest.raises(DamagedInput, match="garbage"):
        read(gzip.compress(b"{}\n") + b"more")


@pytest.mark.parametrize(
    ("magic", "name"), [(b"BZh91AY", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"PAR1\x15\x04", "Parquet")]
)
def test_a_file_of_another_kind_is_named(magic: bytes, name: str) -> None:
    with pytest.raises(InputError, match=name):
        read(magic + b"rest of the file")


class Listener:
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def progress(self, done: int, total: int | None, *, unit: str, detail: str = "") -> None:
        pass


def test_a_chain_that_starts_anew_behind_a_foreign_tool_says_so() -> None:
    foreign, ours = Listener(), Listener()
    read(b"".join(LINES), reporter=foreign)
    read(stream(LINES), reporter=ours)
    assert [text for text in foreign.notices if "the chain starts here" in text]
    assert ours.notices == []


def test_nothing_on_stdin_is_a_failed_upstream_unless_allowed() -> None:
    with pytest.raises(DamagedInput, match="upstream wrote nothing"):
        read(b"")
    assert read(b"", allow_empty=True)[0] == b""


def test_a_stream_of_no_documents_is_a_whole_stream() -> None:
    data, reader = read(stream([]))
    assert data == b""
    assert len(reader.upstream) == 1


def test_a_last_line_without_newline_is_a_line() -> None:
    assert read(b'{"text":"a"}\n{"text":"b"}')[0] == b'{"text":"a"}\n{"text":"b"}\n'


def test_batches_hold_whole_lines_and_number_them() -> None:
    text = b"".join(LINES)
    reader = StreamReader(["-"], stdin=io.BytesIO(text), batch_bytes=100)
    batches = list(reader)
    number = 1
    for batch in batches:
        assert batch.data.endswith(b"\n")
        assert batch.first_number == number
        number += batch.data.count(b"\n")
    assert number == len(LINES) + 1


def test_what_zstd_decodes_only_when_asked_to_is_told_from_damage() -> None:
    wide = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    streaming = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    long = streaming.compress(LINES[0]) + streaming.flush()
    trained = zstandard.train_dictionary(1 << 10, [line * 2 for line in LINES] * 500)
    packed = zstandard.ZstdCompressor(dict_data=trained).compress(LINES[0])
    for data, message in ((long, "window of more than 128 MiB.*--long=31"), (packed, "with a dictionary.*-D")):
        with pytest.raises(DamagedInput) as caught:
            list(StreamReader(["-"], stdin=io.BytesIO(data)))
        assert re.search(message, f"{caught.value} {caught.value.hint}")
        assert "damaged" not in str(caught.value)


class Trickle(io.RawIOBase):
    """What a pipe is: a read returns what is there, however little."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data, self._sizes = data, sizes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        size = self._sizes.pop(0) if self._sizes else 1 << 20
        taken, self._data = self._data[:size], self._data[size:]
        return taken


@given(sizes=st.lists(st.integers(1, 300)), batch_bytes=st.integers(1, 200), packed=st.booleans())
def test_batches_are_the_same_however_slowly_a_pipe_gives_its_bytes(
    sizes: list[int], batch_bytes: int, packed: bool
) -> None:
    data = stream(LINES) if packed else b"".join(LINES)
    at_once = StreamReader(["-"], stdin=io.BytesIO(data), batch_bytes=batch_bytes)
    slowly = StreamReader(["-"], stdin=Trickle(data, sizes), batch_bytes=batch_bytes)  # type: ignore[arg-type]
    batches = [batch.data for batch in slowly]
    assert batches == [batch.data for batch in at_once]
    assert all(len(batch) >= batch_bytes > batch.rfind(b"\n", 0, -1) + 1 for batch in batches[:-1]), "to the line"


def split_frames(whole: bytes) -> list[bytes]:
    """The frames of a stream, found by their magic numbers."""
    starts = [n for n in range(len(whole)) if whole.startswith((frames.ZSTD_MAGIC, frames.SKIPPABLE_MAGIC), n)]
    return [whole[start:end] for start, end in zip(starts, [*starts[1:], len(whole)], strict=True)]


def test_a_line_longer_than_a_frame_has_a_frame_of_its_own(small_frames: None) -> None:
    long = b'{"text":"' + b"x" * 5000 + b'"}\n'
    whole = stream([LINES[0], long, LINES[1]])
    assert read(whole)[0] == LINES[0] + long + LINES[1]
    contents = [zstandard.decompress(frame) for frame in split_frames(whole)[1:-1]]
    assert contents == [LINES[0], long, LINES[1]]


@pytest.mark.parametrize("damage", ["a frame is missing", "two frames are swapped", "a frame stands twice"])
def test_frames_that_are_whole_but_not_the_written_ones_are_an_error(small_frames: None, damage: str) -> None:
    header, first, second, *rest = split_frames(stream(LINES))
    damaged = {
        "a frame is missing": [header, second, *rest],
        "two frames are swapped": [header, second, first, *rest],
        "a frame stands twice": [header, first, first, second, *rest],
    }[damage]
    with pytest.raises(DamagedInput, match="not those the trailer tells of"):
        read(b"".join(damaged))


def test_a_stream_that_was_cut_before_another_one_is_an_error(small_frames: None) -> None:
    whole = stream(LINES)
    cut = b"".join(split_frames(whole)[:-1])
    with pytest.raises(DamagedInput, match="without its trailer"):
        read(cut + whole)


def test_skippable_frames_of_other_programs_are_skipped() -> None:
    foreign = b"".join(bytes([0x50 + n]) + frames.SKIPPABLE_MAGIC[1:] + b"\x03\0\0\0abc" for n in range(16))
    text = b"".join(LINES)
    assert read(foreign + zstandard.compress(text) + foreign)[0] == text
    with pytest.raises(PtoolError):
        read(foreign[:-1])


def test_a_missing_file_and_a_folder_are_one_line_errors(tmp_path: Path) -> None:
    for source in (tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            list(StreamReader([source]))


def test_the_trailer_is_found_from_the_end_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a b 文.jsonl.zst"
    path.write_bytes(stream(LINES))
    found = read_trailer(path)
    assert isinstance(found, Manifest)
    assert found.config == {"rule": "x"}
    path.write_bytes(zstandard.compress(b"".join(LINES)))
    assert read_trailer(path) is None
    path.write_bytes(b"short")
    assert read_trailer(path) is None


def test_labels_are_the_shortest_tails_that_differ() -> None:
    assert labels(["a/x.zst", "b/x.zst", "b/y.zst"]) == ["a/x.zst", "b/x.zst", "y.zst"]
    assert labels(["q/a/x.zst", "r/a/x.zst"]) == ["q/a/x.zst", "r/a/x.zst"]
    assert labels(["x.zst", "b/x.zst"]) == ["x.zst", "b/x.zst"]
    assert labels(["-"]) == ["-"]
    assert labels(["x.zst", "x.zst"]) == ["x.zst", "x.zst"]
