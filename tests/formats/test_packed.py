"""Packed rows: what is read back, against a loop that follows the rule token by token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import DamagedInput, InputError, UsageError
from ptool.formats.packed import NO_TARGET, SPAN, PackedDataset, PackedLayout, PackedRows, PackedSplit, SplitCounts
from ptool.formats.packed_writer import SplitWriter, write_packed
from tests.formats.row_rule import brute_force

EOD = 2


def check(found: PackedRows, expected) -> None:
    tokens, targets, segments, positions = expected
    real = np.array([[token is not None for token in row] for row in tokens], dtype=bool).reshape(found.tokens.shape)
    assert found.tokens[real].tolist() == [token for row in tokens for token in row if token is not None]
    assert found.targets.tolist() == targets
    assert found.segments.tolist() == segments
    assert found.positions.tolist() == positions


def concatenated(lengths: list[int], seq_len: int) -> list[list[tuple[int, int, int]]]:
    rows: list[list[tuple[int, int, int]]] = []
    at = 0
    for document, length in enumerate(lengths):
        for offset in range(length):
            row = at // seq_len
            if row == len(rows):
                rows.append([])
            if rows[row] and rows[row][-1][0] == document:
                _, first, count = rows[row][-1]
                rows[row][-1] = (document, first, count + 1)
            else:
                rows[row].append((document, offset, 1))
            at += 1
    return rows


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(3, 9), max_size=9), max_size=9),
    seq_len=st.integers(2, 12),
    with_eod=st.booleans(),
)
def test_rows_follow_the_rule_token_by_token(tmp_path_factory, texts, seq_len, with_eod) -> None:
    documents = [[*text, EOD] if with_eod else text for text in texts]
    folder = tmp_path_factory.mktemp("packed") / "p"
    eod = EOD if with_eod else None
    write_packed(
        folder,
        [(f"d{i}", None, len(t), t) for i, t in enumerate(documents)],
        seq_len=seq_len,
        vocab_size=10,
        eod_id=eod,
    )
    split = PackedDataset.open(folder, verify=True).train
    spans = concatenated([len(document) for document in documents], seq_len)
    assert split.num_rows == len(spans)
    check(split.rows(range(split.num_rows)), brute_force(documents, spans, seq_len, eod))
    assert [document.tokens.tolist() for document in split.documents()] == documents


def test_a_later_piece_of_a_document_is_no_start_so_an_eod_before_it_has_no_target(tmp_path: Path) -> None:
    # Best-fit puts tails of long documents side by side: [5 6 EOD] of one, [7 EOD] of another, then a whole document.
    files = {}

    class Keep:
        def __call__(self, name):
            from contextlib import contextmanager

            @contextmanager
            def opened():
                with (tmp_path / name).open("wb") as file:
                    files[name] = file
                    yield file

            return opened()

    documents = [[3, 4, 5, 6, EOD], [8, 8, 7, EOD], [9, EOD]]
    rows = [[(0, 2, 3), (1, 2, 2), (2, 0, 2)], [(0, 0, 2), (1, 0, 2)]]
    writer = SplitWriter(Keep(), "train", seq_len=8, dtype="uint16", rows_per_shard=1)
    from ptool.formats.documents import new_records

    records = new_records(3)
    records["num_tokens"] = [len(d) for d in documents]
    with writer.opened():
        writer.add_documents(records, np.array([1, 1, 1]), b"abc", [])
        data = np.zeros((2, 8), dtype=np.int64)
        for row, spans in enumerate(rows):
            flat = [t for d, o, n in spans for t in documents[d][o : o + n]]
            data[row, : len(flat)] = flat
        columns = [(d, o, sum(x[2] for x in spans[:i]), n) for spans in rows for i, (d, o, n) in enumerate(spans)]
        writer.add_rows(data, np.array([-1, -1], dtype=np.int32), np.array(columns, dtype=SPAN), np.array([3, 2]))
    layout = PackedLayout(
        seq_len=8,
        vocab_size=10,
        dtype="uint16",
        eod_id=EOD,
        pad_id=0,
        rows_per_shard=1,
        sources=[],
        tokenizer=None,
        tokenizer_fingerprint=None,
        splits={"train": writer.counts},
    )
    split = PackedSplit(tmp_path, "train", layout)
    found = split.rows([0])
    assert found.targets.tolist() == [[6, EOD, NO_TARGET, EOD, 9, EOD, NO_TARGET, NO_TARGET]]
    assert found.segments.tolist() == [[0, 0, 0, 1, 2, 2, 2, -1]]
    assert found.positions.tolist() == [[0, 1, 2, 0, 0, 1, 2, 0]]
    assert [d.tokens.tolist() for d in split.documents()] == documents
    assert split.documents_in(0) == [("a", 0, 3), ("b", 3, 2), ("c", 5, 2)]


def test_rows_come_in_the_order_asked_for_across_files(tmp_path: Path) -> None:
    write_packed(tmp_path / "p", [("a", None, 9, range(10))], seq_len=2, vocab_size=10)
    split = PackedDataset.open(tmp_path / "p").train
    assert split.rows([3, 0, 3]).tokens.tolist() == [[6, 7], [0, 1], [6, 7]]
    assert split.rows([3, 4]).targets.tolist() == [[7, 8], [9, NO_TARGET]]
    assert split.rows([]).tokens.shape == (0, 2)
    for outside in ([5], [-1]):
        with pytest.raises(IndexError):
            split.rows(outside)


def test_a_dataset_tells_what_it_is(tmp_path: Path) -> None:
    model = tmp_path / "my tok.model"
    model.write_bytes(b"model")
    documents = [("甲", "web", 7, [5, 6, EOD]), ("乙", None, 3, [7, EOD]), ("丙", "书", 4, [70000, EOD])]
    manifest = write_packed(
        tmp_path / "行 rows",
        documents,
        seq_len=4,
        vocab_size=70001,
        eod_id=EOD,
        holdout=lambda name: name == "乙",
        tokenizer=model,
    )
    packed = PackedDataset.open(tmp_path / "行 rows")
    assert (packed.seq_len, packed.vocab_size, packed.eod_id) == (4, 70001, EOD)
    assert packed.tokenizer_file.read_bytes() == b"model"
    assert [(d.id, d.source, d.num_bytes, d.tokens.tolist()) for d in packed.train.documents()] == [
        documents[0],
        documents[2],
    ]
    assert [d.id for d in packed.holdout.documents()] == ["乙"]
    assert (packed.train.num_tokens, packed.holdout.num_tokens) == (5, 2)
    assert (manifest.num_documents, manifest.num_tokens, manifest.num_bytes) == (3, 7, 14)
    assert packed.train.counts == SplitCounts(
        rows=2,
        documents=2,
        tokens=5,
        text_bytes=11,
        padding=3,
        pieces=3,
        sum_squared_pieces=9 + 1 + 1,
        tokens_by_source={"web": 3, "书": 2},
    )
    assert packed.fingerprint == PackedDataset.open(tmp_path / "行 rows").fingerprint


def test_documents_are_known_by_their_tokens_where_the_text_was_never_seen(tmp_path: Path) -> None:
    """Else documents of two folders that were made from arrays would all be the same one."""
    documents = [("a", None, 3, [1, 2, 3]), ("b", None, 3, [4, 5]), ("c", None, 3, [1, 2, 3])]
    write_packed(tmp_path / "d", documents, seq_len=4, vocab_size=9)
    first, second, third = PackedDataset.open(tmp_path / "d").train.text_hashes.tolist()
    assert first == third == xxhash.xxh3_64_intdigest(np.array([1, 2, 3], "<i4").tobytes())
    assert first != second


def test_without_a_tokenizer_the_error_says_so(tmp_path: Path) -> None:
    write_packed(tmp_path / "p", [("a", None, 1, [1])], seq_len=2, vocab_size=10)
    with pytest.raises(InputError, match="without a tokenizer"):
        _ = PackedDataset.open(tmp_path / "p").tokenizer_file


def test_tokens_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    for tokens in ([10], [-1]):
        with pytest.raises(UsageError, match="outside"):
            write_packed(tmp_path / "p", [("a", None, 1, tokens)], seq_len=2, vocab_size=10)


def test_a_cut_or_altered_dataset_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    write_packed(folder, [("a", None, 9, range(10))], seq_len=4, vocab_size=10)
    for name in ("train-00000.rows", "train.spans", "train.next", "train.index", "train.docs", "train.ids"):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(DamagedInput, match="bytes"):
            PackedDataset.open(folder)
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(DamagedInput):
            PackedDataset.open(folder, verify=True)
        path.write_bytes(whole)
    PackedDataset.open(folder, verify=True)
