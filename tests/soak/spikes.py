"""Twenty spikes of five kinds injected into small runs, and five clean runs of 2,000 steps without a false alarm.

    python tests/soak/spikes.py --seed 1 [--kinds targets lr broken-rank slow outlier] [--clean 5]

Each kind is injected at four places drawn by the seed, in runs of one rank and 400 steps:

    targets      four bad batches in a row     skipped twice, then rolled back; the rest of them is left out
    lr           one step at 300 times the rate: the loss jumps after it; rolled back to before it
    broken-rank  one batch without a number    skipped
    slow         24 batches that get worse     left out in the end, by skips or rollbacks
    outlier      one raised loss               never rolled back

and after it the run must have learnt as well as a clean one: the mean loss of its last 50 steps at most 5 % higher.
About eight minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.training import tiny  # found through the line above

STEPS, CLEAN_STEPS, PLACES = 400, 2000, 4
MODEL = tiny.CONFIG.replace("3e-3", "1e-2").replace("micro_rows = 2", "micro_rows = 8") + (
    "[schedule]\nwarmup_steps = 20\n[checkpoint]\nevery_steps = 100\nanchor_steps = 20\n"
    "[spike]\nback_off = 20\nramp_steps = 40\n[metrics]\ntensorboard = false\n"
)
BATCHES = {"targets": 4, "lr": 1, "broken-rank": 1, "slow": 24, "outlier": 1}
WORST = 1.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--kinds", nargs="*", default=list(BATCHES), choices=list(BATCHES))
    parser.add_argument("--clean", type=int, default=5)
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="ptool-soak-") as name:
        base = Path(name)
        (base / "run.toml").write_text(MODEL)
        tiny.make_packed(base / "packed", count=2000)
        _, clean, _ = train(base, "reference", STEPS, seed=0)
        print(f"{'kind':<12} {'batch':>5} {'s':>4}  {'loss':>6}  {'of clean':>8}  decisions")
        for kind in chosen.kinds:
            for _ in range(PLACES):
                at = rng.randrange(150, 300)
                faults = [f"kind={kind}", f"bad_batch_at={at}", f"bad_batches={BATCHES[kind]}"]
                seconds, loss, actions = train(base, f"{kind}-{at}-{rng.random()}", STEPS, seed=0, faults=faults)
                complaint = judge(kind, actions) or ("learnt less" if loss > WORST * clean else "")
                failures += bool(complaint)
                told = " ".join(actions) or "none"
                print(
                    f"{kind:<12} {at:>5} {seconds:>4.0f}  {loss:>6.3f}  {loss / clean:>8.3f}  {told}  {complaint}",
                    flush=True,
                )
        for number in range(chosen.clean):
            seconds, loss, actions = train(base, f"clean-{number}", CLEAN_STEPS, seed=chosen.seed * 100 + number)
            failures += bool(actions)
            print(
                f"{'clean':<12} {'':>5} {seconds:>4.0f}  {loss:>6.3f}  {'':>8}  {len(actions)} in {CLEAN_STEPS:,}",
                flush=True,
            )
    print("all handled as the ladder says" if not failures else f"{failures} not handled as the ladder says")
    return 1 if failures else 0


def train(
    base: Path, name: str, steps: int, *, seed: int, faults: list[str] | None = None
) -> tuple[float, float, list[str]]:
    """Seconds, mean loss of the last 50 steps, and what was decided."""
    folder, started = base / name, time.monotonic()
    sets = [word for fault in faults or [] for word in ("--set", f"faults.{fault}")]
    fixed = [
        "train",
        base / "packed",
        "--config",
        base / "run.toml",
        "--ranks",
        "1",
        "--zero",
        "1",
        "--seed",
        str(seed),
    ]
    done = tiny.run(*fixed, "--max-steps", str(steps), *sets, "-o", folder, timeout=600)
    if done.returncode != 0:
        sys.exit(f"{name} ended with {done.returncode}: {done.stderr}")
    losses = [step["loss"] for step in tiny.lines(folder / "metrics.jsonl")]
    events = tiny.lines(folder / "events.jsonl")
    return time.monotonic() - started, fmean(losses[-50:]), [e["action"] for e in events if e["event"] == "decision"]


def judge(kind: str, actions: list[str]) -> str:
    """What is wrong with the decisions about a spike of this kind; nothing when they are the ladder's."""
    if kind == "targets":
        return "" if actions == ["skip", "skip", "rollback"] else "expected two skips and a rollback"
    if kind == "lr":
        return "" if actions[-1:] == ["rollback"] else "expected a rollback"
    if kind == "broken-rank":
        return "" if actions == ["skip"] else "expected one skip"
    if kind == "slow":
        return "" if actions else "went unnoticed"
    return "" if actions in ([], ["skip"]) else "a single outlier was rolled back"


if __name__ == "__main__":
    sys.exit(main())
