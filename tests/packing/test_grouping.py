"""Documents that share a field stand side by side, and stay documents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import UsageError
from ptool.formats.packed import PackedDataset
from ptool.packing.config import PackConfig
from ptool.packing.grouping import NO_KEY, group, plan_groups
from ptool.packing.locating import locate_row
from ptool.packing.plan import plan_rows
from ptool.packing.run import pack
from ptool.tokenizing.run import TokenizeConfig, tokenize
from tests.packing.test_pack import EOD, token_folder


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=40))
def test_groups_stand_where_their_first_document_stood(drawn: list[tuple[int, int]]) -> None:
    documents = np.array([number for number, _ in drawn], dtype=np.int64)
    keys = np.array([(number * 7) % 4 for number in range(10)], dtype=np.uint64)
    order, sizes = group(documents, keys)
    assert sorted(order.tolist()) == list(range(len(documents)))
    groups: dict[object, list[int]] = {}
    seen: dict[int, int] = {}
    for place, number in enumerate(documents.tolist()):
        repeat, seen[number] = seen.get(number, 0), seen.get(number, 0) + 1
        groups.setdefault(("alone", place) if keys[number] == NO_KEY else (int(keys[number]), repeat), []).append(place)
    expected = [sorted(places, key=lambda place: documents[place]) for places in groups.values()]
    assert sizes.tolist() == [len(places) for places in expected]
    assert order.tolist() == [place for places in expected for place in places]


@pytest.mark.parametrize("strategy", ["concat", "best-fit", "pad"])
@settings(max_examples=150)
@given(
    drawn=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=5), max_size=12),
    seq_len=st.integers(2, 24),
)
def test_a_group_takes_the_rows_of_one_long_document(strategy, drawn, seq_len) -> None:
    lengths = np.array([length for part in drawn for length in part], dtype=np.int64)
    sizes = np.array([len(part) for part in drawn], dtype=np.int64)
    plan = plan_groups(lengths, sizes, seq_len, strategy)
    whole = plan_rows(np.array([sum(part) for part in drawn], dtype=np.int64), seq_len, strategy)
    starts = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(sizes)), sizes)
    group_starts = starts[np.cumsum(sizes) - sizes] if len(sizes) else starts

    def cells(plan, start_of, owner_of):
        rows = np.repeat(np.arange(len(plan.counts)), plan.counts)
        return sorted(
            (int(row), int(span["start"]) + at, owner_of(int(span["document"])), start_of(span) + at)
            for row, span in zip(rows, plan.spans, strict=True)
            for at in range(int(span["length"]))
        )

    ours = cells(plan, lambda s: int(starts[s["document"]] + s["offset"]), lambda d: int(owner[d]))
    assert ours == cells(whole, lambda s: int(group_starts[s["document"]] + s["offset"]), lambda d: d)
    assert (plan.spans["length"] > 0).all()
    assert np.bincount(plan.spans["document"], plan.spans["length"], len(lengths)).tolist() == lengths.tolist()


@pytest.mark.parametrize("strategy", ["concat", "best-fit"])
def test_files_of_a_repository_lie_in_one_row(tmp_path: Path, strategy) -> None:
    lines = [
        {"id": f"{repo}/{file}", "text": f"{repo} {file} " * 3, "source": "code", "meta": {"repo": repo}}
        for file in range(4)
        for repo in ("甲", "b", "c c")
    ] + [{"id": "alone", "text": "alone"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenize([tmp_path / "in.jsonl"], tmp_path / "tok", Path("bytes"), TokenizeConfig(group_keys=("meta.repo",)))
    config = {"seq_len": 150, "strategy": strategy, "holdout": 0.0}
    for shuffle in (False, True):
        pack(tmp_path / "tok", tmp_path / "p", PackConfig(**config, group_by="meta.repo", shuffle=shuffle), force=True)
        opened = PackedDataset.open(tmp_path / "p").train
        assert sorted(document.id for document in opened.documents()) == sorted(line["id"] for line in lines)
        rows = [[piece.id for piece in locate_row(tmp_path / "p", row)] for row in range(opened.num_rows)]
        flat = list(dict.fromkeys(name for row in rows for name in row))
        for repo in ("甲", "b", "c c"):
            first = flat.index(f"{repo}/0")
            assert flat[first : first + 4] == [f"{repo}/{file}" for file in range(4)]
        if strategy == "best-fit":
            assert all(
                sum(name.startswith(f"{repo}/") for name in row) in (0, 4) for row in rows for repo in ("甲", "b")
            )
    pack(tmp_path / "tok", tmp_path / "source", PackConfig(**config, group_by="source"))
    with pytest.raises(UsageError, match=r"source, meta\.repo") as found:
        pack(tmp_path / "tok", tmp_path / "q", PackConfig(**config, group_by="repo"))
    assert found.value.hint == "ptool tokenize --group-key repo keeps it"


def test_a_balance_keeps_groups_inside_their_folder(tmp_path: Path) -> None:
    folders = [
        token_folder(tmp_path / str(number), [[*range(first, first + size % 20), EOD] for size in range(200)])
        for number, first in enumerate((3, 50))
    ]
    config = PackConfig(
        seq_len=32, holdout=0, mix_by="folder", group_by="source", domain_balance="batch", balance_rows=8
    )
    manifest = pack(folders, tmp_path / "p", config).manifest
    split = PackedDataset.open(tmp_path / "p").train
    rows = split.rows(range(split.num_rows))
    for tokens, segments in zip(rows.tokens, rows.segments, strict=True):
        words = tokens[(segments >= 0) & (tokens != EOD)]
        assert (words < 50).all() or (words >= 50).all()
    assert sum(document.tokens.size for document in split.documents()) == split.num_tokens == manifest.num_tokens
