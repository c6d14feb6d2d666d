"""A saved index stands for the documents it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ptool.dedup.config import DedupConfig
from ptool.dedup.files import FilesPlan
from ptool.dedup.run import Deduplication, dedup_stream
from ptool.errors import DamagedInput, InputError, UsageError
from ptool.formats.ledger import ErrorPolicy
from ptool.formats.stages import StreamOptions
from ptool.formats.streams import StreamReader
from tests.dedup.reference import mutated_texts

TEXTS = ["", "short", *mutated_texts(23, num_families=50, copies=6), "", "short", " "]


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def lines_of(path: Path) -> list[bytes]:
    return [line for lines in StreamReader([path], allow_empty=True) for line in lines.data.splitlines()]


def work(config: dict[str, Any], rejects: Path | None = None, **given: Any) -> Deduplication:
    options = StreamOptions(policy=ErrorPolicy(rejects=rejects))
    return Deduplication(config=DedupConfig(**config), options=options, **given)


@pytest.mark.parametrize(
    "config", [{}, {"mode": "exact"}, {"verify": "signature"}, {"max_bucket": 2, "threshold": 0.5}], ids=str
)
def test_three_crawls_one_after_another_keep_what_one_run_over_all_keeps(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    crawls = [write(tmp_path / f"{name}.jsonl", TEXTS[start::3]) for start, name in enumerate("abc")]
    dedup_stream(work(config, tmp_path / "all.rej"), crawls, tmp_path / "all.jsonl")
    index: Path | None = None
    kept, dropped = [], []
    for crawl in crawls:
        saved, out, rejects = (tmp_path / f"{crawl.stem}.{suffix}" for suffix in ("index", "out", "rej.jsonl"))
        dedup_stream(work(config, rejects, against=index, save_index=saved), [crawl], out)
        kept += lines_of(out)
        dropped += [json.loads(line)["ptool"] for line in lines_of(rejects)]
        index = saved
    assert kept == lines_of(tmp_path / "all.jsonl")
    assert dropped == [json.loads(line)["ptool"] for line in lines_of(tmp_path / "all.rej")]  # twins by name as well
    dedup_stream(work(config, save_index=tmp_path / "all.index"), crawls, tmp_path / "again.jsonl")
    assert index is not None
    assert (tmp_path / "all.index").read_bytes() == index.read_bytes()


def test_the_manifest_names_the_index_and_another_one_is_other_work(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ["a", "b"])
    for name, texts in (("x", ["a"]), ("y", ["b"])):
        other = write(tmp_path / f"{name}.jsonl", texts)
        dedup_stream(work({}, save_index=tmp_path / name), [other], tmp_path / f"{name}.out")
    report = dedup_stream(work({}, against=tmp_path / "x"), [source], tmp_path / "out.jsonl.zst")
    assert report.manifest.config["against"].startswith("xxh3-128:")
    assert dedup_stream(work({}, against=tmp_path / "x"), [source], tmp_path / "out.jsonl.zst").up_to_date
    with pytest.raises(UsageError, match="made otherwise"):
        dedup_stream(work({}, against=tmp_path / "y"), [source], tmp_path / "out.jsonl.zst")


def test_other_parameters_and_other_files_are_refused(tmp_path: Path) -> None:
    source, index = write(tmp_path / "in.jsonl", TEXTS), tmp_path / "index"
    dedup_stream(work({}, save_index=index), [source], tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match="ngram 5 there, 7 here"):
        dedup_stream(work({"ngram": 7}, against=index), [source], tmp_path / "b.jsonl")
    with pytest.raises(InputError, match="absent"):
        dedup_stream(work({}, against=tmp_path / "absent"), [source], tmp_path / "b.jsonl")
    with pytest.raises(DamagedInput, match="no index of ptool dedup") as raised:
        dedup_stream(work({}, against=source), [source], tmp_path / "b.jsonl")
    assert "remove" not in str(raised.value)  # it is the documents
    index.write_bytes(index.read_bytes()[:-100])
    with pytest.raises(DamagedInput, match="columns"):
        dedup_stream(work({}, against=index), [source], tmp_path / "b.jsonl")
    with pytest.raises(UsageError, match="one pass"):
        dedup_stream(work({}, against=index), [source], tmp_path / "b.jsonl", files=FilesPlan())
    assert not (tmp_path / "b.jsonl").exists()


def test_an_output_without_the_index_asked_for_is_said(tmp_path: Path) -> None:
    source, index = write(tmp_path / "in.jsonl", TEXTS), tmp_path / "index"
    dedup_stream(work({}), [source], tmp_path / "out.jsonl.zst")
    with pytest.raises(UsageError, match="the index is not"):
        dedup_stream(work({}, save_index=index), [source], tmp_path / "out.jsonl.zst")
