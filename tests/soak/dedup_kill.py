"""Deduplication by files, killed by `kill -9` at random moments until it ends: python -m tests.soak.dedup_kill --seed 1

Each round starts the command on the same shards, kills it (and its workers with it) after a random time, starts it
again, and so on; the last attempt is left alone. What it writes must be the bytes that one undisturbed pass through a
pipe writes, nothing may stand under the output's name before, and nothing may be left in the temporary folders. The
last line counts where the kills fell. A disk that is full (a small tmpfs is needed for it, so root) is one line, exit 1
and nothing half-written.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.dedup import synthetic_texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kills", type=int, default=6, help="at most, in a round")
    parser.add_argument("--documents", type=int, default=40_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dedup kill ") as name:
        folder = Path(name)
        inputs = write_shards(folder, given.documents, given.seed)
        expected = undisturbed(folder, inputs)
        began = time.monotonic()
        attempt(folder, inputs, None)
        longest = time.monotonic() - began
        check(folder, expected)
        fell: collections.Counter[str] = collections.Counter()
        chance = random.Random(given.seed)
        for number in range(1, given.rounds + 1):
            kills = 0
            while kills < given.kills and attempt(folder, inputs, Moment.drawn(chance, longest)):
                fell[stage_of(folder)] += 1
                kills += 1
            if not (folder / "out.jsonl.zst").exists():
                attempt(folder, inputs, None)
            check(folder, expected)
            print(f"round {number}: {kills} kills, the same {len(expected):,} bytes", flush=True)
        print("kills fell while: " + ", ".join(f"{stage} {count}" for stage, count in sorted(fell.items())))
        starve(folder, inputs)


class Moment(NamedTuple):
    """`seconds` after the run's files have got as far as `stage`."""

    stage: str
    seconds: float

    @classmethod
    def drawn(cls, chance: random.Random, longest: float) -> Moment:
        """Half of the kills at any moment of the run, half soon after the files have got somewhere."""
        if chance.random() < 0.5:
            return cls("0", chance.uniform(0.05, 1.0) * longest)
        return cls(chance.choice("1234"), chance.uniform(0.0, 0.1) * longest)


def write_shards(folder: Path, count: int, seed: int) -> list[str]:
    paths = []
    texts = list(synthetic_texts(count, seed))
    for position in range(4):
        path = folder / f"part-{position}.jsonl"
        part = texts[position::4]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part), encoding="utf-8")
        paths.append(str(path))
    return paths


def command(folder: Path, inputs: list[str], *options: str) -> list[str]:
    return [sys.executable, "-m", "ptool", "dedup", *inputs, "-q", "--tmp-dir", str(folder / "tmp"), *options]


def undisturbed(folder: Path, inputs: list[str]) -> bytes:
    (folder / "tmp").mkdir()
    return subprocess.run(command(folder, inputs), check=True, stdout=subprocess.PIPE).stdout


def attempt(folder: Path, inputs: list[str], moment: Moment | None) -> bool:
    """Run by files; whether it was killed, at `moment`, before its output stood."""
    out = folder / "out.jsonl.zst"
    options = ["--plan", "files", "--partitions", "3", "--jobs", "2", "-o", str(out)]
    process = subprocess.Popen(command(folder, inputs, *options), start_new_session=True)
    deadline: float | None = None
    while process.poll() is None:
        if moment is not None and deadline is None and stage_of(folder) >= moment.stage:
            deadline = time.monotonic() + moment.seconds
        if deadline is not None and time.monotonic() >= deadline:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return not out.exists()
        time.sleep(0.002)
    assert process.returncode == 0, process.returncode
    return False


def stage_of(folder: Path) -> str:
    """How far the files of the killed run had got."""
    work = folder / "out.jsonl.zst.dedup-work"
    names = [path.name for path in work.iterdir()] if work.is_dir() else []
    if "decided" in names:
        return "4 writing"
    if any(name.startswith("shared") for name in names):
        return "3 deciding"
    if sum(name.startswith("described") for name in names) == 4:
        return "2 sharing"
    return "1 describing" if names else "0 starting"


def check(folder: Path, expected: bytes) -> None:
    out = folder / "out.jsonl.zst"
    assert out.read_bytes() == expected, "other bytes than an undisturbed stream"
    out.unlink()
    (folder / "out.jsonl.zst.run.json").unlink(missing_ok=True)
    left = sorted(path.name for path in folder.iterdir() if not path.name.startswith("part-"))
    work = folder / "out.jsonl.zst.dedup-work"
    if work.exists():  # killed after the output stood: the next run would have nothing to do but remove it
        left.remove(work.name)
        subprocess.run(["rm", "-r", str(work)], check=True)
    assert [name for name in left if not name.endswith(".part")] == ["tmp"], left
    assert list((folder / "tmp").iterdir()) == []


def starve(folder: Path, inputs: list[str]) -> None:
    """The same on a disk that is too small for the descriptions, for the spool, or for the output."""
    small = folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        print("a full disk: not tried, no right to mount a small one")
        return
    try:
        cases = {
            "descriptions": ["--plan", "files", "-o", str(folder / "o.zst"), "--workdir", str(small / "work")],
            "spool": ["--tmp-dir", str(small), "-o", str(folder / "o.zst")],
            "output": ["-o", str(small / "o.zst")],
        }
        for name, options in cases.items():
            done = subprocess.run(command(folder, inputs, *options), capture_output=True, text=True)
            lines = done.stderr.strip().splitlines()
            assert done.returncode == 1, (name, done)
            assert [line.startswith("  hint: ") for line in lines] == [False, True], lines
            assert "no space left" in lines[0], lines
            assert not (folder / "o.zst").exists()
            assert not (small / "o.zst").exists()
            print(f"a disk too small for the {name}: exit 1, {lines[0].rpartition(': ')[2]}")
            subprocess.run(["find", str(small), "-mindepth", "1", "-delete"], check=True)
    finally:
        subprocess.run(["umount", str(small)], check=True)


if __name__ == "__main__":
    main()
