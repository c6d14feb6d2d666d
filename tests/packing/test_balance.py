"""Rows of one source each, in an order in which every batch has the ratio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ptool.errors import UsageError
from ptool.formats.packed import PackedDataset
from ptool.packing.balance import interleave, largest_deviation
from ptool.packing.config import PackConfig
from ptool.packing.locating import locate_row
from ptool.packing.run import pack, preview
from tests.packing.test_pack import EOD, token_folder

DOCUMENTS = [[*range(3, 3 + size % 60), size % 97, EOD] for size in range(600)]


@settings(max_examples=400)
@given(rows=st.lists(st.integers(0, 120), min_size=1, max_size=7), window=st.integers(1, 70))
@example(rows=[1, 0, 0], window=5)
@example(rows=[40, 40, 40], window=3)
@example(rows=[64, 32], window=32)
def test_every_row_comes_once_and_every_window_is_within_a_row_of_the_ratio(rows: list[int], window: int) -> None:
    order = interleave(np.array(rows, dtype=np.int64), window)
    assert np.bincount(order, minlength=len(rows)).tolist() == rows
    total = sum(rows)
    window = min(window, total)
    worst = 0.0
    for first in range(total + 1 - window if total else 0):
        counts = np.bincount(order[first : first + window], minlength=len(rows))
        for count, there in zip(counts.tolist(), rows, strict=True):
            worst = max(worst, abs(count - window * there / total))
    assert worst < 1
    assert largest_deviation(order, np.array(rows), window) == pytest.approx(worst)


@pytest.mark.parametrize("strategy", ["concat", "best-fit", "pad"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_have_one_source_each_and_the_manifest_has_the_ratio(tmp_path: Path, strategy, shuffle) -> None:
    tokens = token_folder(tmp_path / "tok", DOCUMENTS, shards=3)
    mix = {"web": 0.6, "书": 0.3, "-": 0.1}
    config = PackConfig(
        seq_len=32, strategy=strategy, holdout=0.05, mix=mix, tokens=9000, domain_balance="batch", balance_rows=20,
        shuffle=shuffle,
    )  # fmt: skip
    manifest = pack(tokens, tmp_path / "p", config).manifest
    split = PackedDataset.open(tmp_path / "p").train
    sources = []
    for row in range(split.num_rows):
        here = {piece.source or "-" for piece in locate_row(tmp_path / "p", row)}
        assert len(here) == 1
        sources += here
    balance = manifest.details["balance"]
    assert {name: sources.count(name) for name in mix} == balance["rows"]
    assert balance["tokens"] == split.counts.tokens_by_source
    assert balance["tokens"] == {name: one["tokens"] for name, one in manifest.details["mix"].items()}
    for first in range(len(sources) - 19):
        for name, rows in balance["rows"].items():
            assert abs(sources[first : first + 20].count(name) - 20 * rows / len(sources)) < 1
    assert 0 < balance["largest_deviation"] < 1
    for document in split.documents():
        assert document.tokens.tolist() == DOCUMENTS[int(document.id.split()[1])]
    assert preview(tokens, tmp_path / "q", config)["train"].rows == split.num_rows


def test_a_balance_of_nothing_is_refused_and_of_one_source_is_no_change(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="over no rows"):
        PackConfig(seq_len=8, balance_rows=0)
    with pytest.raises(UsageError, match="no mix"):
        PackConfig(seq_len=8, only="web", domain_balance="batch")
    tokens = token_folder(tmp_path / "tok", DOCUMENTS[:1])
    pack(tokens, tmp_path / "p", PackConfig(seq_len=32, holdout=0, domain_balance="batch"))
    assert PackedDataset.open(tmp_path / "p").train.num_rows == 1
    nothing = token_folder(tmp_path / "nothing", [])
    pack(nothing, tmp_path / "n", PackConfig(seq_len=32, domain_balance="batch"))
    assert PackedDataset.open(tmp_path / "n").train.num_rows == 0
