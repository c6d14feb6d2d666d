"""Several token folders in one pack: mixed by folder or by source, and told apart in the manifest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ptool.errors import DamagedInput, UsageError
from ptool.formats.packed import PackedDataset
from ptool.packing.config import PackConfig
from ptool.packing.report import length_rows, rows_for_people
from ptool.packing.run import pack, pack_each, preview_each
from tests.packing.test_pack import EOD, token_folder

ONE = [[*range(3, 3 + size % 60), size % 97, EOD] for size in range(300)]
TWO = [[*range(3, 3 + size % 40), size % 97, EOD] for size in range(200)]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [token_folder(tmp_path / "网 页" / "tok", ONE, shards=2), token_folder(tmp_path / "code" / "tok", TWO)]


def test_all_documents_of_all_folders_are_there_with_their_sources(tmp_path: Path, folders: list[Path]) -> None:
    manifest = pack(folders, tmp_path / "p", PackConfig(seq_len=32, holdout=0.1)).manifest
    packed = PackedDataset.open(tmp_path / "p")
    found = [document for split in (packed.train, packed.holdout) for document in split.documents()]
    key = lambda document: (document[0], str(document[1]), document[2])  # noqa: E731
    expected = [
        (f"d {number}", [None, "web", "书"][number % 3], tokens)
        for documents in (ONE, TWO)
        for number, tokens in enumerate(documents)
    ]
    assert sorted(((one.id, one.source, one.tokens.tolist()) for one in found), key=key) == sorted(expected, key=key)
    assert len(manifest.upstream) == 2


def test_a_mix_names_folders_or_sources(tmp_path: Path, folders: list[Path]) -> None:
    mix = {"网 页/tok": 0.25, "code/tok": 0.75}
    config = PackConfig(seq_len=32, holdout=0, mix_by="folder", mix=mix, tokens=8000)
    table = pack(folders, tmp_path / "p", config).manifest.details["mix"]
    for name, share in mix.items():
        assert table[name]["tokens"] == pytest.approx(8000 * share, abs=62)
    by_source = PackConfig(seq_len=32, holdout=0, mix={"web": 0.5, "书": 0.5}, tokens=8000)
    table = pack(folders, tmp_path / "q", by_source).manifest.details["mix"]
    assert table["web"]["tokens"] == pytest.approx(4000, abs=62)
    with pytest.raises(UsageError, match="there are code/tok, 网 页/tok"):
        pack(folders, tmp_path / "r", PackConfig(seq_len=32, mix_by="folder", mix={"web": 1.0}))


def test_folders_that_do_not_belong_together_are_refused(tmp_path: Path, folders: list[Path]) -> None:
    config = PackConfig(seq_len=32)
    other = token_folder(tmp_path / "other", TWO, eod=None)
    with pytest.raises(UsageError, match="different tokenizers or document ends"):
        pack([*folders, other], tmp_path / "p", config)
    with pytest.raises(UsageError, match="given twice"):
        pack([folders[0], folders[0] / "." / "..", folders[0]], tmp_path / "p", config)
    with pytest.raises(UsageError, match="also the input"):
        pack(folders, folders[1], config)
    data = (folders[1] / "shard-00000.bin").read_bytes()
    (folders[1] / "shard-00000.bin").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DamagedInput, match=r"shard-00000\.bin"):
        pack(folders, tmp_path / "p", config)
    assert not (tmp_path / "p").exists()


def test_sources_of_folders_that_have_others_keep_their_names(tmp_path: Path, monkeypatch) -> None:
    first = token_folder(tmp_path / "a", ONE)
    monkeypatch.setattr("tests.packing.test_pack.SOURCES", ["书", "法"])
    second = token_folder(tmp_path / "b", TWO)
    pack([first, second], tmp_path / "p", PackConfig(seq_len=32, holdout=0))
    counted: dict[str, int] = {}
    for documents, names in ((ONE, ["-", "web", "书"]), (TWO, ["-", "书", "法"])):
        for number, tokens in enumerate(documents):
            counted[names[number % 3]] = counted.get(names[number % 3], 0) + len(tokens)
    assert PackedDataset.open(tmp_path / "p").train.counts.tokens_by_source == counted


@pytest.mark.parametrize("by", ["source", "folder"])
def test_a_preview_of_a_split_has_the_numbers_of_the_real_thing(tmp_path: Path, folders: list[Path], by) -> None:
    config = PackConfig(seq_len=32, holdout=0.1, mix_by=by)
    seen = preview_each(folders, tmp_path / "p", config)
    assert not (tmp_path / "p").exists()
    made = pack_each(folders, tmp_path / "p", config)
    assert list(seen) == list(made) == (["-", "web", "书"] if by == "source" else ["网 页/tok", "code/tok"])
    for name, report in made.items():
        split = PackedDataset.open(report.output).train
        assert (seen[name]["train"].rows, seen[name]["train"].tokens) == (split.num_rows, split.num_tokens)


def test_the_command_mixes_folders_and_shows_a_row(tmp_path: Path) -> None:
    texts = {"a a": "the quick brown fox", "乙": "天地玄黃宇宙洪荒"}
    for name, text in texts.items():
        (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": f"{text} {n}"}) + "\n" for n in range(50)))
        ptool(tmp_path, "tokenize", "in.jsonl", "--tokenizer", "bytes", "-o", name)
    arguments = ("pack", *texts, "--seq-len", "100", "--holdout", "0%")
    planned = ptool(tmp_path, *arguments, "--split-by", "folder", "--dry-run", "-o", "none")
    assert "乙 train" in planned.stderr
    assert not (tmp_path / "none").exists()
    arguments = (*arguments, "--mix", "a a=3,乙=1", "--tokens", "2k")
    made = ptool(tmp_path, *arguments, "--domain-balance", "batch", "--balance-rows", "4", "-o", "p", "--inspect", "0")
    assert "weights sum to 4" in made.stderr
    assert "any 4 rows are at most" in made.stderr
    assert "fox" in made.stderr or "玄" in made.stderr
    details = json.loads(made.stdout)["manifest"]["details"]
    assert list(details["balance"]["tokens"]) == ["a a", "乙"]
    assert details["mix"]["a a"]["share"] == pytest.approx(0.75, abs=0.02)
    for wrong, hint in (
        (("--mix", "a=1"), "there are a a, 乙"),
        (("--split-by", "folder", "--inspect", "1"), "ptool locate"),
        (("--domain-balance", "bath"), "batch"),
        (("--inspect", "4000"), "rows 0 to"),
    ):
        failed = ptool(tmp_path, *arguments, *wrong, "-o", "q", code=2)
        assert hint in failed.stderr


def test_the_report_has_the_sources_by_the_length_of_their_documents(tmp_path: Path, folders: list[Path]) -> None:
    rows = dict(length_rows({"web": {"under 8": 30, "8 and more": 10}, "书": {"under 8": 0, "8 and more": 40}}))
    assert rows == {
        "sources": "web 50.0%, 书 50.0%",
        "in texts under 8": "web 100.0%",
        "in texts 8 and more": "web 20.0%, 书 80.0%",
    }
    assert next(iter(dict(length_rows({f"s{n}": {"all": 1} for n in range(9)})).values())).endswith("s5 11.1%, 3 more")
    assert length_rows({"web": {"all": 1}}) == []
    manifest = pack(folders, tmp_path / "p", PackConfig(seq_len=32)).manifest
    assert "sources" in dict(rows_for_people(manifest))


def ptool(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "ptool", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    return done
