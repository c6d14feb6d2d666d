"""Kill a training run twenty times in a row, resume it each time, and compare it with one that was never killed.

    python tests/soak/train_kill.py --seed 1 [--zero 2] [--kills 20]

Each kill (SIGKILL) takes the launcher alone, one rank alone, or all of them, at a moment drawn over the duration of the
unbroken run and counted from the first step of that life. Four moments are put inside a save (between the ledger's
`saving` and `save`), one before the first checkpoint after step 0. The run's final weights, its losses and its manifest
must equal the unbroken run's to the bit. Prints one line per life; ends with status 1 when anything differs, or when
fewer than 12 kills followed new progress. Takes about six minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.training import tiny  # found through the line above

STEPS, EVERY = 600, 25
MODEL = tiny.CONFIG.replace("hidden = 32", "hidden = 64").replace("tokens = 256", "tokens = 512")
VICTIMS = ("launcher", "one rank", "all")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--zero", type=int, default=2)
    parser.add_argument("--kills", type=int, default=20)
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory(prefix="ptool-soak-") as name:
        base = Path(name)
        (base / "run.toml").write_text(MODEL)
        tiny.make_packed(base / "packed")
        fixed = ["train", base / "packed", "--config", base / "run.toml", "--zero", chosen.zero]
        fixed += ["--max-steps", STEPS, "--checkpoint-every", EVERY, "-o"]
        command = [str(word) for word in fixed]
        return soak(rng, base, command, chosen.kills)


def soak(rng: random.Random, base: Path, command: list[str], kills: int) -> int:
    unbroken, folder = base / "unbroken", base / "killed"
    started = time.monotonic()
    done = tiny.run(*command, unbroken, timeout=600)
    if done.returncode != 0:
        print(done.stderr)
        return 1
    times = [event["time"] for event in tiny.lines(unbroken / "events.jsonl")]
    duration = times[-1] - times[0]
    print(f"unbroken: {STEPS} steps in {duration:.1f} s after {time.monotonic() - started - duration:.1f} s of start")

    aimed_at_saves = min(4, max(0, kills - 4))
    saves = set(rng.sample(range(1, max(1, kills - 3)), aimed_at_saves))  # the last three lives may see no save
    progressed = inside_saves = before_first = furthest = 0
    print(f"{'life':>4}  {'victim':<10} {'moment':<22} {'from':>5} {'to':>5}  note")
    for life in range(kills):
        victim = rng.choice(VICTIMS)
        start = newest_step(folder)
        if start == STEPS:
            print(f"{life + 1:>4}  the run had come to its end")
            break
        process = tiny.start(*(command if life == 0 else ["resume"]), folder)
        reached = len(tiny.lines(folder / "events.jsonl"))
        tiny.wait_until(lambda reached=reached: first_step_of_life(folder, reached), process, timeout=120)
        if life == 0:
            moment, note = "before a checkpoint", ""
        elif life in saves:
            tiny.wait_until(lambda reached=reached: is_saving(folder, reached), process, timeout=120)
            time.sleep(rng.uniform(0, 0.01))
            moment, note = "inside a save", ""
        else:
            # An equal share of the steps that are left, so that twenty lives span the run at whatever speed they go.
            left = duration * (1 - max(start, 0) / STEPS)
            share = left * rng.uniform(0, 2) / (kills - life + 1)
            moment, note = f"{share:5.2f} s after a step", ""
            time.sleep(share)
        saving = is_saving(folder, 0)
        if process.poll() is not None:
            note = f"had ended with {process.returncode}"
        end(process, victim, rng)
        to = len(tiny.history(folder))
        inside_saves += saving
        if life in saves and not saving:  # a fast disk was done before the kill: try once more
            saves.update([later for later in range(life + 1, kills) if later not in saves][:1])
        before_first += life == 0 and newest_step(folder) <= 0
        progressed += to > furthest
        furthest = max(furthest, to)
        print(f"{life + 1:>4}  {victim:<10} {moment:<22} {start:>5} {to:>5}  {'save was running ' * saving}{note}")
    done = tiny.run("resume", folder, timeout=600)
    equal = {
        "exit code 0": done.returncode == 0,
        "weights": done.returncode == 0 and tiny.weights_digest(folder) == tiny.weights_digest(unbroken),
        "losses": tiny.history(folder) == tiny.history(unbroken),
        "12 kills after progress": progressed >= min(12, kills),
        f"{aimed_at_saves} kills inside a save": inside_saves >= aimed_at_saves,
        "1 before a checkpoint": before_first == 1,
    }
    undone = len([a for a in tiny.lines(folder / "attempts.jsonl") if "refused" not in a])
    print(f"{progressed} kills after new progress, {inside_saves} inside a save; {undone} steps done twice")
    print(f"{time.monotonic() - started:.0f} s; " + ", ".join(f"{k}: {'yes' if v else 'NO'}" for k, v in equal.items()))
    if not all(equal.values()):
        print(done.stderr)
    return 0 if all(equal.values()) else 1


def newest_step(folder: Path) -> int:
    kept = tiny.kept_checkpoints(folder)
    return int(kept[-1].removeprefix("step_")) if kept else -1


def first_step_of_life(folder: Path, events_before: int) -> bool:
    """Whether this life has started (its `start` event) and taken a step."""
    events = tiny.lines(folder / "events.jsonl")[events_before:]
    starts = [event for event in events if event["event"] == "start"]
    return bool(starts) and len(tiny.history(folder)) > starts[-1]["step"]


def is_saving(folder: Path, events_before: int) -> bool:
    events = [e["event"] for e in tiny.lines(folder / "events.jsonl")[events_before:]]
    return bool(events) and events[-1] == "saving"


def end(process: subprocess.Popen[str], victim: str, rng: random.Random) -> None:
    ranks = tiny.rank_pids(process.pid)
    pids = {"launcher": [process.pid], "one rank": ranks[-1:] if rng.random() < 0.5 else ranks[:1]}
    for pid in pids.get(victim, [process.pid, *ranks]):
        tiny.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    if not tiny.all_end(ranks):
        print(f"      ranks {ranks} outlived their launcher")
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
