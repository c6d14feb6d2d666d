"""The layout of bands, and what a configuration refuses."""

from __future__ import annotations

import pytest
from datasketch import MinHashLSH

from ptool.dedup.config import MARGIN, RECALL, Bands, DedupConfig, choose_bands
from ptool.errors import UsageError


def test_the_default_is_fourteen_bands_of_eight_rows() -> None:
    assert DedupConfig().layout == Bands(14, 8)
    assert Bands(14, 8).threshold == pytest.approx(0.719, abs=5e-4)
    assert Bands(14, 8).probability(0.85) == pytest.approx(0.988, abs=5e-4)


def test_datasketch_s_own_optimum_would_miss_a_quarter_of_the_pairs() -> None:
    assert Bands(9, 12).probability(0.85) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("num_perm", [64, 112, 128, 256])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.93, 0.95, 1.0])
def test_the_chosen_layout_finds_pairs_above_the_threshold_with_fewest_candidates(
    threshold: float, num_perm: int
) -> None:
    chosen = choose_bands(threshold, num_perm)
    target = min(threshold + MARGIN, (1 + threshold) / 2)
    assert chosen.bands * chosen.rows <= num_perm
    assert chosen.probability(target) >= RECALL
    for rows in range(1, num_perm + 1):  # every layout that finds as many makes at least as many candidates
        for bands in range(1, num_perm // rows + 1):
            other = Bands(bands, rows)
            if other.probability(target) >= RECALL:
                assert candidates(other, threshold) >= candidates(chosen, threshold) - 1e-4


def candidates(layout: Bands, threshold: float) -> float:
    """Trapezoids instead of midpoints, few of them: a second opinion on the integral."""
    steps = 64
    heights = [layout.probability(threshold * step / steps) for step in range(steps + 1)]
    return threshold / steps * (sum(heights) - (heights[0] + heights[-1]) / 2)


def test_bands_and_rows_given_by_hand_are_taken() -> None:
    assert DedupConfig(bands=20, rows=5).layout == Bands(20, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.01}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"ngram": 0}, "ngram"),
        ({"num_perm": 0}, "num-perm"),
        ({"seed": 2**32}, "seed"),
        ({"seed": -1}, "seed"),
        ({"max_bucket": 0}, "max-bucket"),
        ({"bands": 14}, "go together"),
        ({"bands": 15, "rows": 8}, "need 120 permutations"),
        ({"bands": 0, "rows": 8}, "bands"),
        ({"mode": "fuzzy"}, "fuzzy"),
        ({"verify": "maybe"}, "maybe"),
        ({"num_perm": 2}, "too few"),
        ({"prefer": "shortest"}, "shortest"),
        ({"prefer": "source="}, "source="),
        ({"shingle": "byte"}, "byte"),
        ({"scheme": "affine"}, "affine"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DedupConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_perm", [48, 112, 128, 200])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9])
def test_datasketch_s_layout_on_request(threshold: float, num_perm: int) -> None:
    theirs = MinHashLSH(threshold=threshold, num_perm=num_perm)
    found = DedupConfig(band_rule="datasketch", threshold=threshold, num_perm=num_perm).layout
    assert found == Bands(theirs.b, theirs.r)
    assert DedupConfig(band_rule="datasketch").layout == Bands(9, 12)


def test_datatrove_s_layout_is_its_own_whatever_the_threshold() -> None:
    config = DedupConfig.datatrove(threshold=0.7)
    assert (config.layout, config.scheme, config.normalize) == (Bands(14, 8), "datatrove", True)


def test_the_record_of_exact_mode_holds_nothing_that_exact_mode_ignores() -> None:
    assert DedupConfig(mode="exact", threshold=0.5).record() == DedupConfig(mode="exact").record()
