"""Nothing is lost: read = kept + dropped + rejected for every stage, and the same bytes for any number of jobs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ptool.formats.manifests import Manifest
from ptool.formats.stages import read_manifest
from ptool.formats.streams import StreamReader

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "that",
    "have",
    "with",
    "be",
    "house",
    "garden",
    "water",
    "light",
    "文",
    "學",
    "страна",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 MB (several batches) of good, short, repeated, broken and idless lines."""
    chance = random.Random(5)
    path = tmp_path_factory.mktemp("corpus") / "web pages.jsonl"
    texts: list[str] = []
    with path.open("wb") as file:
        for number in range(9000):
            kind = chance.random()
            if kind < 0.1 and texts:
                text = chance.choice(texts)
            elif kind < 0.2 and texts:
                text = chance.choice(texts) + " changed"
            elif kind < 0.3:
                text = "short"
            else:
                text = " ".join(chance.choices(WORDS, k=chance.randrange(60, 400)))
                texts.append(text)
            document = {"id": f"d{number % 100}", "text": text, "source": f"s{number % 3}", "n": number}
            if number % 7 == 0:
                del document["id"]
            line = json.dumps(document, ensure_ascii=number % 2 == 0).encode()
            if number % 50 == 49:
                line = chance.choice([line[:-3], b"[1,2]", b'{"id":"no text"}', b'{"text":"\xff\xfe"}', b'{"text":3}'])
            file.write(line + b"\n")
    return path


def run(tmp_path: Path, stage: list[str], corpus: Path, jobs: int) -> tuple[Manifest, bytes, list[bytes]]:
    output, rejects = tmp_path / f"out{jobs}.zst", tmp_path / f"rejects{jobs}.zst"
    options = ["--rejects", str(rejects), "--on-error", "reject", "--max-errors", "1000", "--jobs", str(jobs), "-q"]
    command = [sys.executable, "-m", "ptool", *stage, str(corpus), "-o", str(output), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(output)
    assert manifest is not None
    lines = [line for lines in StreamReader([rejects]) for line in lines.data.splitlines(keepends=True)]
    return manifest, output.read_bytes(), lines


@pytest.mark.parametrize("stage", [["filter", "--preset", "gopher-quality"], ["dedup"], ["dedup", "--mode", "exact"]])
def test_every_line_is_kept_dropped_or_rejected_whatever_the_jobs(
    tmp_path: Path, corpus: Path, stage: list[str]
) -> None:
    manifest, written, rejects = run(tmp_path, stage, corpus, 1)
    counts = manifest.counts
    assert counts is not None
    assert counts.read == 9000
    assert counts.rejected == 180
    assert counts.kept > 1000
    assert counts.dropped > 500
    assert len(rejects) == counts.dropped + counts.rejected
    kept = [line for lines in StreamReader([tmp_path / "out1.zst"]) for line in lines.data.splitlines(keepends=True)]
    assert len(kept) == counts.kept

    source = set(corpus.read_bytes().splitlines(keepends=True))
    numbers = {json.loads(line)["n"] for line in kept} | {
        json.loads(line)["n"] for line in rejects if "raw" not in line.decode() and b'"n"' in line
    }
    assert len(numbers) == 9000 - counts.rejected
    untouched = [line for line in kept if line in source]
    assert len(untouched) == sum(not json.loads(line)["id"].startswith("web pages") for line in kept)

    again, rewritten, other_rejects = run(tmp_path, stage, corpus, 3)
    assert again == manifest
    assert rewritten == written
    assert other_rejects == rejects


def test_a_run_without_leave_to_reject_stops_at_the_first_bad_line(tmp_path: Path, corpus: Path) -> None:
    command = [sys.executable, "-m", "ptool", "filter", str(corpus), "-o", str(tmp_path / "out.zst")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "web pages.jsonl:50:" in done.stderr
    assert not (tmp_path / "out.zst").exists()


def test_more_rejected_lines_than_allowed_are_exit_code_3(tmp_path: Path, corpus: Path) -> None:
    options = ["--on-error", "reject", "--max-errors", "179", "-o", str(tmp_path / "out.zst")]
    done = subprocess.run(
        [sys.executable, "-m", "ptool", "dedup", str(corpus), *options], capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "out.zst").exists()
