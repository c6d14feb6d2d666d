"""`ptool demo`: the main job as a person would type it, every command a real process in a real pipe.

Text is filtered, deduplicated, tokenized and packed; a small decoder is trained on two ranks with ZeRO-2, killed
without warning, resumed, fed a spoilt batch that it rolls back from, and evaluated on documents it never saw. Nothing
here calls the library behind a command's back: the summary is read from what the commands printed and wrote.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ptool.errors import PtoolError, UsageError
from ptool.formats.atomic import write_bytes
from ptool.units import format_count, format_duration

MARK = "demo.json"
PICTURE = "loss.png"
FEWEST_STEPS = 40
"""The bad batch comes 8 steps before the end, and is known for one only after `min_history` steps."""

CONFIG = """\
# A decoder of about a million parameters: minutes on two cores.
[model]
layers = 4
hidden = 128
heads = 4

[batch]
tokens = 4096

[optimizer]
peak_lr = 3e-3

[spike]        # the defaults are for runs of many thousand steps
min_history = 24
back_off = 8
ramp_steps = 20
"""

_EVALUATION = "ptool eval run/ --json > eval.json"
_COST = "ptool estimate-cost --params 70e9 --tokens 2e12 -q"


class Demo:
    """One demonstration in `folder`. `say` shows text to the person; `steps` is the length of the training run."""

    def __init__(self, folder: Path, *, steps: int, say: Callable[[str], None]) -> None:
        if steps < FEWEST_STEPS:
            message = f"{steps} steps are too few to show a rollback"
            raise UsageError(message, hint=f"--steps {FEWEST_STEPS} or more; the default is 150")
        self.folder = folder
        self.steps = steps
        self._say = say
        self._started = time.monotonic()
        # A tenth of the run between saves; killed in its middle, fed a bad batch in its last third.
        self.save_every = max(4, steps // 10)
        self.kill_at = steps // 2 + self.save_every // 3
        self.spoil_at = steps - 2 * self.save_every

    @property
    def _documents(self) -> str:
        return (
            "ptool demo --corpus | ptool filter --preset gopher-quality --rejects dropped.jsonl.zst"
            " | ptool dedup --rejects twins.jsonl.zst -o clean.jsonl.zst"
        )

    @property
    def _tokens(self) -> list[str]:
        return [
            "ptool train-tokenizer clean.jsonl.zst --vocab-size 2048 -o tok.model",
            (
                "ptool tokenize clean.jsonl.zst --tokenizer tok.model -o tok/"
                " | ptool pack --seq-len 256 --holdout 2% -o packed/ > packed.line"
            ),
        ]

    @property
    def _training(self) -> str:
        return (
            "ptool train packed/ --config run.toml --zero 2 --ranks 2"
            f" --max-steps {self.steps} --checkpoint-every {self.save_every} -o run/"
        )

    @property
    def _resuming(self) -> str:
        spoil = f"--set faults.bad_batch_at={self.spoil_at} --set faults.bad_batches=4"
        return f"ptool resume run/ {spoil} > run.line"

    def commands(self) -> list[str]:
        """What `run` will do, in order."""
        return [
            self._documents,
            *self._tokens,
            f"{self._training} &",
            f"kill -9 $!  # after step {self.kill_at}",
            self._resuming,
            _EVALUATION,
            _COST,
        ]

    def run(self) -> dict[str, Any]:
        """Run everything and return the summary; it is also in `demo.json`, beside the picture."""
        self._prepare()
        self._data()
        killed = self._train_and_kill()
        self._resume()
        score = self._evaluate()
        cost = self._estimate()
        picture = self._draw()
        summary = {
            "documents": self._counts("clean.jsonl.zst"),
            "tokens": self._manifest("tok")["num_tokens"],
            "killed": killed,
            "rollback": self._rollback(),
            "eval": score,
            "cost_usd_70b": cost,
            "picture": str(picture.resolve()),
            "seconds": round(time.monotonic() - self._started, 1),
        }
        write_bytes(self.folder / MARK, msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
        return summary

    def clean(self) -> None:
        """Remove everything but the picture and the summary."""
        for path in self.folder.iterdir():
            if path.name in (MARK, PICTURE):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.iterdir()) and not (self.folder / MARK).exists():
            raise UsageError("the folder holds other files", where=str(self.folder), hint="--out DIR names another")
        write_bytes(self.folder / MARK, b"{}\n")  # from here on the folder is ours to clean
        self.clean()
        self._say(f"Working in {self.folder}/\n")

    def _data(self) -> None:
        self._heading("Documents: the documentation inside this Python, filtered and deduplicated in one pipe")
        self._shell(self._documents)
        self._heading("Tokens: a vocabulary of their own, then rows of 256 with 2 % of the documents held out")
        for command in self._tokens:
            self._shell(command)

    def _train_and_kill(self) -> dict[str, Any]:
        self._heading("Training: two ranks, ZeRO-2, and after a while kill -9")
        write_bytes(self.folder / "run.toml", CONFIG.encode())
        self._say(f"$ cat run.toml\n{CONFIG}")
        self._say(f"$ {self._training} &")
        process = subprocess.Popen(
            shlex.split(self._training), cwd=self.folder, env=_environment(), stdin=subprocess.DEVNULL
        )
        try:
            self._wait_for_step(process, self.kill_at)
            self._say(f"$ kill -9 {process.pid}")
            process.kill()
            process.wait()
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
        last = self._metrics()[-1]
        self._say(f"  killed after step {last['step']}, at loss {last['loss']:.3f}\n")
        return {"after_step": last["step"], "loss": last["loss"]}

    def _resume(self) -> None:
        self._heading("Resumed from the last checkpoint, and fed a spoilt batch on purpose")
        before = {record["step"]: record["loss"] for record in self._metrics()}
        self._shell(self._resuming)
        start = [event for event in self._events() if event["event"] == "start"][-1]["step"]
        undone = _lines(self.folder / "run" / "attempts.jsonl")
        again, same = done_twice(before, self._metrics(), undone, start=start, stop=self.spoil_at)
        self._say(f"  resumed at step {start}; of {again} steps done twice, {same} have the same loss to the bit\n")
        rollback = self._rollback()
        if same < again:
            raise PtoolError("the resumed run differs from the killed one", where=str(self.folder / "run"))
        if rollback is None:
            raise PtoolError("the spoilt batch led to no rollback", where=str(self.folder / "run"))

    def _evaluate(self) -> dict[str, Any]:
        self._heading("Evaluated on the documents that were held out")
        self._shell(_EVALUATION)
        total: dict[str, Any] = msgspec.json.decode((self.folder / "eval.json").read_bytes())["total"]
        self._say(
            f"  loss {total['loss']:.3f}, perplexity {total['perplexity']:.1f},"
            f" {total['bits_per_byte']:.3f} bits per byte\n"
        )
        return total

    def _estimate(self) -> dict[str, float]:
        self._heading("What the same would cost with 70 billion parameters and 2 trillion tokens")
        self._shell(f"{_COST} --json > cost.json")
        self._shell(_COST)
        cost: dict[str, float] = msgspec.json.decode((self.folder / "cost.json").read_bytes())["cost_usd"]
        return cost

    def _draw(self) -> Path:
        from ptool.training.picture import draw_run

        target = self.folder / PICTURE
        draw_run(self.folder / "run", target, title="ptool demo: killed, resumed, rolled back")
        return target

    def _heading(self, text: str) -> None:
        self._say(f"\n== {text}\n")

    def _shell(self, command: str) -> None:
        """Show a command and run it in a shell. Raises PtoolError when it fails."""
        self._say(f"$ {command}")
        process = subprocess.Popen(
            ["sh", "-c", command], cwd=self.folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=sys.stderr
        )
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if code != 0:
            raise PtoolError(f"exit code {code} from: {command}", where=str(self.folder))

    def _wait_for_step(self, process: subprocess.Popen[bytes], step: int) -> None:
        while process.poll() is None:
            metrics = self._metrics()
            if metrics and metrics[-1]["step"] >= step:
                return
            time.sleep(0.1)
        raise PtoolError(f"training ended early, with exit code {process.returncode}", where=str(self.folder / "run"))

    def _metrics(self) -> list[dict[str, Any]]:
        return _lines(self.folder / "run" / "metrics.jsonl")

    def _events(self) -> list[dict[str, Any]]:
        return _lines(self.folder / "run" / "events.jsonl")

    def _rollback(self) -> dict[str, Any] | None:
        for event in self._events():
            if event.get("action") == "rollback":
                return {"at_step": event["step"], "to_step": event["target"], "reason": event["reason"]}
        return None

    def _manifest(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode((self.folder / name / "manifest.json").read_bytes())
        return found

    def _counts(self, name: str) -> dict[str, int]:
        from ptool.formats.stages import read_manifest

        dedup = read_manifest(self.folder / name)
        if dedup is None or dedup.counts is None or not dedup.upstream or dedup.upstream[0].counts is None:
            raise PtoolError("the manifest of the filtered documents is missing", where=str(self.folder / name))
        return {
            "read": dedup.upstream[0].counts.read,
            "dropped_by_rules": dedup.upstream[0].counts.dropped,
            "dropped_as_duplicates": dedup.counts.dropped,
            "kept": dedup.counts.kept,
        }


def done_twice(
    before: dict[int, float], accepted: list[dict[str, Any]], undone: list[dict[str, Any]], *, start: int, stop: int
) -> tuple[int, int]:
    """Steps that were done before the kill and again after it, and how many of them with the same loss.

    A fast machine is killed late, and then the rollback goes back to before the kill: what it did a third time is no
    resumed step, and from `stop` on the batch is spoilt on purpose.
    """
    after = {record["step"]: record["loss"] for record in accepted}
    after |= {one["step"]: one["loss"] for one in reversed(undone) if one["attempt"] == accepted[-1]["attempt"]}
    again = [step for step in before if start < step < stop]
    return len(again), sum(before[step] == after.get(step) for step in again)


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The summary as names and values for people."""
    documents, rollback, cost = summary["documents"], summary["rollback"], summary["cost_usd_70b"]
    return [
        (
            "documents",
            (
                f"{documents['read']:,} read, {documents['dropped_by_rules']:,} dropped by rules,"
                f" {documents['dropped_as_duplicates']:,} as duplicates, {documents['kept']:,} kept"
            ),
        ),
        ("tokens", format_count(summary["tokens"])),
        ("kill -9", f"after step {summary['killed']['after_step']}; resumed to the bit"),
        ("bad batch", f"refused at step {rollback['at_step'] + 1}, rolled back to step {rollback['to_step']}"),
        (
            "held-out text",
            f"perplexity {summary['eval']['perplexity']:.1f}, {summary['eval']['bits_per_byte']:.3f} bits per byte",
        ),
        ("70B on 2T tokens", f"${cost['low'] / 1e6:.2f}M to ${cost['high'] / 1e6:.2f}M"),
        ("time", format_duration(summary["seconds"])),
        ("picture", summary["picture"]),
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [msgspec.json.decode(line) for line in path.read_bytes().split(b"\n")[:-1] if line]


def _environment() -> dict[str, str]:
    """The environment with this installation's `ptool` found first, also where its venv is not activated."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
