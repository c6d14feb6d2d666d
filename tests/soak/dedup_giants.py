"""What breaks deduplication elsewhere, timed: python -m tests.soak.dedup_giants --seed 1

A boilerplate that most documents share, documents that are all equal, empty ones, ones shorter than a shingle, and two
of 50 MB. Each input goes through the command as a stream and by files; both must write the same bytes, every document
read must be kept or dropped, and the time for twice as many documents is printed beside that for half of them: twice,
not four times.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.benchmarks.dedup import measure_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--documents", type=int, default=100_000)
    given = parser.parse_args()
    generator = np.random.default_rng(given.seed)
    shared = " ".join(f"b{number}" for number in generator.integers(0, 10**6, 300))

    def boilerplate() -> str:
        """A third of its shingles are its own: similar enough to meet in bands, too different to be dropped."""
        return shared + " " + " ".join(f"o{number}" for number in generator.integers(0, 10**9, 90))

    cases: dict[str, Callable[[], str]] = {
        "boilerplate": boilerplate,
        "all equal": lambda: shared,
        "empty": lambda: "",
        "shorter than a shingle": lambda: f"only {generator.integers(0, 1000)} words",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case, text in cases.items():
            seconds = []
            for count in (given.documents // 2, given.documents):
                write(folder / "in.jsonl", (text() for _ in range(count)))
                took, said = measure_command(folder, "in.jsonl", [])
                seconds.append(took)
            check_same(folder, given.documents)
            print(f"{case}: {given.documents:,} documents: {said}; half of them {seconds[0]:.1f} s", flush=True)
        words = generator.integers(0, 10**6, 7_000_000).astype(str)
        texts = [" ".join(words), " ".join([*words[:-1000], "and", "an", "end"])]
        write(folder / "in.jsonl", iter(texts))
        _, said = measure_command(folder, "in.jsonl", [])
        check_same(folder, 2)
        print(f"two of {len(texts[0]) / 1e6:.0f} MB: {said}")


def write(path: Path, texts: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def check_same(folder: Path, num_documents: int) -> None:
    outputs = []
    for number, plan in enumerate(("stream", "files")):
        out = folder / f"{number}.jsonl.zst"
        command = [sys.executable, "-m", "ptool", "dedup", str(folder / "in.jsonl"), "--plan", plan, "--json"]
        done = subprocess.run([*command, "-q", "-o", str(out)], check=True, capture_output=True)
        counts = json.loads(done.stdout)["counts"]
        assert counts["read"] == num_documents == counts["kept"] + counts["dropped"]
        outputs.append(out.read_bytes())
        out.unlink()
    assert outputs[0] == outputs[1]


if __name__ == "__main__":
    main()
