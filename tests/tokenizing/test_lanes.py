"""Shared memory on the way to the workers: what was lent is what is read, and what does not fit is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptool.tokenizing.lanes import Lane, Lanes
from ptool.tokenizing.run import TokenizeConfig, tokenize


def test_a_lane_gives_back_what_was_lent_and_is_lent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptool.tokenizing.lanes.LANE_BYTES", 4096)
    lanes = Lanes(2)
    first, second = lanes.lend(b"one" * 1000), lanes.lend("天".encode())
    assert first is not None
    assert second is not None
    assert (first.read(), second.read()) == (b"one" * 1000, "天".encode())
    assert lanes.lend(b"no lane is free") is None
    lanes.release(first)
    assert lanes.lend(b"x" * 4097) is None
    again = lanes.lend(b"")
    assert again == Lane(first.number, 0)
    assert again.read() == b""
    assert second.read() == "天".encode()


@pytest.mark.parametrize("size", [1, 3 << 20, 8 << 20])
def test_the_shards_do_not_depend_on_what_goes_through_lanes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    lines = [json.dumps({"text": f"line {number} " * (number % 400), "id": str(number)}) for number in range(9000)]
    lines.insert(5000, json.dumps({"text": "long " * 1_800_000, "id": "long"}))
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(lines) + "\n")
    config = TokenizeConfig(shard_tokens=7_000_000)
    tokenize([source], tmp_path / "alone", Path("bytes"), config)
    monkeypatch.setattr("ptool.tokenizing.lanes.LANE_BYTES", size)
    tokenize([source], tmp_path / "shared", Path("bytes"), config, jobs=2)
    alone, shared = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.name != "run.json"}
        for name in ("alone", "shared")
    )
    assert alone == shared
    assert len(alone) > 10
