"""Whole runs of what is not the default: weights to begin with, other optimisers, fp16, a model of all variants."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from ptool.training.scaling import FIRST
from tests.models.variants import EVERYTHING
from tests.training import tiny

SHORT = ["--max-steps", "6", "--checkpoint-every", "3", "--ranks", "1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("engine runs")
    tiny.make_packed(folder / "packed", count=60)
    (folder / "run.toml").write_text(tiny.CONFIG)
    return folder


@pytest.fixture(scope="module")
def first(base) -> Path:
    """A plain run; the one rank of most runs here starts in half the time of two."""
    return train(base, "first")


def train(base: Path, name: str, *more: str) -> Path:
    run = base / name
    done = tiny.run("train", base / "packed", "--config", base / "run.toml", *SHORT, *more, "-o", run)
    assert done.returncode == 0, done.stderr
    return run


def sets(**values: object) -> list[str]:
    pairs = ((name.replace("__", "."), value) for name, value in values.items())
    return [part for name, value in pairs for part in ("--set", f"{name}={json.dumps(value)}")]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in tiny.lines(run / "metrics.jsonl")]


def test_a_run_begins_with_the_weights_of_another_and_needs_them_no_more_once_it_saved(base, first):
    second = train(base, "second", "--init", str(first))
    assert losses(second)[0] < losses(first)[0] - 0.1, "what was learned is there"
    exported = tiny.run("export", first, "-o", base / "hf")
    assert exported.returncode == 0, exported.stderr
    third = train(base, "third", "--init", str(base / "hf"), *sets(execution__recompute="selective"))
    assert losses(third) == losses(second), "the same weights by another way, and the same bits by recomputation"
    assert tiny.weights_digest(third) == tiny.weights_digest(second)
    settings = (third / "config.toml").read_text()
    assert f'init = "{base / "hf"}"' in settings

    same = ["--init", base / "hf", *sets(execution__recompute="selective"), "-o", third]
    again = tiny.run("train", base / "packed", "--config", base / "run.toml", *SHORT, *same)
    assert (again.returncode, "up to date" in again.stderr) == (0, True), again.stderr
    shutil.rmtree(base / "hf")
    (third / "manifest.json").unlink()
    shutil.rmtree(third / "checkpoints" / "step_00000006")
    done = tiny.run("resume", third)
    assert done.returncode == 0, done.stderr
    assert tiny.weights_digest(third) == tiny.weights_digest(second)


def test_muon_on_a_model_of_all_variants_resumes_to_the_bit(base):
    variants = {f"model__{name}": value for name, value in EVERYTHING.items()}
    more = ["--zero", "0", *sets(optimizer__name="muon", **variants)]
    whole = train(base, "muon", *more)
    assert losses(whole)[-1] < losses(whole)[0]
    (whole / "manifest.json").unlink()
    digest = json.loads((whole / "checkpoints" / "step_00000006" / "manifest.json").read_text())["files"]
    seen = losses(whole)
    shutil.rmtree(whole / "checkpoints" / "step_00000006")
    done = tiny.run("resume", whole)
    assert done.returncode == 0, done.stderr
    assert losses(whole) == seen
    assert json.loads((whole / "checkpoints" / "step_00000006" / "manifest.json").read_text())["files"] == digest


def test_fp16_warns_trains_as_fp32_does_and_takes_overflowing_steps_again(base, first):
    run = base / "fp16"
    settings = sets(parallel__precision="fp16")
    done = tiny.run("train", base / "packed", "--config", base / "run.toml", *SHORT, *settings, "-o", run)
    assert done.returncode == 0, done.stderr
    assert "bf16 has the range of fp32" in done.stderr
    assert losses(run) == pytest.approx(losses(first), rel=1e-3)
    assert loss_scale(run) == {"loss_scale": FIRST, "loss_scale_steps": 6.0}

    steep = train(base, "steep", "--ranks", "2", *sets(parallel__precision="fp16", model__z_loss=100.0))
    found = loss_scale(steep)
    assert found["loss_scale"] < FIRST, "its first gradients overflow at the first scale"
    records = tiny.lines(steep / "metrics.jsonl")
    assert [record["samples"] for record in records] == [[8 * step, 8 * step + 8] for step in range(6)]
    assert all(math.isfinite(record["grad_norm"]) for record in records)
    assert not tiny.lines(steep / "attempts.jsonl"), "an overflow is no spike"


def loss_scale(run: Path) -> dict[str, float]:
    manifest = json.loads((run / "checkpoints" / "step_00000006" / "manifest.json").read_text())
    found: dict[str, float] = manifest["details"]["engine"]
    return found


def test_a_stage_that_would_make_another_optimiser_is_refused_before_anything_starts(base):
    run = base / "never"
    told = tiny.run("train", base / "packed", "--zero", "2", *sets(optimizer__name="muon"), "-o", run)
    assert told.returncode == 2
    assert "muon does not work under ZeRO-2" in told.stderr
    assert not run.exists()
