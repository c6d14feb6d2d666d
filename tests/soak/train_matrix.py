"""Every ZeRO stage against everything that can happen to a run: equal to the bit with a twin to which nothing happened.

    python tests/soak/train_matrix.py --seed 1 [--zero 0 1 2 3] [--only disk save …]

For each stage one unbroken run, and then

    resume      SIGTERM while training, resumed
    save        SIGTERM while a checkpoint is written; and kill -9 before each file operation of a save, one after
                another (fsync, rename, removal: a hook counts them in the rank), each resumed
    eval        SIGTERM while the held-out loss is measured
    disk        a file limit too small for a checkpoint: an error, then resumed without it
    nan         one rank's loss is not a number for one batch: left out
    spike       one bad batch: left out
    rollback    bad batches in a row: rolled back; and killed in the middle of that

The twin of a run with decisions is a run that was given those decisions from the start. Equal are losses, gradient
norms, samples, final weights and manifests. The samples of accepted steps and those left out must cover the order
without a hole or a repeat. About ten minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ptool.formats.packed_writer import write_packed  # found through the line above
from tests.training import tiny

STEPS, EVERY = 90, 15
MODEL = tiny.CONFIG.replace("3e-3", "1e-2") + (
    "[schedule]\nwarmup_steps = 10\n[validation]\nevery_steps = 20\n[checkpoint]\nanchor_steps = 10\n"
    "[spike]\nmin_history = 16\nback_off = 10\nwindow = 32\nramp_steps = 10\n"
)
HOOK = '''
"""Kills this rank with SIGKILL before its N-th operation on a checkpoint, counted from the second save on."""
import os, shutil, signal

LEFT = [int(os.environ.get("SOAK_KILL_AT", "0"))]
MINE = os.environ.get("SOAK_KILL_RANK") == os.environ.get("RANK")

def counted(function, where):
    def call(*args, **kwargs):
        if MINE and LEFT[0] > 0:
            try:
                path = where(*args)
            except OSError:
                path = ""
            if "checkpoints" in path and "step_00000000" not in path:
                LEFT[0] -= 1
                if LEFT[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

os.fsync = counted(os.fsync, lambda fd: os.readlink(f"/proc/self/fd/{fd if isinstance(fd, int) else fd.fileno()}"))
os.rename = counted(os.rename, lambda old, new, **_: str(old))
os.replace = counted(os.replace, lambda old, new, **_: str(old))
shutil.rmtree = counted(shutil.rmtree, lambda path, *_, **__: str(path))
'''


class Stage:
    """The runs of one ZeRO stage."""

    def __init__(self, base: Path, zero: int, rng: random.Random, one_by_one: int) -> None:
        self.base, self.zero, self.rng = base, zero, rng
        self.one_by_one = one_by_one
        self.unbroken = self.whole("unbroken")

    def command(self, *more: str) -> list[str]:
        """The command line but for the folder."""
        fixed = ["train", self.base / "packed", "--config", self.base / "run.toml", "--zero", self.zero]
        return [str(word) for word in [*fixed, "--max-steps", STEPS, "--checkpoint-every", EVERY, *more, "-o"]]

    def folder(self, name: str) -> Path:
        """Where a run of this stage goes."""
        return self.base / f"{name}-{self.zero}"

    def whole(self, name: str, *more: str) -> Path:
        """A run that nothing happens to from outside."""
        folder = self.folder(name)
        expect(tiny.run(*self.command(*more), folder, timeout=300), 0)
        return folder

    def resumed(self, folder: Path) -> Path:
        """The run, resumed to its end."""
        expect(tiny.run("resume", folder, timeout=300), 0)
        return folder

    def stopped(self, name: str, when: Callable[[Path], bool]) -> Path:
        """A run that got SIGTERM when `when` held, resumed."""
        folder = self.folder(name)
        process = tiny.start(*self.command(), folder)
        tiny.wait_until(lambda: when(folder), process, timeout=120)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        check(process.returncode == 75, f"SIGTERM ended with {process.returncode}")
        return self.resumed(folder)

    def twin(self, whole: Path) -> Path:
        """A run that is given the decisions of `whole` from the start."""
        folder = Path(f"{whole}-twin")
        folder.mkdir()
        shutil.copy(whole / "config.toml", folder)
        decisions = [event for event in tiny.lines(whole / "events.jsonl") if event["event"] == "decision"]
        (folder / "events.jsonl").write_text("".join(json.dumps(decision) + "\n" for decision in decisions))
        return self.resumed(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--zero", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--only", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS))
    parser.add_argument("--one-by-one", type=int, default=8, help="file operations of a save that are all cut")
    chosen = parser.parse_args()
    failures = 0
    print(f"{'stage':>5}  {'what':<10} {'result':<7} {'s':>5}  note")
    with tempfile.TemporaryDirectory(prefix="ptool-soak-") as name:
        base = Path(name)
        (base / "run.toml").write_text(MODEL)
        (base / "hook").mkdir()
        (base / "hook" / "sitecustomize.py").write_text(HOOK)
        write_packed(
            base / "packed",
            tiny.documents(400),
            seq_len=tiny.SEQ_LEN,
            vocab_size=tiny.VOCAB,
            eod_id=0,
            holdout=lambda name: name.endswith("0"),
        )
        for zero in chosen.zero:
            stage = Stage(base, zero, random.Random(chosen.seed * 10 + zero), chosen.one_by_one)
            for scenario in chosen.only:
                started = time.monotonic()
                try:
                    result, note = "equal", SCENARIOS[scenario](stage)
                except AssertionError as error:
                    result, note, failures = "FAILED", str(error)[:600], failures + 1
                print(f"{zero:>5}  {scenario:<10} {result:<7} {time.monotonic() - started:5.0f}  {note}", flush=True)
    return 1 if failures else 0


def resume(stage: Stage) -> str:
    at = stage.rng.randrange(20, 60)
    same(stage.stopped("resume", lambda run: len(tiny.lines(run / "metrics.jsonl")) > at), stage.unbroken)
    return f"SIGTERM after step {at}"


def save(stage: Stage) -> str:
    same(stage.stopped("save", lambda run: is_open(run, "saving", "save", after=2)), stage.unbroken)
    kills = 0
    for rank in (0, 1):
        at = 0
        while True:
            at += 1
            folder = stage.folder(f"save-{rank}-{at}")
            variables = {"PYTHONPATH": str(stage.base / "hook"), "SOAK_KILL_AT": str(at), "SOAK_KILL_RANK": str(rank)}
            process = tiny.start(*stage.command(), folder, **variables)
            process.communicate(timeout=300)
            if process.returncode == 0:  # there are fewer operations than that
                break
            same(stage.resumed(folder), stage.unbroken)
            shutil.rmtree(folder)
            kills += 1
            at += 0 if at < stage.one_by_one else 19  # the first save one by one, then some of those that rotate
    check(kills >= 12, f"only {kills} kills happened")
    return f"SIGTERM in a save; {kills} kills before one operation each"


def evaluation(stage: Stage) -> str:
    same(stage.stopped("eval", lambda run: bool(tiny.lines(run / "validation.jsonl"))), stage.unbroken)
    return "SIGTERM as the first held-out loss is written"


def disk(stage: Stage) -> str:
    folder = stage.folder("disk")
    process = tiny.start(*stage.command(), folder)
    tiny.wait_until(lambda: "step_00000015" in tiny.kept_checkpoints(folder), process, timeout=120)
    limit = max(file.stat().st_size for file in (folder / "checkpoints" / "step_00000015").rglob("*")) // 2
    for pid in tiny.rank_pids(process.pid):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, limit))
    _, error = process.communicate(timeout=120)
    check(process.returncode != 0, "a full disk went unnoticed")
    check(not list((folder / "checkpoints").glob("*.tmp")), "a half checkpoint was left")
    same(stage.resumed(folder), stage.unbroken)
    return error.strip().splitlines()[-2 if "hint" in error else -1][:80]


def faulty(stage: Stage, name: str, expected: list[str], *faults: str) -> Path:
    """A run with faults whose decisions are `expected`, equal to its twin."""
    whole = stage.whole(name, *(f"--set=faults.{fault}" for fault in faults))
    actions = [event["action"] for event in tiny.lines(whole / "events.jsonl") if event["event"] == "decision"]
    check(actions == expected, f"decided {actions}, expected {expected}")
    same(whole, stage.twin(whole))
    return whole


def nan(stage: Stage) -> str:
    faulty(stage, "nan", ["skip"], "kind=broken-rank", "bad_batch_at=50", "rank=1")
    return "left out, equal to its twin"


def spike(stage: Stage) -> str:
    faulty(stage, "spike", ["skip"], "kind=targets", "bad_batch_at=50")
    return "left out, equal to its twin"


def rollback(stage: Stage) -> str:
    faults = ("kind=targets", "bad_batch_at=50", "bad_batches=4")
    whole = faulty(stage, "rollback", ["skip", "skip", "rollback"], *faults)
    killed = stage.folder("rollback-killed")
    process = tiny.start(*stage.command(*(f"--set=faults.{fault}" for fault in faults)), killed)
    tiny.wait_until(lambda: any(e.get("target") for e in tiny.lines(killed / "events.jsonl")), process, timeout=120)
    tiny.kill(process.pid)
    process.communicate(timeout=60)
    same(stage.resumed(killed), whole)
    return "equal to its twin, also when killed in the middle"


SCENARIOS: dict[str, Callable[[Stage], str]] = {
    "resume": resume,
    "save": save,
    "eval": evaluation,
    "disk": disk,
    "nan": nan,
    "spike": spike,
    "rollback": rollback,
}


def same(one: Path, other: Path) -> None:
    """Both runs are the same to the bit, and no sample was lost or came twice."""
    for run in (one, other):
        covers(run)
    check(tiny.history(one) == tiny.history(other), "losses, norms or samples differ")
    check(tiny.weights_digest(one) == tiny.weights_digest(other), "the weights differ")
    told = [json.loads((run / "manifest.json").read_bytes()) for run in (one, other)]
    check(told[0] == told[1], "the manifests differ")


def covers(run: Path) -> None:
    """Accepted samples and those left out cover the order from 0 on, each once."""
    left_out = [e["skip"] for e in tiny.lines(run / "events.jsonl") if e["event"] == "decision" and e["skip"]]
    out = {sample for first, last in left_out for sample in range(first, last)}
    at = 0
    for step in tiny.lines(run / "metrics.jsonl"):
        first, last = step["samples"]
        while at in out and at < first:
            at += 1
        check(at == first, f"step {step['step']} begins at sample {first}, and {at} was next")
        check(last - first - sum(sample in out for sample in range(first, last)) == 8, "a step of another size")
        at = last


def is_open(run: Path, begin: str, end: str, *, after: int) -> bool:
    """Whether the newest of more than `after` events `begin` has no `end` yet."""
    names = [event["event"] for event in tiny.lines(run / "events.jsonl")]
    return names.count(begin) > after and names.count(end) < names.count(begin)


def expect(done: subprocess.CompletedProcess[str], code: int) -> None:
    """The command ended as it should."""
    check(done.returncode == code, f"ended with {done.returncode}: {done.stderr}")


def check(holds: bool, complaint: str) -> None:
    """An assertion that stays under `python -O`."""
    if not holds:
        raise AssertionError(complaint)


if __name__ == "__main__":
    sys.exit(main())
