import pytest

from ptool.costing.efficiency import HIGHEST_MFU, expected_efficiency
from ptool.costing.tables import gpus, prices, runs


def test_no_run_implies_a_utilisation_that_cannot_be():
    for run in runs():
        assert 0.05 < run.implied_mfu < HIGHEST_MFU, run.id


@pytest.mark.parametrize(
    ("run_id", "percent"),
    [
        ("llama-1-65b", 47.2), ("llama-2-7b", 39.1), ("llama-2-13b", 37.7), ("llama-2-70b", 42.9), ("bloom-176b", 31.8),
        ("glm-130b", 25.1), ("tinyllama-1.1b", 51.0), ("pythia-12b", 26.3), ("starcoderbase-15b", 25.9),
        ("falcon-40b", 39.9), ("llama-3-8b", 15.6), ("llama-3-70b", 27.9), ("llama-3.1-8b", 13.9),
        ("llama-3.1-70b", 25.5), ("llama-3.1-405b", 34.5), ("nemotron-4-15b", 21.9), ("nemotron-4-340b", 39.7),
        ("apertus-70b", 29.7), ("smollm3-3b", 26.3), ("olmoe-7b-a1b", 18.2), ("llama-4-scout", 22.9),
        ("llama-4-maverick", 26.5), ("deepseek-v3", 34.6),
    ],
)  # fmt: skip
def test_runs_imply_the_utilisation_that_was_worked_out_by_hand(run_id, percent):
    """Worked out from 6ND, the GPU-hours and a peak of 989 (H100) or 312 (A100) TFLOP/s, apart from this code."""
    run = next(run for run in runs() if run.id == run_id)
    assert run.implied_mfu * 100 == pytest.approx(percent, abs=0.1)


def test_every_run_names_a_gpu_and_a_source_and_has_plausible_sizes():
    ids = [run.id for run in runs()]
    assert len(ids) == len(set(ids)) >= 20
    for run in runs():
        assert run.gpu in gpus(), run.id
        assert gpus()[run.gpu].runs, f"{run.id}: its GPU has no group of runs"
        assert run.source.startswith("https://"), run.id
        assert 0 < run.active_params <= run.params < run.num_tokens, run.id
        assert len(run.name) <= 20, f"{run.id}: its name is wider than the column it is printed in"


def test_the_default_bands_hold_four_published_runs_in_five_and_are_not_vacuous():
    inside = 0
    for run in runs():
        found = expected_efficiency(gpus()[run.gpu], params=run.params, is_mixture=run.is_mixture)
        low, high = found.mfu.low * found.goodput.low, found.mfu.high * found.goodput.high
        assert high / low <= (4 if run.is_mixture or run.params < 4e9 else 2.6), run.id
        inside += low <= run.implied_mfu <= high
    assert inside / len(runs()) >= 0.8


def test_links_are_one_way_and_the_node_is_faster_than_the_network():
    assert gpus()["h100-sxm"].link_bytes == 450e9
    assert gpus()["a100-80gb"].link_bytes == 300e9
    for gpu in gpus().values():
        assert gpu.network_bytes < gpu.link_bytes <= 900e9, gpu.name


def test_no_peak_counts_sparsity():
    """A measured matrix multiplication reaches half of a dense peak at the least, so half of it of a doubled one."""
    for gpu in gpus().values():
        if gpu.achievable:
            assert 0.5 <= gpu.achievable <= 1, gpu.name
    assert gpus()["h100-sxm"].peak_flops == 989.4e12
    assert gpus()["a100-80gb"].peak_flops == 312e12


def test_prices_belong_to_known_gpus_and_rise():
    for name, price in prices().items():
        assert name in gpus()
        assert 0 < price.band.low <= price.band.mid <= price.band.high < 25, name
        assert price.as_of is not None
        assert price.source
    assert "h100-sxm" in prices()
