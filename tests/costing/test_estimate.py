from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.costing.estimate import estimate_cost
from ptool.costing.tables import gpus, prices
from ptool.errors import UsageError
from ptool.units import Band, parse_band, parse_count

FULL = Band(1, 1, 1)


def usual(params, tokens, **options):
    """45 % of an H100's dense peak, no losses, $2 per hour."""
    bands = {"mfu": Band(0.45, 0.45, 0.45), "goodput": FULL, "price": Band(2, 2, 2)}
    return estimate_cost(parse_count(params), parse_count(tokens), **(bands | options))


@pytest.mark.parametrize(
    ("params", "tokens", "flops", "thousands_of_hours", "dollars"),
    [
        ("7B", "2T", 8.4e22, 52.4, None),
        ("13B", "2T", 1.56e23, 97.3, None),
        ("70B", "2T", 8.4e23, 524, 1.05e6),
        ("70B", "15T", 6.3e24, 3930, None),
        ("405B", "15T", 3.645e25, 22_700, 45.5e6),
    ],
)
def test_the_common_cases_come_out_to_the_published_digits(params, tokens, flops, thousands_of_hours, dollars):
    found = usual(params, tokens)
    assert found.flops == pytest.approx(flops, rel=1e-12)
    assert float(f"{found.gpu_hours.mid / 1000:.3g}") == thousands_of_hours
    if dollars:
        assert float(f"{found.cost_usd.mid:.3g}") == dollars
    assert found.gpu_hours.low == found.gpu_hours.high


def test_the_defaults_are_a_band_around_what_published_runs_took():
    found = estimate_cost(70 * 10**9, 2 * 10**12, num_gpus=2048)
    assert [round(value, -3) for value in found.gpu_hours] == [541_000, 925_000, 1_404_000]
    assert [round(seconds / 86_400, 1) for seconds in found.wall_seconds] == [11.0, 18.8, 28.6]
    assert found.cost_usd.low < found.cost_usd.mid < found.cost_usd.high


def test_low_cost_comes_from_high_efficiency_and_a_low_price():
    found = estimate_cost(
        7 * 10**9, 10**12, mfu=Band(0.2, 0.3, 0.4), goodput=Band(0.5, 0.8, 1.0), price=Band(1, 2, 3), num_gpus=100
    )
    best = 6 * 7e9 * 1e12 / (989.4e12 * 0.4 * 1.0) / 3600
    worst = 6 * 7e9 * 1e12 / (989.4e12 * 0.2 * 0.5) / 3600
    assert found.gpu_hours.low == pytest.approx(best)
    assert found.gpu_hours.high == pytest.approx(worst)
    assert found.cost_usd.low == pytest.approx(best * 1)
    assert found.cost_usd.high == pytest.approx(worst * 3)
    assert found.wall_seconds.high == pytest.approx(worst * 36)
    assert found.energy_kwh.low == pytest.approx(best * 0.7)


@given(
    params=st.integers(1, 10**13),
    ratio=st.floats(1.01, 90_000),
    gpu=st.sampled_from(sorted(gpus())),
    num_gpus=st.none() | st.integers(1, 10**6),
)
def test_every_estimate_rises_from_low_to_high_and_is_proportional_to_tokens(params, ratio, gpu, num_gpus):
    tokens = int(params * ratio) + 1
    found = estimate_cost(params, tokens, gpu=gpu, num_gpus=num_gpus)
    bands = [found.gpu_hours, found.wall_seconds, found.energy_kwh, *([found.cost_usd] if found.cost_usd else [])]
    for band in bands:
        assert 0 < band.low <= band.mid <= band.high
    once_more = estimate_cost(params, tokens + params, gpu=gpu, num_gpus=num_gpus)
    assert once_more.gpu_hours.mid / found.gpu_hours.mid == pytest.approx((tokens + params) / tokens)


def test_without_a_number_of_gpus_the_expected_run_ends_within_a_month():
    for params, tokens in ((10**7, 10**9), (7 * 10**9, 2 * 10**12), (405 * 10**9, 15 * 10**12)):
        found = estimate_cost(params, tokens)
        assert found.num_gpus >= 8
        assert found.num_gpus & (found.num_gpus - 1) == 0
        assert found.wall_seconds.mid <= 30 * 86_400
        if found.num_gpus > 8:
            assert found.wall_seconds.mid > 15 * 86_400


@pytest.mark.parametrize("mfu", ["0.66", "0.5:0.6:0.7", "45", "0"])
def test_an_mfu_that_no_run_has_reached_is_refused_with_the_reason(mfu):
    with pytest.raises(UsageError, match="MFU") as raised:
        usual("7B", "1T", mfu=parse_band(mfu))
    assert "no published" in str(raised.value)


@pytest.mark.parametrize(
    ("params", "tokens", "reason"),
    [
        ("70T", "2T", "below 1"),
        ("1M", "200B", "above 100,000"),
        ("0", "2T", "--params must be at least 1"),
        ("7B", "0", "--tokens must be at least 1"),
    ],
)
def test_sizes_that_cannot_be_meant_are_refused_with_the_reason(params, tokens, reason):
    with pytest.raises(UsageError, match=reason):
        estimate_cost(parse_count(params), parse_count(tokens))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"goodput": Band(0.5, 0.9, 1.1)}, "goodput 110 % is above 100 %"),
        ({"goodput": Band(0, 0, 0)}, "goodput 0 % is below 1 %"),
        ({"price": Band(1e9, 1e9, 1e9)}, "price"),
        ({"num_gpus": 0}, "--gpus must be at least 1"),
    ],
)
def test_other_slips_are_refused_too(options, reason):
    with pytest.raises(UsageError, match=reason):
        usual("7B", "1T", **options)


def test_an_unknown_gpu_gets_the_nearest_and_the_list_and_a_short_name_is_enough():
    with pytest.raises(UsageError) as raised:
        estimate_cost(7 * 10**9, 10**12, gpu="h100-sxn")
    assert "did you mean h100-sxm" in raised.value.hint
    assert all(name in raised.value.hint for name in gpus())
    assert estimate_cost(7 * 10**9, 10**12, gpu="h100").gpu.name == "h100-sxm"
    assert estimate_cost(7 * 10**9, 10**12, gpu="a100").gpu.name == "a100-80gb"


def test_a_price_is_old_after_180_days_and_a_given_price_never_is():
    as_of = prices()["h100-sxm"].as_of
    days = [as_of.toordinal() + age for age in (180, 181)]
    fresh, old = (estimate_cost(7 * 10**9, 10**12, today=date.fromordinal(day)) for day in days)
    assert [warned.code for warned in fresh.warnings] == []
    assert [warned.code for warned in old.warnings] == ["old-price"]
    assert "181 days" in old.warnings[0].message
    given = estimate_cost(7 * 10**9, 10**12, price=Band(2, 2, 2), today=date.fromordinal(days[1] + 4000))
    assert given.warnings == ()


def test_a_gpu_without_runs_or_price_says_so_and_has_no_cost():
    found = estimate_cost(7 * 10**9, 10**12, gpu="mi300x")
    assert {warned.code for warned in found.warnings} == {"uncalibrated-gpu", "no-price"}
    assert found.cost_usd is None
    h100 = estimate_cost(7 * 10**9, 10**12)
    width, known = (found.efficiency.mfu.high / found.efficiency.mfu.low for found in (found, h100))
    assert width == pytest.approx(known * 1.1 / 0.8, rel=0.02)
    assert found.efficiency.mfu.mid < h100.efficiency.mfu.mid


def test_small_models_on_an_h100_are_expected_to_be_less_efficient():
    small, large = (estimate_cost(params, 10**13).efficiency for params in (3 * 10**9, 7 * 10**9))
    assert small.mfu == Band(0.234, 0.279, 0.423)
    assert large.mfu == Band(0.24, 0.311, 0.469)
    assert "olmoe-7b-a1b" in small.basis
    assert "llama-3.1-70b" in large.basis


def test_neighbours_are_published_runs_of_like_size():
    assert estimate_cost(70 * 10**9, 15 * 10**12).neighbours[0].run.id in {
        "llama-3-70b",
        "llama-3.1-70b",
        "apertus-70b",
    }
    assert estimate_cost(7 * 10**9, 2 * 10**12, gpu="a100-80gb").neighbours[0].run.id == "llama-2-7b"
