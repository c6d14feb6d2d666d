"""A run of several folders and phases, stopped and resumed by another plan: what the plan says is what was done."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from ptool.training.corpus import open_corpus
from ptool.training.data import advance
from ptool.training.settings_text import from_toml
from tests.training import tiny

PHASES = """
[[phase]]
name = "both"
tokens = 5120
mix = { web = 0.75, code = 0.25 }

[[phase]]
name = "code"
tokens = 5120
mix = { code = 1.0 }
peak_lr = 1e-3
end_lr = 0.0
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("planned runs")
    made = [tiny.make_packed(base / "web", 300), tiny.make_packed(base / "code", 90)]
    growing = tiny.CONFIG.replace("tokens = 256", "tokens = 256\nwarmup_from = 128\nwarmup_tokens = 1024")
    (base / "run.toml").write_text(growing + PHASES)
    return made


def test_every_step_is_what_the_plan_says_also_after_the_plan_changed(folders: list[Path]) -> None:
    base = folders[0].parent
    run = base / "run"
    repeats = ["--set", "data.allow_repeats=true"]
    settings = ["--config", base / "run.toml", "--zero", "1", "--checkpoint-every", "5", "--deterministic"]
    refused = tiny.run("train", *folders, *settings, "-o", run)
    assert refused.returncode == 1
    assert "times over the phases both and code" in refused.stderr
    process = tiny.start("train", *folders, *settings, *repeats, "-o", run)
    tiny.wait_until(lambda: len(tiny.lines(run / "metrics.jsonl")) >= 12, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    before = tiny.history(run)
    changes = ["--set", "batch.tokens=512", "--set", "data.mix={code=0.5, web=0.5}", "--set", "parallel.ranks=1"]
    planned = json.loads(tiny.run("resume", run, *changes, "--dry-run", "--json").stdout)
    assert any("batch.tokens 256 -> 512" in change for change in planned["changes"])
    assert not any(event["event"] == "change" for event in tiny.lines(run / "events.jsonl")), "a dry run wrote"
    done = tiny.run("resume", run, *changes)
    assert done.returncode == 0, done.stderr

    config = from_toml(run / "config.toml")
    corpus = open_corpus(config)
    course = corpus.course
    steps = tiny.lines(run / "metrics.jsonl")
    assert tiny.history(run)[: len(before)] == before, "the past changed"
    assert [step["step"] for step in steps] == list(range(1, course.num_steps + 1))
    assert [step["tokens"] for step in steps] == [course.tokens(step["step"]) for step in steps]
    assert [step["lr"] for step in steps] == [course.learning_rate(step["step"]) for step in steps]
    sizes = [course.phase(step["step"]).rows for step in steps]
    assert [step["samples"] for step in steps] == [[sum(sizes[:k]), sum(sizes[: k + 1])] for k in range(len(sizes))]
    assert {4, 8, 16} == set(sizes)
    assert course.num_tokens >= 10_240
    assert {e["setting"] for e in tiny.lines(run / "events.jsonl") if e["event"] == "change"} >= {
        "batch.tokens",
        "data.mix",
        "parallel.ranks",
    }
    places = corpus.places(np.arange(advance(0, sum(sizes), [])), [])
    for folder, dataset in enumerate(corpus.datasets):
        drawn = places.rows[places.folders == folder]
        first_epoch = drawn[: dataset.train.num_rows].tolist()
        assert len(set(first_epoch)) == len(first_epoch), "a row came again before its others"
    assert steps[-1]["loss"] < steps[0]["loss"]

    longer = tiny.run("resume", run, "--set", f"run.tokens={course.num_tokens + 1024}")
    assert longer.returncode == 0, longer.stderr
    assert len(tiny.lines(run / "metrics.jsonl")) == course.num_steps + 2


def test_steps_planned_for_fewer_ranks_are_taken_again_by_more_than_their_batch_has_rows(folders: list[Path]) -> None:
    """The newest checkpoint cannot be read, so the run goes on from before the change: two rows on three ranks."""
    base = folders[0].parent
    run = base / "ranks"
    seed = "[run]\nseed = 20251122174500\n"  # a time of day is a seed too, large as it is
    (base / "small.toml").write_text(tiny.CONFIG.replace("tokens = 256", "tokens = 64") + seed)
    settings = ["--config", base / "small.toml", "--ranks", "1", "--checkpoint-every", "2", "--max-steps", "4"]
    assert tiny.run("train", folders[0], *settings, "-o", run).returncode == 0
    before = tiny.history(run)
    weights = run / "checkpoints" / "step_00000004" / "weights_00000.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    changes = ["--set", "parallel.ranks=3", "--set", "batch.tokens=96", "--set", "run.max_steps=6"]
    done = tiny.run("resume", run, *changes)
    assert done.returncode == 0, done.stderr
    assert "step 4 is broken" in done.stderr
    after = tiny.history(run)
    assert [(step, samples) for step, _, _, samples in after[:4]] == [(step, samples) for step, _, _, samples in before]
    for now, was in zip(after[:4], before, strict=True):
        assert now[1:3] == pytest.approx(was[1:3], rel=1e-4)
    assert [samples for _, _, _, samples in after[4:]] == [[8, 14], [14, 20]], "six rows: two on each rank"
    assert {r["attempt"] for r in tiny.lines(run / "metrics.jsonl")[2:]} == {2}
