import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.costing.recovery import checkpoint_bytes, recovery
from ptool.costing.scaling import BESIROGLU, FITS, HOFFMANN, cheapest_for_use, compute_optimal, verdict
from ptool.formats.checkpoints import bytes_per_parameter


@given(st.floats(1e18, 1e27))
def test_both_fits_spend_exactly_what_there_is_and_nothing_near_is_better(flops):
    for fit, found in zip(FITS, compute_optimal(flops), strict=True):
        assert 6 * found.params * found.tokens == pytest.approx(flops, rel=1e-9)
        best = fit.loss(found.params, found.tokens)
        for factor in (0.9, 1.1):
            assert fit.loss(found.params * factor, found.tokens / factor) >= best


def test_the_coefficients_in_circulation_lose_a_factor_of_ten():
    flops = 5.76e23
    assert 6 * 0.057 * flops**0.49 * 0.293 * flops**0.51 / flops == pytest.approx(0.1, abs=0.001)


def test_the_refit_gives_back_chinchilla_for_its_budget():
    params, tokens = BESIROGLU.optimum(5.76e23)
    assert params == pytest.approx(70e9, rel=0.05)
    assert tokens == pytest.approx(1.4e12, rel=0.06)
    assert HOFFMANN.optimum(5.76e23)[1] / HOFFMANN.optimum(5.76e23)[0] > 80  # the known inconsistency


@given(st.floats(1e8, 1e12), st.floats(5, 500), st.floats(0, 1e14))
def test_the_model_for_use_reaches_the_same_loss_and_costs_no_more(params, ratio, use_tokens):
    tokens = params * ratio
    found = cheapest_for_use(params, tokens, use_tokens)
    assert BESIROGLU.loss(found.params, found.tokens) == pytest.approx(BESIROGLU.loss(params, tokens), rel=1e-6)
    assert found.saving >= -1e-6
    best = 6 * found.params * found.tokens + 2 * found.params * use_tokens
    for step in (-0.3, -0.05, 0.05, 0.3):  # a brute look around
        n = found.params * math.exp(step)
        d = BESIROGLU.tokens_for(BESIROGLU.loss(params, tokens), n)
        assert 6 * n * d + 2 * n * use_tokens >= best * (1 - 1e-6)


def test_more_use_wants_a_smaller_model():
    sizes = [cheapest_for_use(70e9, 1.4e12, use).params for use in (0, 1e12, 1e13, 1e14)]
    assert sizes == sorted(sizes, reverse=True)


def test_the_verdict_names_the_side():
    assert "smaller model" in verdict(2)
    assert verdict(20).startswith("near")
    assert "cheap to use" in verdict(2000)
    assert all(len(verdict(ratio)) <= 64 for ratio in (1, 9, 20, 299, 99_999))


def test_checkpoints_are_14_bytes_per_parameter_and_175b_is_2_45_tb():
    assert checkpoint_bytes(175 * 10**9) == 2.45e12
    assert checkpoint_bytes(10**9, precision="fp32") == 12e9


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_checkpoint_of_our_own_engine_has_the_bytes_that_are_written(precision):
    assert checkpoint_bytes(10**9, precision=precision, engine="deepspeed") == 10**9 * bytes_per_parameter()


@given(st.floats(1, 1000), st.floats(1e4, 1e7))
def test_no_interval_loses_less_than_dalys(save, mtbf):
    size = 10**9
    found = recovery(size, 1, gpu_mtbf_seconds=mtbf, storage_rate=14 * size / save)
    assert found.save_seconds == pytest.approx(save)
    assert found.young_seconds == pytest.approx(math.sqrt(2 * save * mtbf))

    def expected_seconds(interval):
        """Wall time per second of work with exponential failures and no restart cost (Daly 2006, eq. 13)."""
        return mtbf * (math.exp((interval + save) / mtbf) - 1) / interval

    if save < mtbf / 20:
        best = expected_seconds(found.daly_seconds)
        for factor in (0.8, 1.25):
            assert expected_seconds(found.daly_seconds * factor) >= best * (1 - 1e-4)


def test_more_gpus_fail_more_often():
    assert recovery(10**9, 1000).mtbf_seconds == pytest.approx(recovery(10**9, 1).mtbf_seconds / 1000)
