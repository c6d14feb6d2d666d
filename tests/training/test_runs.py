"""Whole runs on two gloo ranks: killed, stopped, refused, rolled back, and equal to the bit to one that was not.

A start takes seconds, so each test does much, and one unbroken run per ZeRO stage serves all of them.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import time
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ptool.formats.artefacts import list_files, read_folder_manifest
from ptool.formats.manifests import encode_manifest
from ptool.training.locks import LAUNCHER, Lock
from tests.training import tiny

STEPS, EVERY = 40, 8  # a second of steps, so that there is something left to kill on a busy machine too
COMPARED, RELATIVE = 12, 2e-6  # what the order of sums in fp32 leaves after twelve steps


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("运行 with space")
    tiny.make_packed(folder / "packed")
    (folder / "run.toml").write_text(tiny.CONFIG)
    return folder


@pytest.fixture(scope="module")
def unbroken(base):
    """The finished run of a ZeRO stage, made once."""

    @cache
    def make(zero: int) -> Path:
        folder = base / f"unbroken-{zero}"
        done = tiny.run(*arguments(base, zero), folder)
        assert done.returncode == 0, done.stderr
        return folder

    return make


def arguments(base: Path, zero: int, *more: str) -> list[str]:
    fixed = ["train", str(base / "packed"), "--config", str(base / "run.toml"), "--zero", str(zero)]
    return [*fixed, "--max-steps", str(STEPS), "--checkpoint-every", str(EVERY), *more, "-o"]


def assert_equal_runs(one: Path, other: Path) -> None:
    assert tiny.history(one) == tiny.history(other)
    assert tiny.weights_digest(one) == tiny.weights_digest(other)
    assert json.loads((one / "manifest.json").read_bytes()) == json.loads((other / "manifest.json").read_bytes())


def killed_run(base: Path, zero: int, victims: str) -> Path:
    """A run of which `victims` were killed after its first checkpoint behind step 0."""
    folder = base / f"killed-{zero}"
    process = tiny.start(*arguments(base, zero), folder)
    tiny.wait_until(lambda: len(tiny.kept_checkpoints(folder)) > 1, process)
    tiny.wait_until(lambda: len(tiny.lines(folder / "metrics.jsonl")) > EVERY, process)
    ranks = tiny.rank_pids(process.pid)
    for pid in {"launcher": [process.pid], "rank 0": ranks[:1], "rank 1": ranks[1:], "all": [process.pid, *ranks]}[
        victims
    ]:
        tiny.kill(pid)
    process.communicate(timeout=60)
    assert process.returncode == (1 if victims.startswith("rank") else -signal.SIGKILL)
    assert tiny.all_end(ranks), "ranks outlived the launcher"
    assert not (folder / "manifest.json").exists()
    return folder


@pytest.mark.parametrize(("zero", "victims"), [(0, "launcher"), (1, "rank 1"), (2, "all"), (3, "rank 0")])
def test_a_killed_run_goes_on_to_the_same_bits(base, unbroken, zero, victims):
    folder = killed_run(base, zero, victims)
    if zero == 1:
        disk_full(folder)
    if zero == 2:
        a_pickle_is_refused(folder)
    if zero == 3:
        break_newest_checkpoint(folder)
    done = tiny.run("resume", folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["artefact"] == str(folder)
    if zero == 3:
        assert "is broken and is left aside" in done.stderr
        assert tiny.lines(folder / "attempts.jsonl"), "undone steps are kept"
    assert_equal_runs(folder, unbroken(zero))
    assert [line["step"] for line in tiny.lines(folder / "metrics.jsonl")] == list(range(1, STEPS + 1))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "latest",
        *(f"step_{step:08d}" for step in (24, 32, 40)),
    ]


def disk_full(folder: Path) -> None:
    """A save that cannot be written ends the run cleanly, with the last good checkpoint kept."""
    kept = tiny.kept_checkpoints(folder)
    limit = 64 << 10  # bytes a file may have: less than any file of weights, more than the logs
    done = tiny.run("resume", folder, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert tiny.kept_checkpoints(folder) == kept
    assert not list((folder / "checkpoints").glob("*.tmp"))


def a_pickle_is_refused(folder: Path) -> None:
    """A file that would run code, with a manifest that fits it: refused, nothing runs, nothing is changed."""
    newest = max((folder / "checkpoints").glob("step_*[0-9]"))
    before = {path: path.read_bytes() for path in newest.iterdir()}
    trap, sprung = newest / "moments_00001.safetensors", folder / "sprung"
    trap.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    manifest = read_folder_manifest(newest)
    fitting = msgspec.structs.replace(manifest, files=list_files(newest, [entry.path for entry in manifest.files]))
    (newest / "manifest.json").write_bytes(encode_manifest(fitting))
    done = tiny.run("resume", folder)
    assert (done.returncode, "refused: not a file of plain tensors" in done.stderr) == (1, True), done.stderr
    assert not sprung.exists()
    for path, content in before.items():
        path.write_bytes(content)


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.sprung),)


def break_newest_checkpoint(folder: Path) -> None:
    newest = folder / "checkpoints" / tiny.kept_checkpoints(folder)[-1]  # a kill may have left a step_*.tmp too
    file = newest / "moments_00001.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_stages_agree_and_the_first_steps_are_those_of_plain_torch(base, unbroken):
    reference = plain_torch_losses(base, unbroken(0), steps=COMPARED)
    for zero in range(4):
        steps = tiny.history(unbroken(zero))
        losses, norms = [step[1] for step in steps[:COMPARED]], [step[2] for step in steps[:COMPARED]]
        assert losses == pytest.approx([loss for loss, _ in reference], rel=RELATIVE)
        assert norms == pytest.approx([norm for _, norm in reference], rel=100 * RELATIVE)
        samples = [step[3] for step in steps]
        assert samples == [[8 * k, 8 * k + 8] for k in range(STEPS)]


def plain_torch_losses(base: Path, run: Path, steps: int) -> list[tuple[float, float]]:
    """(loss, gradient norm) of the same run as a bare loop: one process, the whole batch at once, torch's AdamW."""
    import torch

    from ptool.models.decoder import Decoder
    from ptool.training.corpus import open_corpus
    from ptool.training.settings_text import from_toml

    settings = from_toml(run / "config.toml")
    corpus = open_corpus(settings)
    model = Decoder(settings.model_config, seed=0)
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embedding" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() == 1 or "embedding" in name]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    seen = []
    for step in range(1, steps + 1):
        rows = corpus.rows(corpus.places(np.arange(8 * step - 8, 8 * step), []))
        batch = (torch.as_tensor(getattr(rows, name)) for name in ("tokens", "positions", "segments", "targets"))
        loss_sum, num_targets = model(*batch)
        optimizer.zero_grad()
        (loss_sum / num_targets).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = corpus.course.learning_rate(step)
        optimizer.step()
        seen.append((float(loss_sum.detach() / num_targets), float(norm)))
    return seen


def test_sigterm_saves_and_ends_with_75_and_the_same_command_goes_on(base, unbroken):
    folder = base / "stopped"
    # With numpy's threads in the launcher: a signal must not find one that lets it end the process.
    process = tiny.start(*arguments(base, 2), folder, OPENBLAS_NUM_THREADS="4")
    tiny.wait_until((folder / "config.toml").exists, process)
    process.send_signal(signal.SIGTERM)  # before the ranks listen: it waits for them
    _, told = process.communicate(timeout=90)
    assert process.returncode == 75, told
    assert "stopped and saved at step" in told
    assert 1 <= len(tiny.lines(folder / "metrics.jsonl")) < STEPS
    assert tiny.lines(folder / "events.jsonl")[-1]["event"] == "stop"

    other = tiny.run(*arguments(base, 2, "--seed", "5"), folder)
    assert (other.returncode, "run.seed is 0, not 5" in other.stderr) == (2, True), other.stderr
    lock = Lock(folder, LAUNCHER)
    busy = tiny.run("resume", folder)
    lock.release()
    assert busy.returncode == 1
    assert "is training in this folder" in busy.stderr

    done = tiny.run(*arguments(base, 2), folder)
    assert done.returncode == 0, done.stderr
    assert "holds this run, unfinished: resuming it" in done.stderr
    assert_equal_runs(folder, unbroken(2))
    assert not tiny.lines(folder / "attempts.jsonl"), "nothing was undone"
    again = tiny.run(*arguments(base, 2), folder)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert "up to date" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_a_second_later_ends_everything_at_once(base, number):
    folder = base / f"impatient-{number}"
    process = tiny.start(*arguments(base, 0), folder)
    tiny.wait_until(lambda: all((folder / ".locks" / f"rank_0000{rank}").exists() for rank in (0, 1)), process)
    ranks = tiny.rank_pids(process.pid)
    for pid in ranks:
        tiny.kill(pid, signal.SIGSTOP)  # ranks that will not save
    try:
        process.send_signal(signal.SIGUSR1)
        time.sleep(1.1)  # the second of the contract
        process.send_signal(number)
        _, told = process.communicate(timeout=20)
    finally:
        process.kill()  # the ranks go with it
    assert process.returncode == -number, told
    assert tiny.all_end(ranks)


SPIKY = """
[optimizer]
peak_lr = 1e-2
[spike]
min_history = 16
window = 32
back_off = 8
ramp_steps = 10
[checkpoint]
anchor_steps = 5
[faults]
bad_batch_at = 44
bad_batches = 4
"""


def test_bad_batches_are_refused_skipped_and_rolled_back_and_a_kill_changes_nothing(base):
    settings = base / "spiky.toml"
    settings.write_text(tiny.CONFIG.replace("[optimizer]\npeak_lr = 3e-3\n", "") + SPIKY)
    fixed = ["train", base / "packed", "--config", settings, "--zero", "2", "--max-steps", "60"]
    fixed += ["--checkpoint-every", "20", "-o"]
    whole, killed, twin = base / "spiky", base / "spiky-killed", base / "spiky-twin"
    done = tiny.run(*fixed, whole)
    assert done.returncode == 0, done.stderr
    assert "going back to step 35" in done.stderr

    decisions = [e for e in tiny.lines(whole / "events.jsonl") if e["event"] == "decision"]
    assert [d["action"] for d in decisions] == ["skip", "skip", "rollback"]
    assert decisions[-1]["skip"] == [42 * 8, 47 * 8], "the guilty batches and one on either side"
    records = tiny.lines(whole / "metrics.jsonl")
    assert [r["step"] for r in records] == list(range(1, 61))
    seen = [g for r in records for g in range(*r["samples"])]
    assert sorted([*seen, *range(42 * 8, 47 * 8)]) == list(range(65 * 8)), "every sample once, or left out"
    assert all(r["model_tflops"] > 0 and r["mfu"] is None for r in records), "a CPU's peak is not known"
    reports = sorted((whole / "reports").iterdir())
    assert [path.name for path in reports] == [f"spike_00000044_{first * 8}.json" for first in (43, 44, 45)]
    assert json.loads(reports[0].read_text())["batch"]["documents"]
    attempts = tiny.lines(whole / "attempts.jsonl")
    assert [(a["step"], a["attempt"]) for a in attempts if "refused" in a] == [(44, 1)] * 6
    assert [a["step"] for a in attempts if "refused" not in a] == list(range(36, 44))
    assert {r["attempt"] for r in records[:35]} == {1}
    assert {r["attempt"] for r in records[35:]} == {2}
    assert max(r["loss"] for r in records[35:]) < min(a["loss"] for a in attempts if "refused" in a)
    first_after = next(a for a in attempts if a["step"] == 36)
    assert records[35]["lr"] == pytest.approx(first_after["lr"] / 2)

    process = tiny.start(*fixed, killed)
    tiny.wait_until(lambda: any(e.get("target") for e in tiny.lines(killed / "events.jsonl")), process)
    tiny.kill(process.pid)
    process.communicate(timeout=60)
    resumed = tiny.run("resume", killed)
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_runs(killed, whole)  # though the anchor was lost with the process, and step 20 is on the disk

    twin.mkdir()  # a run that is given the decisions from the start
    shutil.copy(whole / "config.toml", twin)
    (twin / "events.jsonl").write_text("".join(json.dumps(d) + "\n" for d in decisions))
    process = tiny.start("resume", twin)
    tiny.wait_until(lambda: len(tiny.lines(twin / "metrics.jsonl")) > 50, process)
    tiny.kill(process.pid)  # and goes on from a checkpoint behind the samples left out
    process.communicate(timeout=60)
    given = tiny.run("resume", twin)
    assert given.returncode == 0, given.stderr
    assert_equal_runs(twin, whole)
    assert not [a for a in tiny.lines(twin / "attempts.jsonl") if "refused" in a]


def test_a_dry_run_touches_nothing_and_changed_data_is_refused(base, unbroken):
    target = base / "never"
    plan = tiny.run(*arguments(base, 3, "--dry-run", "--json"), target)
    assert plan.returncode == 0, plan.stderr
    told = json.loads(plan.stdout)
    assert (told["num_steps"], told["num_tokens"], told["standing"]) == (STEPS, STEPS * 256, "new")
    assert told["num_parameters"] == json.loads((unbroken(3) / "manifest.json").read_text())["details"]["parameters"]
    assert not target.exists()
    checkpoint = unbroken(3) / "checkpoints" / "step_00000040"
    real = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    assert real == pytest.approx(told["checkpoint_bytes"], rel=0.3)

    moved = base / "moved"
    shutil.copytree(unbroken(0), moved)
    text = (moved / "config.toml").read_text()
    tiny.make_packed(base / "other-packed", count=300)
    (moved / "config.toml").write_text(text.replace(str(base / "packed"), str(base / "other-packed")))
    refused = tiny.run("resume", moved)
    assert (refused.returncode, "the packed data changed" in refused.stderr) == (1, True), refused.stderr
    unknown = tiny.run("resume", unbroken(0), "--set", "run.seed=3")
    assert (unknown.returncode, "cannot change" in unknown.stderr) == (2, True)
