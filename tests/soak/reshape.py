"""Every number of ranks and ZeRO stage, gone on from by every other: weights, moments and next losses.

    python -m tests.soak.reshape --seed 1 [--ranks 1,2,4] [--precision fp32,bf16] [--optimizer adamw]

An engine of each layout takes three steps, writes its state, and takes a fourth. An engine of each layout then reads
the state of each of them in turn, writes it again, and takes the fourth step. The state must come out as it went in, to
the bit, and the loss of the step after must be that of the writer: to the bit where the layout is the same, to 1e-6
relative in fp32 (2e-3 in 16 bits, whose weights are rounded) where it is another. Optimisers that need whole tensors
(muon, adafactor, lamb) are tried at stage 0. One row of the table is one reader. Ends with 1 if anything differs.

Four minutes for twelve layouts on two idle cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.training.test_reshaping import engine, everything  # found through the line above

TOLERANCE = {"fp32": 1e-6, "bf16": 2e-3, "fp16": 2e-3}
Layout = tuple[int, int]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--stages", default="0,1,2,3")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--optimizer", default="adamw")
    chosen = parser.parse_args()
    layouts = list(product(map(int, chosen.ranks.split(",")), map(int, chosen.stages.split(","))))
    failed = 0
    for precision in chosen.precision.split(","):
        with tempfile.TemporaryDirectory(prefix="ptool-soak-") as name:
            failed += table(Path(name), layouts, chosen.seed, precision, chosen.optimizer)
    print("all as it should be" if not failed else f"{failed} differ")
    return 1 if failed else 0


def table(base: Path, layouts: list[Layout], seed: int, precision: str, optimizer: str) -> int:
    settings = {"precision": precision, "optimizer": optimizer}
    losses: dict[Layout, float] = {}
    for ranks, zero in layouts:
        do = [["at", 10 * seed], ["step", 3], ["write", str(base / f"{ranks}-{zero}")], ["step", 1]]
        losses[ranks, zero] = engine(ranks, zero, do, **settings)[-1]
    failed = 0
    print(f"{precision}, {optimizer}")
    print(f"{'reader':<14}{'readings':>9}  states equal  same bits at home  largest difference")
    for ranks, zero in layouts:
        do = []
        for source in layouts:
            written = str(base / f"{source[0]}-{source[1]}")
            again = str(base / f"{source[0]}-{source[1]}-at-{ranks}-{zero}")
            do += [["read", written], ["write", again], ["at", 10 * seed + 3], ["step", 1]]
        found = engine(ranks, zero, do, seed=9, **settings)
        states = [same_state(base, source, (ranks, zero)) for source in layouts]
        off = {source: abs(loss / losses[source] - 1) for source, loss in zip(layouts, found, strict=True)}
        at_home = off[ranks, zero] == 0
        largest = max(off.values())
        good = all(states) and at_home and largest <= TOLERANCE[precision]
        failed += not good
        words = f"{all(states)!s:>12}  {at_home!s:>17}  {largest:>18.1e}"
        print(f"{ranks} at stage {zero:<4}{len(found):>9}  {words}", flush=True)
    return failed


def same_state(base: Path, source: Layout, reader: Layout) -> bool:
    before = everything(base / f"{source[0]}-{source[1]}")
    after = everything(base / f"{source[0]}-{source[1]}-at-{reader[0]}-{reader[1]}")
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


if __name__ == "__main__":
    sys.exit(main())
