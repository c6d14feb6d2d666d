"""The main job: documents go in at one end of a shell pipe, a trained and evaluated model comes out at the other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TRAIN = (
    "--max-steps 8 --checkpoint-every 3 --zero 1 --ranks 2 --set model.layers=2 --set model.hidden=64"
    " --set model.heads=2 --set batch.tokens=1024 --set optimizer.peak_lr=1e-3 --set parallel.precision=fp32"
)


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def shell(command: str, folder: Path) -> str:
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, f"$ {command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of an artefact, as its manifest lists them."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return {entry["path"]: entry["digest"] for entry in manifest["files"]}


def without_paths(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with documents, a tokenizer, and the pipe of the README run once."""
    if shutil.which("ptool", path=environment()["PATH"]) is None:
        pytest.skip("the ptool command is not installed beside this Python")
    folder = tmp_path_factory.mktemp("a journey 文")
    shell("ptool demo --corpus > docs.jsonl", folder)
    lines = (folder / "docs.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "a.jsonl").write_bytes(b"".join(lines[:3000]))
    (folder / "b.jsonl").write_bytes(b"".join(lines[3000:6000]))
    shell("ptool filter a.jsonl b.jsonl -q | ptool train-tokenizer --vocab-size 1024 -o tok.model -q", folder)
    score = shell(
        "ptool filter a.jsonl b.jsonl --rejects dropped.zst | ptool dedup"
        " | ptool tokenize --tokenizer tok.model -o tok/"
        f" | ptool pack --seq-len 128 --holdout 3% -o packed/ | ptool train {TRAIN} -o runs/a | ptool eval --json",
        folder,
    )
    (folder / "eval.json").write_text(score)
    return folder


def test_the_pipe_ends_in_an_evaluated_model(journey: Path) -> None:
    score = json.loads((journey / "eval.json").read_text())
    assert 0 < score["total"]["bits_per_byte"] < 8
    assert score["total"]["num_tokens"] > 1000
    run = without_paths(journey / "runs" / "a")
    chain = []
    while run:
        chain.append(run["stage"])
        run = run["upstream"][0] if run.get("upstream") else {}
    assert chain == ["train", "pack", "tokenize", "dedup", "filter"]


def test_the_same_through_files_has_the_same_digests(journey: Path) -> None:
    for command in (
        "ptool filter a.jsonl b.jsonl -o filtered.jsonl.zst --jobs 2",
        "ptool dedup filtered.jsonl.zst -o clean.jsonl.zst --jobs 2",
        "ptool tokenize clean.jsonl.zst --tokenizer tok.model -o tok2/ --jobs 2 > tok2.line",
        "ptool pack tok2/manifest.json --seq-len 128 --holdout 3% -o packed2/ > packed2.line",
    ):
        shell(command, journey)
    for name in ("tok", "packed"):
        assert digests(journey / name) == digests(journey / f"{name}2")
        assert without_paths(journey / name) == without_paths(journey / f"{name}2")


def test_running_the_whole_pipe_again_finds_everything_up_to_date(journey: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in journey.glob("*/manifest.json")}
    again = shell(
        "ptool filter a.jsonl b.jsonl -q | ptool dedup -q | ptool tokenize --tokenizer tok.model -o tok/"
        f" | ptool pack --seq-len 128 --holdout 3% -o packed/ | ptool train {TRAIN} -o runs/a | ptool eval --json",
        journey,
    )
    assert json.loads(again) == json.loads((journey / "eval.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in journey.glob("*/manifest.json") if path in before} == before


def test_a_stage_that_fails_fails_the_pipe_behind_it(journey: Path) -> None:
    command = (
        "(head -c 300000 docs.jsonl; echo broken) | ptool filter -q | ptool dedup -q"
        " | ptool tokenize --tokenizer tok.model -o bad/ | ptool pack --seq-len 128 -o worse/"
    )
    done = subprocess.run(["sh", "-c", command], cwd=journey, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert "stdin:" in done.stderr
    assert done.stderr.count("upstream") >= 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not (journey / "bad").exists()
    assert not (journey / "worse").exists()


def test_a_foreign_tool_in_the_pipe_is_welcome(journey: Path) -> None:
    shell('ptool filter a.jsonl --compress none -q | grep -v \'"source":"PIL"\' | ptool dedup -o foreign.zst', journey)
    assert (journey / "foreign.zst").stat().st_size > 0
