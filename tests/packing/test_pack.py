"""Packing: every token that goes in comes out once, with the target it should have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import DamagedInput, InputError, UsageError
from ptool.formats.artefacts import FolderWriter
from ptool.formats.documents import DocumentTableWriter, new_records
from ptool.formats.manifests import new_manifest
from ptool.formats.packed import PackedDataset, PackedSplit
from ptool.formats.packed_writer import write_packed
from ptool.formats.shards import ShardWriter, shard_name
from ptool.packing.config import PackConfig
from ptool.packing.run import pack, preview
from ptool.tokenizers.loading import load_tokenizer
from ptool.tokenizing.vocabulary import VocabularyConfig, train
from tests.formats.row_rule import brute_force

EOD = 2
SOURCES = ["web", "书"]


def token_folder(
    folder: Path, documents: list[list[int]], *, eod: int | None = EOD, shards: int = 1, vocab_size: int = 100
) -> Path:
    """What `ptool tokenize` leaves, from tokens. Document i is called "d i"; every third has no source."""
    with FolderWriter(folder, stage="tokenize", config={}) as files:
        names = []
        for number, part in enumerate(np.array_split(np.arange(len(documents)), shards)):
            names.append(shard_name(number))
            records = new_records(len(part))
            records["num_tokens"] = [len(documents[index]) for index in part]
            records["num_bytes"] = [len(documents[index]) for index in part]
            records["text_hash"] = [xxhash.xxh3_64_intdigest(repr(documents[index]).encode()) for index in part]
            records["source"] = [index % 3 - 1 for index in part]
            dtype = "uint16" if vocab_size < 65500 else "int32"
            with ShardWriter(files.create, names[-1], dtype).opened() as shard:
                flat = [token for index in part for token in documents[index]]
                shard.add(np.array(flat, dtype=np.int32), records["num_tokens"].astype(np.int64))
            with DocumentTableWriter(files.create, names[-1]) as table:
                table.add(records, [f"d {index}" for index in part])
        with files.create("tokenizer.model") as model:
            model.write(b"a model")
        details = {
            "dtype": dtype,
            "vocab_size": vocab_size,
            "eod_id": eod,
            "pad_id": None,
            "sources": SOURCES,
            "shards": [{"name": name} for name in names],
            "tokenizer": {"file": "tokenizer.model", "fingerprint": "sha256:0"},
        }
        files.commit(new_manifest("tokenize", {}, num_documents=len(documents), details=details))
    return folder


def spans_of(split: PackedSplit, index_of: dict[str, int], documents: list[list[int]]) -> list[list[tuple[int, ...]]]:
    """(document, offset, length) of every piece of every row, from what the dataset tells about itself."""
    rows = []
    for row in range(split.num_rows):
        tokens = split.rows([row]).tokens[0].tolist()
        spans = split._spans[split._index[row] : split._index[row + 1]]
        pieces = []
        for (name, start, length), span in zip(split.documents_in(row), spans, strict=True):
            document, offset = index_of[name], int(span["offset"])
            assert tokens[start : start + length] == documents[document][offset : offset + length]
            pieces.append((document, offset, length))
        rows.append(pieces)
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


@pytest.mark.parametrize("strategy", ["concat", "best-fit"])
@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(3, 9), max_size=20), max_size=14),
    seq_len=st.integers(2, 16),
    with_eod=st.booleans(),
    shards=st.integers(1, 3),
    holdout=st.sampled_from([0.0, 0.005, 0.4]),
)
def test_every_token_comes_out_once_with_its_target(
    tmp_path_factory, strategy, texts, seq_len, with_eod, shards, holdout
) -> None:
    folder = tmp_path_factory.mktemp("pack")
    documents = [[*text, EOD] if with_eod else text for text in texts]
    eod = EOD if with_eod else None
    tokens = token_folder(folder / "tok", documents, eod=eod, shards=shards)
    report = pack(tokens, folder / "p", PackConfig(seq_len=seq_len, strategy=strategy, holdout=holdout))
    packed = PackedDataset.open(folder / "p", verify=True)
    index_of = {f"d {index}": index for index in range(len(documents))}
    seen = []
    for split in (packed.train, packed.holdout):
        for document in split.documents():
            index = index_of[document.id]
            assert document.tokens.tolist() == documents[index]
            assert document.source == (SOURCES[index % 3 - 1] if index % 3 else None)
            assert document.num_bytes == len(documents[index])
            seen.append(index)
        rows = spans_of(split, index_of, documents)
        found = split.rows(range(split.num_rows))
        expected = brute_force(documents, rows, seq_len, eod)
        pad = EOD if with_eod else 0
        assert found.tokens.tolist() == [[pad if token is None else token for token in row] for row in expected[0]]
        assert [found.targets.tolist(), found.segments.tolist(), found.positions.tolist()] == list(expected[1:])
        assert split.num_tokens == sum(length for row in rows for _, _, length in row)
        assert split.counts.padding == split.num_rows * seq_len - split.num_tokens
        assert split.counts.sum_squared_pieces == sum(length**2 for row in rows for _, _, length in row)
    assert sorted(seen) == list(range(len(documents))), "each document is in one split, once"
    manifest = report.manifest
    assert (manifest.num_documents, manifest.num_tokens) == (len(documents), sum(map(len, documents)))
    assert manifest.details["sum_squared_documents"] == sum(len(document) ** 2 for document in documents)


def test_concat_equals_the_plain_loop_of_write_packed(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    documents = [[*draw.integers(3, 99, size).tolist(), EOD] for size in draw.integers(0, 300, 200)]
    pack(token_folder(tmp_path / "tok", documents, shards=3), tmp_path / "p", PackConfig(seq_len=64, holdout=0.0))
    write_packed(
        tmp_path / "q",
        [(f"d {n}", None, len(tokens), tokens) for n, tokens in enumerate(documents)],
        seq_len=64,
        vocab_size=100,
        eod_id=EOD,
    )
    for name in ("train-00000.rows", "train.next", "train.spans", "train.index", "train.ids"):
        assert (tmp_path / "p" / name).read_bytes() == (tmp_path / "q" / name).read_bytes(), name


def test_a_plan_of_many_batches_and_files_reads_like_one(tmp_path: Path, monkeypatch) -> None:
    documents = [[*range(3, 3 + size % 60), EOD] for size in range(400)]
    tokens = token_folder(tmp_path / "tok", documents, shards=5, vocab_size=70_000)
    for strategy in ("concat", "best-fit"):
        config = PackConfig(seq_len=16, strategy=strategy)  # type: ignore[arg-type]
        pack(tokens, tmp_path / f"one {strategy}", config)
        with monkeypatch.context() as patch:
            patch.setattr("ptool.packing.run._BATCH_TOKENS", 48)
            patch.setattr("ptool.formats.packed_writer.SHARD_BYTES", 1000)
            patch.setattr("ptool.packing.run.rows_per_shard", lambda *_: 7)
            pack(tokens, tmp_path / f"many {strategy}", config)
        one, many = (PackedDataset.open(tmp_path / f"{kind} {strategy}").train for kind in ("one", "many"))
        assert (tmp_path / f"many {strategy}" / "train-00009.rows").exists()
        everything = np.arange(one.num_rows)
        for left, right in zip(one.rows(everything), many.rows(everything), strict=True):
            assert np.array_equal(left, right)


def test_held_out_documents_are_the_same_for_every_packing(tmp_path: Path) -> None:
    documents = [[*range(3, 3 + size % 60), size % 90, EOD] for size in range(300)]
    tokens = token_folder(tmp_path / "tok", documents)
    chosen = []
    for number, config in enumerate(
        (PackConfig(seq_len=16, holdout=0.1), PackConfig(seq_len=40, strategy="best-fit", holdout=0.1))
    ):
        pack(tokens, tmp_path / str(number), config)
        chosen.append({document.id for document in PackedDataset.open(tmp_path / str(number)).holdout.documents()})
    assert chosen[0] == chosen[1]
    assert 10 < len(chosen[0]) < 60
    pack(tokens, tmp_path / "seeded", PackConfig(seq_len=16, holdout=0.1, seed=1))
    assert {document.id for document in PackedDataset.open(tmp_path / "seeded").holdout.documents()} != chosen[0]


def test_an_output_that_is_there(tmp_path: Path) -> None:
    tokens = token_folder(tmp_path / "tok", [[5, 6, EOD], [7, EOD]])
    other = token_folder(tmp_path / "other", [[5, 6, EOD], [8, EOD]])
    output, config = tmp_path / "my p", PackConfig(seq_len=4)
    first = pack(tokens, output, config)
    made = contents(output)
    again = pack(tokens, output, config)
    assert again.up_to_date
    assert again.manifest == first.manifest
    for wrong in ((tokens, PackConfig(seq_len=5)), (other, config)):
        with pytest.raises(UsageError, match="made otherwise"):
            pack(wrong[0], output, wrong[1])
    assert contents(output) == made
    (output / "train.spans").unlink()
    assert not pack(tokens, output, config).up_to_date
    assert contents(output) == made, "the same work gives the same bytes"
    pack(other, output, config, force=True)
    assert contents(output) != made
    with pytest.raises(UsageError, match="also the input"):
        pack(tokens, tokens, config, force=True)


def test_a_preview_has_the_numbers_of_the_real_thing_and_writes_nothing(tmp_path: Path) -> None:
    documents = [[*range(3, 3 + size % 60), EOD] for size in range(100)]
    tokens = token_folder(tmp_path / "tok", documents)
    for strategy in ("concat", "best-fit"):
        config = PackConfig(seq_len=16, strategy=strategy, holdout=0.1)  # type: ignore[arg-type]
        seen = preview(tokens, tmp_path / strategy, config)
        assert not (tmp_path / strategy).exists()
        pack(tokens, tmp_path / strategy, config)
        packed = PackedDataset.open(tmp_path / strategy)
        for split in (packed.train, packed.holdout):
            planned = seen[split.name]
            for field in ("rows", "documents", "tokens", "padding", "pieces"):
                assert getattr(planned, field) == getattr(split.counts, field)
        with pytest.raises(UsageError, match="made otherwise"):
            preview(tokens, tmp_path / strategy, PackConfig(seq_len=17))


def test_a_shard_that_is_cut_or_altered_is_refused(tmp_path: Path) -> None:
    tokens = token_folder(tmp_path / "tok", [[5, 6, EOD], [7, EOD]])
    for name in ("shard-00000.bin", "shard-00000.idx", "shard-00000.docs", "shard-00000.ids", "tokenizer.model"):
        whole = (tokens / name).read_bytes()
        for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
            (tokens / name).write_bytes(damaged)
            with pytest.raises(DamagedInput, match=name):
                pack(tokens, tmp_path / "p", PackConfig(seq_len=4))
        (tokens / name).write_bytes(whole)
    assert not (tmp_path / "p").exists()


def test_no_documents_give_no_rows(tmp_path: Path) -> None:
    for strategy in ("concat", "best-fit"):
        config = PackConfig(seq_len=4, strategy=strategy)  # type: ignore[arg-type]
        pack(token_folder(tmp_path / f"tok {strategy}", []), tmp_path / strategy, config)
        assert PackedDataset.open(tmp_path / strategy).train.num_rows == 0


@pytest.mark.parametrize("wrong", [{"seq_len": 1}, {"seq_len": 1 << 31}, {"holdout": 1.0}, {"holdout": -0.1}])
def test_settings_that_cannot_be_are_refused(wrong) -> None:
    with pytest.raises(UsageError):
        PackConfig(**{"seq_len": 8, **wrong})


def test_megatron_s_own_files_are_packed_with_their_tokenizer(tmp_path: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog, and then 天地玄黃 " * 30
    (tmp_path / "tok.model").write_bytes(train([text.encode()], VocabularyConfig(vocab_size=300)))
    tokenizer = load_tokenizer(tmp_path / "tok.model")
    texts = [text[:number] for number in range(1, 200, 7)]
    documents = [[*ids.tolist(), EOD] for ids in tokenizer.encode_batch(texts)]
    whole = token_folder(tmp_path / "folder", documents, vocab_size=300)
    for suffix in ("bin", "idx"):
        (tmp_path / f"corpus.{suffix}").write_bytes((whole / f"shard-00000.{suffix}").read_bytes())
    config = PackConfig(seq_len=32, holdout=0.1)
    with pytest.raises(UsageError, match="which tokenizer"):
        pack(tmp_path / "corpus.idx", tmp_path / "p", config)
    made = []
    for number, path in enumerate(("corpus", "corpus.idx", "corpus.bin")):
        pack(tmp_path / path, tmp_path / f"p{number}", config, tokenizer=tmp_path / "tok.model")
        made.append(contents(tmp_path / f"p{number}"))
    assert made[0] == made[1] == made[2]
    packed = PackedDataset.open(tmp_path / "p0")
    found = {document.id: document for split in (packed.train, packed.holdout) for document in split.documents()}
    assert packed.holdout.num_rows > 0
    assert packed.eod_id == EOD
    for number, (text, tokens) in enumerate(zip(texts, documents, strict=True), start=1):
        document = found[f"corpus#{number}"]
        assert document.tokens.tolist() == tokens
        assert document.num_bytes == len(text.encode())
    small = tmp_path / "small.model"
    small.write_bytes(train([b"a b c " * 99], VocabularyConfig(vocab_size=263)))
    with pytest.raises(InputError, match="give the tokenizer that made them"):
        pack(tmp_path / "corpus", tmp_path / "q", config, tokenizer=small)
