"""Megatron's layout, byte for byte, read by a reader that shares no code with the writer."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import DamagedInput
from ptool.formats.shards import Shard, ShardWriter, token_dtype

DOCUMENTS = st.lists(st.lists(st.integers(0, 65499), max_size=9), max_size=9)


def creating_in(folder: Path):
    @contextmanager
    def create(name: str):
        with (folder / name).open("wb") as file:
            yield file

    return create


def write(folder: Path, documents: list[list[int]], dtype: str, batches: int = 2) -> Path:
    with ShardWriter(creating_in(folder), "s", dtype).opened() as shard:
        for part in np.array_split(np.arange(len(documents)), batches):
            chosen = [documents[index] for index in part]
            lengths = np.array([len(document) for document in chosen], dtype=np.int64)
            shard.add(np.array([token for document in chosen for token in document], dtype=np.int32), lengths)
    return folder / "s"


def read_with_struct(prefix: Path) -> list[list[int]]:
    """Megatron's format from its description, one field at a time."""
    index = prefix.with_name(prefix.name + ".idx").read_bytes()
    tokens = prefix.with_name(prefix.name + ".bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code = struct.unpack_from("<QB", index, 9)
    assert version == 1
    letter = {4: "i", 8: "H"}[code]
    sequences, bounds = struct.unpack_from("<QQ", index, 18)
    assert len(index) == 34 + 12 * sequences + 8 * bounds
    lengths = struct.unpack_from(f"<{sequences}i", index, 34)
    offsets = struct.unpack_from(f"<{sequences}q", index, 34 + 4 * sequences)
    document_indices = struct.unpack_from(f"<{bounds}q", index, 34 + 12 * sequences)
    assert document_indices == tuple(range(sequences + 1))
    found = [
        list(struct.unpack_from(f"<{length}{letter}", tokens, offset))
        for length, offset in zip(lengths, offsets, strict=True)
    ]
    assert sum(lengths) * struct.calcsize(letter) == len(tokens)
    return found


@settings(max_examples=100, deadline=None)
@given(documents=DOCUMENTS, dtype=st.sampled_from(["uint16", "int32"]))
def test_an_independent_reader_finds_every_document(tmp_path_factory, documents, dtype) -> None:
    prefix = write(tmp_path_factory.mktemp("shard"), documents, dtype)
    assert read_with_struct(prefix) == documents
    shard = Shard(prefix)
    assert shard.num_documents == len(documents)
    assert [shard.tokens[a:b].tolist() for a, b in zip(shard.starts, shard.starts[1:], strict=False)] == documents


def test_the_bytes_are_these(tmp_path: Path) -> None:
    prefix = write(tmp_path, [[1, 258], [], [65499]], "uint16")
    assert prefix.with_name("s.bin").read_bytes() == bytes([1, 0, 2, 1, 0xDB, 0xFF])
    assert prefix.with_name("s.idx").read_bytes() == (
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, 8, 3, 4)
        + struct.pack("<iii", 2, 0, 1)
        + struct.pack("<qqq", 0, 4, 4)
        + struct.pack("<qqqq", 0, 1, 2, 3)
    )


def test_two_bytes_a_token_below_a_vocabulary_of_65500() -> None:
    assert [token_dtype(size) for size in (1, 65499, 65500, 65536)] == ["uint16", "uint16", "int32", "int32"]


def test_offsets_pass_two_to_the_31() -> None:
    # 700 million four-byte tokens are 2.8 GB; only the index of such a shard is made here.
    class Nowhere:
        def write(self, data) -> None:
            self.last = bytes(data) if not isinstance(data, memoryview) else b""

    sink = Nowhere()

    @contextmanager
    def create(name: str):
        yield sink

    with ShardWriter(create, "s", "int32").opened() as shard:
        huge = np.broadcast_to(np.int32(0), 7)  # the lengths say more than is written
        shard._lengths.append(np.array([700_000_000, 0], dtype=np.int32))
        shard.add(huge, np.array([7], dtype=np.int64))
    offsets = struct.unpack_from("<3q", sink.last, 34 + 12)
    assert offsets == (0, 2_800_000_000, 2_800_000_000)


def test_documents_of_several_sequences_are_joined(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(struct.pack("<6q", 5, 6, 7, 8, 9, 10))
    (tmp_path / "m.idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, 5, 4, 4)
        + struct.pack("<4i", 1, 2, 0, 3)
        + struct.pack("<4q", 0, 8, 24, 24)
        + struct.pack("<4q", 0, 2, 2, 4)
        + bytes(4)
    )  # the last four bytes are the modes of multimodal data
    shard = Shard(tmp_path / "m")
    assert shard.dtype == "int64"
    assert shard.starts.tolist() == [0, 3, 3, 6]
    assert shard.tokens.tolist() == [5, 6, 7, 8, 9, 10]


def test_a_cut_or_inconsistent_pair_is_refused(tmp_path: Path) -> None:
    prefix = write(tmp_path, [[1, 2, 3], [4]], "uint16")
    index, tokens = tmp_path / "s.idx", tmp_path / "s.bin"
    whole_index, whole_tokens = index.read_bytes(), tokens.read_bytes()
    for cut in range(len(whole_index)):
        index.write_bytes(whole_index[:cut])
        with pytest.raises(DamagedInput):
            Shard(prefix)
    index.write_bytes(whole_index)
    for cut in range(len(whole_tokens)):
        tokens.write_bytes(whole_tokens[:cut])
        with pytest.raises(DamagedInput):
            Shard(prefix)
    tokens.unlink()
    with pytest.raises(DamagedInput, match=r"s\.bin"):
        Shard(prefix)
    tokens.write_bytes(whole_tokens)
    for position in range(len(whole_index)):
        damaged = bytearray(whole_index)
        damaged[position] ^= 0x10
        index.write_bytes(damaged)
        with pytest.raises(DamagedInput):
            Shard(prefix)
