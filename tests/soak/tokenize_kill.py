"""`ptool tokenize` killed at random moments until it is through: `python tests/soak/tokenize_kill.py --seed 1`.

The run goes over the corpus of PTOOL_SHARED in small shards and is killed (SIGKILL, SIGTERM or SIGINT, by turns) after
a random time, again and again. At no moment may the folder be an artefact before it is whole; in the end its bytes must
be those of a run that nobody stopped. Prints how often it was killed and how much of each start was gone on from.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ptool.formats.artefacts import open_artefact
from ptool.units import parse_count

SHARED = Path(os.environ.get("PTOOL_SHARED", Path(__file__).parents[2] / ".." / "shared"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=parse_count, default=0)
    parser.add_argument("--rounds", type=parse_count, default=3)
    parser.add_argument("--tokenizer", default="bytes")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    corpus = sorted((SHARED / "data" / "corpus").glob("*.jsonl.zst"))
    inputs = [*map(str, corpus), "--tokenizer", arguments.tokenizer, "--max-shard-tokens", "5M", "--group-key", "lang"]
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        started = time.monotonic()
        subprocess.run([*command(inputs), "-o", work / "unbroken"], check=True, capture_output=True)
        whole = time.monotonic() - started
        expected = contents(work / "unbroken")
        for turn in range(arguments.rounds):
            folder, kills, kept = work / f"round {turn}", 0, []
            while True:
                process = subprocess.Popen(
                    [*command(inputs), "-o", folder], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                )
                # Longer from time to time, so that the run gets through in the end.
                try:
                    said = process.communicate(timeout=draw.uniform(0.2, 0.7 + 0.1 * kills) * whole)[1].decode()
                    wrong += process.returncode != 0
                    break
                except subprocess.TimeoutExpired:
                    wrong += (folder / "manifest.json").exists()
                    process.send_signal(SIGNALS[kills % 3])
                    said = process.communicate()[1].decode()
                kills += 1
                kept.append(len(list(folder.glob("shard-*.done"))))
            open_artefact(folder, stage="tokenize", verify=True)
            same = contents(folder) == expected
            wrong += not same
            print(
                f"round {turn}: {kills} kills, complete shards after each {kept}, "
                f"the same bytes: {same}; {said.strip()}"
            )
    print(f"{wrong} differences")
    return 1 if wrong else 0


def command(inputs: list[str]) -> list[str]:
    return [sys.executable, "-m", "ptool", "tokenize", *inputs, "--jobs", "2", "--no-progress"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


if __name__ == "__main__":
    sys.exit(main())
