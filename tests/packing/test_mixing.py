"""Mixes: shares that are those asked for, documents that are whole, and errors that say what is missing."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import InputError, UsageError
from ptool.formats.packed import PackedDataset
from ptool.packing.config import PackConfig
from ptool.packing.locating import locate_row
from ptool.packing.mixing import named_mixes, plan_mix, read_mix, shares_by_temperature
from ptool.packing.run import pack, pack_each
from ptool.tokenizing.run import tokenize
from tests.packing.test_pack import EOD, token_folder

DOCUMENTS = [[*range(3, 3 + size % 60), size % 97, EOD] for size in range(600)]


def share(values: dict[str, float]) -> list[float]:
    return [value / sum(values.values()) for value in values.values()]


def test_temperature_over_one_lifts_small_sources() -> None:
    tokens = {"large": 90, "small": 9, "smallest": 1}
    assert share(shares_by_temperature(tokens, 3.33)) == pytest.approx([0.57, 0.28, 0.15], abs=0.01)
    assert share(shares_by_temperature(tokens, 0.5)) == pytest.approx([0.99, 0.0099, 0.0001], abs=0.001)
    assert share(shares_by_temperature(tokens, 1)) == pytest.approx([0.9, 0.09, 0.01])
    assert share(shares_by_temperature({"a": 10**15, "b": 1}, 0.01)) == [1.0, 0.0]
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError):
            shares_by_temperature(tokens, wrong)


def test_a_mix_says_which_source_falls_short_and_by_how_much() -> None:
    with pytest.raises(
        InputError, match=r"'code' has 100 tokens, 5\.00 epochs .* 100 tokens more than 4 epochs"
    ) as found:
        plan_mix({"web": 900, "code": 100}, {"web": 0.5, "code": 0.5}, 1000, 4)
    assert found.value.hint == "--tokens 800 is the most it gives"
    assert plan_mix({"web": 900, "code": 100}, {"web": 0.5, "code": 0.5}, 800, 4)[1].wanted == 400
    with pytest.raises(UsageError, match="no such source"):
        plan_mix({"web": 900}, {"wbe": 1.0}, 10, 4)


def test_named_mixes_and_lists_are_read() -> None:
    for name in named_mixes():
        assert 0.9 < sum(read_mix(name).values()) < 1.1
    assert read_mix("web=0.7, 书=0.3") == {"web": 0.7, "书": 0.3}
    for wrong in ("llama", "", "web=x", "web=1,web=2", "=1", "web=-1", "web=nan", "web=0"):
        with pytest.raises(UsageError):
            read_mix(wrong)


@settings(max_examples=20)
@given(st.floats(0.05, 0.9), st.floats(0.5, 2.5), st.integers(0, 5))
def test_the_shares_achieved_are_those_asked_for_to_a_document(
    tmp_path_factory, web: float, size: float, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("mix")
    tokens = token_folder(folder / "tok", DOCUMENTS)
    total = int(size * 10_000)
    config = PackConfig(seq_len=32, holdout=0, mix={"web": web, "书": 1 - web}, tokens=total, max_epochs=9, seed=seed)
    manifest = pack(tokens, folder / "p", config).manifest
    table = manifest.details["mix"]
    assert table["web"]["tokens"] == pytest.approx(total * web, abs=62)
    assert table["书"]["tokens"] == pytest.approx(total * (1 - web), abs=62)
    assert table["-"]["tokens"] == 0
    split = PackedDataset.open(folder / "p").train
    assert split.counts.tokens_by_source == {name: one["tokens"] for name, one in table.items() if one["tokens"]}
    repeats = Counter(document.id for document in split.documents())
    for document in split.documents():
        assert document.tokens.tolist() == DOCUMENTS[int(document.id.split()[1])]
        epochs = table[document.source]["epochs"]
        assert int(epochs - 0.1) <= repeats[document.id] <= int(epochs) + 1


@pytest.mark.parametrize("strategy", ["concat", "best-fit", "pad"])
def test_shuffled_rows_hold_the_same_documents_in_another_order(tmp_path: Path, strategy) -> None:
    tokens = token_folder(tmp_path / "tok", DOCUMENTS)
    config = {"seq_len": 32, "strategy": strategy, "holdout": 0.1}
    pack(tokens, tmp_path / "plain", PackConfig(**config))
    found = []
    for seed in (0, 0, 1):
        pack(tokens, tmp_path / "shuffled", PackConfig(**config, shuffle=True, seed=seed), force=True)
        packed = PackedDataset.open(tmp_path / "shuffled")
        found.append(packed.train.rows(range(packed.train.num_rows)).tokens.tolist())
        got = {document.id: document.tokens.tolist() for document in packed.train.documents()}
        got |= {document.id: document.tokens.tolist() for document in packed.holdout.documents()}
        assert got == {f"d {index}": document for index, document in enumerate(DOCUMENTS)}
    assert found[0] == found[1]
    assert found[0] != found[2]
    plain = PackedDataset.open(tmp_path / "plain").train
    assert found[0] != plain.rows(range(plain.num_rows)).tokens.tolist()


def test_pad_gives_every_document_rows_of_its_own(tmp_path: Path) -> None:
    tokens = token_folder(tmp_path / "tok", DOCUMENTS[:80])
    pack(tokens, tmp_path / "p", PackConfig(seq_len=16, strategy="pad", holdout=0))
    split = PackedDataset.open(tmp_path / "p").train
    assert split.num_rows == sum(-(-len(document) // 16) for document in DOCUMENTS[:80])
    assert all(len(split.documents_in(row)) == 1 for row in range(split.num_rows))
    assert [document.tokens.tolist() for document in split.documents()] == DOCUMENTS[:80]


def test_pieces_over_the_limit_are_left_out_and_counted(tmp_path: Path) -> None:
    tokens = token_folder(tmp_path / "tok", DOCUMENTS)
    config = PackConfig(seq_len=16, strategy="best-fit", holdout=0, max_doc_pieces=2)
    manifest = pack(tokens, tmp_path / "p", config).manifest
    split = PackedDataset.open(tmp_path / "p").train
    assert [document.tokens.tolist() for document in split.documents()] == [document[:32] for document in DOCUMENTS]
    left = sum(max(0, len(document) - 32) for document in DOCUMENTS)
    assert manifest.details["tokens_left_out"] == left
    assert manifest.num_tokens == sum(map(len, DOCUMENTS)) - left
    rows = split.rows(range(split.num_rows))
    assert np.array_equal(rows.targets == -100, rows.targets < 0)


def test_every_source_has_a_folder_of_its_own(tmp_path: Path) -> None:
    tokens = token_folder(tmp_path / "tok", DOCUMENTS)
    config = PackConfig(seq_len=32, holdout=0.1)
    reports = pack_each(tokens, tmp_path / "p", config)
    assert set(reports) == {"-", "web", "书"}
    pack(tokens, tmp_path / "all", config)
    whole = PackedDataset.open(tmp_path / "all")
    for split in ("train", "holdout"):
        expected = {document.id: document.source for document in getattr(whole, split).documents()}
        found = {}
        for report in reports.values():
            opened = getattr(PackedDataset.open(report.output), split)
            found |= {document.id: document.source for document in opened.documents()}
        assert found == expected, "the same documents are held out"
    again = pack_each(tokens, tmp_path / "p", config)
    assert all(report.up_to_date for report in again.values())


def test_a_row_is_traced_to_its_documents(tmp_path: Path) -> None:
    tokens = token_folder(tmp_path / "tok", DOCUMENTS)
    pack(tokens, tmp_path / "p", PackConfig(seq_len=32, holdout=0))
    rows = PackedDataset.open(tmp_path / "p").train
    for row in (0, 7, rows.num_rows - 1):
        row_tokens = rows.rows([row]).tokens[0].tolist()
        for piece in locate_row(tmp_path / "p", row):
            number = int(piece.id.split()[1])
            assert piece.source == [None, "web", "书"][number % 3]
            assert (
                row_tokens[piece.start : piece.start + piece.length]
                == (DOCUMENTS[number][piece.offset : piece.offset + piece.length])
            )
    with pytest.raises(UsageError, match="there is no row"):
        locate_row(tmp_path / "p", rows.num_rows)


def stream(path: Path, documents: list[tuple[str | None, str]]) -> Path:
    lines = [
        json.dumps({"id": str(number), "text": text} | ({} if source is None else {"source": source})) + "\n"
        for number, (source, text) in enumerate(documents)
    ]
    path.write_text("".join(lines))
    return path


def test_the_bytes_of_a_held_out_document_that_is_cut_off_are_those_of_what_is_left(tmp_path: Path) -> None:
    source = stream(tmp_path / "in.jsonl", [("web", f"{number} " + "x" * 7 * number) for number in range(60)])
    tokenize([source], tmp_path / "tok", Path("bytes"))
    pack(tmp_path / "tok", tmp_path / "p", PackConfig(seq_len=16, holdout=0.5, max_doc_pieces=2))
    held = list(PackedDataset.open(tmp_path / "p").holdout.documents())
    assert {len(document.tokens) == 32 for document in held} == {True, False}
    assert all(document.num_bytes == int((document.tokens != 256).sum()) for document in held), "a token is a byte"


def test_the_folder_of_a_source_is_below_the_output_whatever_its_name(tmp_path: Path) -> None:
    names = ["..", ".", "", "a/b", "/etc", "书" * 100, "书" * 100 + "!", "%", "%2E%2E"]
    source = stream(tmp_path / "in.jsonl", [(name, "some text") for name in names])
    tokenize([source], tmp_path / "tok", Path("bytes"))
    reports = pack_each(tmp_path / "tok", tmp_path / "up" / "p", PackConfig(seq_len=16, holdout=0))
    assert set(reports) == set(names)
    assert len({report.output for report in reports.values()}) == len(names)
    assert all(report.output.resolve().parent == tmp_path / "up" / "p" for report in reports.values())
    assert [path.name for path in (tmp_path / "up").iterdir()] == ["p"]


def test_a_source_that_is_called_like_none_is_none(tmp_path: Path) -> None:
    source = stream(tmp_path / "in.jsonl", [("-", "named"), (None, "no name"), ("web", "another one")])
    tokenize([source], tmp_path / "tok", Path("bytes"))
    report = pack(tmp_path / "tok", tmp_path / "p", PackConfig(seq_len=16, holdout=0, mix={"-": 0.5, "web": 0.5}))
    assert report.manifest.details["mix"]["-"]["tokens_before"] == len("named") + len("no name") + 2


def test_as_many_sources_as_documents_are_no_matter_of_hours(tmp_path: Path) -> None:
    count = 60_000  # each looked for among all documents, they took 22 s, and ten times as many a hundred times it
    source = stream(tmp_path / "in.jsonl", [(f"host {number}", str(number)) for number in range(count)])
    tokenize([source], tmp_path / "tok", Path("bytes"))
    begin = time.process_time()
    pack(tmp_path / "tok", tmp_path / "p", PackConfig(seq_len=512, holdout=0, temperature=1.0))
    assert time.process_time() - begin < 10


def test_a_row_of_a_split_without_rows_is_asked_for_in_vain(tmp_path: Path) -> None:
    pack(token_folder(tmp_path / "tok", DOCUMENTS[:5]), tmp_path / "p", PackConfig(seq_len=32, holdout=0))
    with pytest.raises(UsageError, match=r"there is no row 0 in holdout \(holdout has no rows\)"):
        locate_row(tmp_path / "p", 0, split="holdout")
