"""The engine by itself: updates that are refused, cut in other numbers of micro-batches, or overflow."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ptool.optimizers.choices import KINDS
from ptool.training.engine import EngineSpec, _deepspeed_config
from ptool.training.optimizer import gated
from ptool.training.scaling import HIGHEST
from tests.training import tiny


@pytest.fixture(scope="module")
def reports():
    """What refused_updates.py tells, by its kind."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("refused_updates.py")
    done = subprocess.run(
        [sys.executable, str(script), str(port)], capture_output=True, text=True, timeout=120, env=tiny.environment()
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {
        kind: [report for report in told if report["kind"] == kind] for kind in ("refused", "cut", "overflow", "rates")
    }


def test_a_refused_update_leaves_weights_and_moments_to_the_bit_whatever_the_stage_and_optimiser(reports):
    named = {report["case"].split()[0] for report in reports["refused"]}
    assert named == set(KINDS) - {"adam8bit"}, "adam8bit needs a GPU"
    for report in reports["refused"]:
        assert report["stood_still"], report
        assert report["same_as_calm"], f"the moments or the step count moved: {report}"
        assert report["moved"], f"accepted updates do move them: {report}"
        assert report["finite"] == [True, True, False, True], report
        assert report["scale"], f"a refused update is no overflow: {report}"


def test_the_number_of_micro_batches_may_change_between_steps_and_changes_sums_alone(reports):
    assert [report["case"] for report in reports["cut"]] == [f"ZeRO-{zero}" for zero in range(4)]
    for report in reports["cut"]:
        for steady, changing in report["norms"]:
            assert changing == pytest.approx(steady, rel=1e-6), report
        assert report["differ"], "otherwise nothing was cut otherwise"
        assert report["apart"] < 1e-5, report


def test_an_overflow_in_fp16_lowers_the_scale_and_the_step_is_taken_again_as_if_for_the_first_time(reports):
    assert sorted(report["case"] for report in reports["overflow"]) == ["ZeRO-0", "ZeRO-2", "ZeRO-3"]
    for report in reports["overflow"]:
        assert report["repeats"] >= 3, report
        assert report["scale"] == {"loss_scale": HIGHEST / 2 ** report["repeats"], "loss_scale_steps": 1.0}
        assert report["norms"][0] == report["norms"][1] == pytest.approx(1.0465, rel=1e-3), "norms without the scale"
        assert report["norms"][2] == pytest.approx(report["norms"][3], rel=1e-3)
        assert report["apart"] < 1e-4, "gradients of two scales are of one size to the moments"


def test_hidden_matrices_of_a_wide_model_learn_at_a_rate_divided_by_its_width(reports):
    assert [report["found"] for report in reports["rates"]] == [[0.01 / 4, 0.01]] * 3


@pytest.mark.parametrize("num_parameters", [5, 1001, 3**9, 10**9 + 1])
def test_buckets_are_of_an_even_size_which_zero_demands(num_parameters):
    config = _deepspeed_config(EngineSpec(zero=1, precision="fp32", device="cpu", accumulation=1), num_parameters)
    sizes = {name: size for name, size in config["zero_optimization"].items() if name.endswith("bucket_size")}
    assert len(sizes) == 3
    assert all(size % 2 == 0 and size >= min(num_parameters, 500_000_000) for size in sizes.values())


def test_a_gate_stands_before_any_class_and_is_asked_once_for_all_groups():
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = gated(torch.optim.SGD)([{"params": [first]}, {"params": [second]}], lr=1.0)
    with pytest.raises(RuntimeError, match="without an open update"):
        optimizer.step()
    asked = []

    def gate(norm):
        asked.append(norm)
        return 0.5

    optimizer.open(gate)
    groups = optimizer.param_groups
    for parameter in (first, second):
        parameter.grad = torch.tensor([3.0, 4.0])
    for group in groups:  # as ZeRO does it
        optimizer.param_groups = [group]
        optimizer.step()
    assert asked == [5.0]
    assert first.tolist() == second.tolist() == [1 - 0.5 * 3, 1 - 0.5 * 4]
