"""What cannot run together is refused before anything starts; what can, has its own constants."""

from __future__ import annotations

import pytest

from ptool.errors import UsageError
from ptool.optimizers.choices import KINDS
from ptool.training import requirements
from ptool.training.changing import change_plan
from ptool.training.config import Execution, Optimizer, Parallel
from ptool.training.requirements import check_execution, resolve_optimizer
from ptool.training.resolving import check
from tests.training.plans import facts, resolved

CPU = Parallel(zero=0, device="cpu", precision="fp32", ranks=2)
GPU = Parallel(zero=2, device="cuda", precision="bf16", ranks=2)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "adam8bit"])
def test_an_optimiser_left_open_takes_its_own_constants_and_a_rate_of_its_kind(name):
    open_ones = Optimizer(name=name, beta1=-1, beta2=-1, eps=-1)
    found, kind = resolve_optimizer(open_ones, CPU, 1e-3), KINDS[name]
    assert (found.beta1, found.beta2, found.eps) == (*kind.betas, kind.eps)
    assert found.peak_lr == pytest.approx(1e-3 * kind.lr_ratio)
    assert resolve_optimizer(found, CPU, 5.0) == found, "resolving again changes nothing"


def test_what_was_given_is_kept():
    given = Optimizer(name="lion", beta1=0.5, beta2=0.0, eps=0.0, peak_lr=7e-4)
    assert resolve_optimizer(given, CPU, 1e-3) == given


@pytest.mark.parametrize("name", ["lamb", "adafactor", "muon"])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_an_optimiser_that_needs_whole_tensors_is_refused_above_stage_0(name, zero):
    with pytest.raises(UsageError, match=rf"{name} does not work under ZeRO-{zero}"):
        resolve_optimizer(Optimizer(name=name), Parallel(zero=zero, device="cpu"), 1e-3)


def test_eight_bits_need_a_gpu_and_their_library(monkeypatch):
    with pytest.raises(UsageError, match="needs a GPU"):
        resolve_optimizer(Optimizer(name="adam8bit"), CPU, 1e-3)
    monkeypatch.setattr(requirements, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="bitsandbytes, which is not installed"):
        resolve_optimizer(Optimizer(name="adam8bit"), GPU, 1e-3)
    monkeypatch.setattr(requirements, "find_spec", lambda _name: object())
    assert resolve_optimizer(Optimizer(name="adam8bit"), GPU, 1e-3).peak_lr == 1e-3


def test_an_unknown_optimiser_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean adamw"):
        resolve_optimizer(Optimizer(name="adam"), CPU, 1e-3)


@pytest.mark.parametrize(
    ("execution", "parallel", "told"),
    [
        (Execution(compile=True), Parallel(zero=3, device="cuda"), "compiled model does not work under ZeRO-3"),
        (Execution(attention="flex"), CPU, "no backward pass on the CPU"),
        (Execution(attention="varlen"), CPU, "needs a GPU"),
        (Execution(attention="varlen"), Parallel(device="cuda", precision="fp32"), "needs bf16 or fp16"),
    ],
)
def test_a_way_of_computing_that_this_run_lacks_is_refused(execution, parallel, told):
    with pytest.raises(UsageError, match=told):
        check_execution(execution, parallel)


@pytest.mark.parametrize(
    ("begun", "asked", "told"),
    [
        ({"optimizer": {"name": "muon"}, "parallel": {"zero": 0}}, {"parallel": {"zero": 2}}, "muon does not work"),
        ({"execution": {"compile": True}}, {"parallel": {"zero": 3}}, "compiled model does not work"),
        ({"parallel": {"zero": 3}}, {"execution": {"compile": True}}, "compiled model does not work"),
        ({}, {"optimizer": {"name": "lion"}}, "moments of one optimiser mean nothing to another"),
    ],
)
def test_a_run_that_has_begun_cannot_change_to_what_cannot_run(begun, asked, told):
    with pytest.raises(UsageError, match=told):
        change_plan(resolved(**begun), check(asked), facts(), 1)


def test_a_run_that_has_begun_may_be_computed_otherwise():
    found, changes = change_plan(resolved(), check({"execution": {"recompute": "full"}}), facts(), 1)
    assert found.execution.recompute == "full"
    assert [change.setting for change in changes] == ["execution.recompute"]


def test_the_rest_may_run():
    check_execution(Execution(), CPU)
    check_execution(Execution(compile=True, recompute="full", attention="varlen"), GPU)
