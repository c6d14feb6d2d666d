import pytest

from ptool.costing import efficiency
from ptool.costing.backtest import WIDEST, backtest, fit_overall
from ptool.costing.tables import runs
from ptool.costing.views import backtest_json, backtest_rows, score_rows

BANDS = {"a100": efficiency._A100, "h100": efficiency._H100_LARGE, "h100-small": efficiency._H100_SMALL}


@pytest.mark.parametrize("group", sorted(BANDS))
def test_the_default_bands_are_what_the_rule_makes_of_the_named_two_thirds(group):
    mfu, goodput = BANDS[group]
    for fitted, rate, share in zip(fit_overall(group), mfu, goodput, strict=True):
        assert rate == pytest.approx(fitted / share, abs=0.0009)


def test_a_third_of_the_runs_was_held_out_by_position_and_not_by_looks():
    assert [run.held_out for run in runs()] == [number % 3 == 2 for number in range(len(runs()))]


def test_at_least_four_runs_in_five_are_inside_and_the_held_out_ones_too():
    found = backtest()
    scores = {score.name: score for score in found.scores}
    assert found.hit_rate >= 0.8
    assert scores["held out"].num_inside / scores["held out"].num_runs >= 0.8
    assert scores["fitted"].num_runs + scores["held out"].num_runs == scores["all runs"].num_runs == len(runs())
    for group, widest in WIDEST.items():
        assert scores[group].width <= widest
    assert scores["all runs"].median_error < 0.25


def test_every_run_is_listed_once_with_its_verdict():
    found = backtest()
    _, rows = backtest_rows(found)
    assert [row[0] for row in rows] == [run.name for run in runs()]
    as_object = backtest_json(found)
    assert as_object["hit_rate"] == sum(run["inside"] for run in as_object["runs"]) / len(as_object["runs"])
    assert len(score_rows(found)[1]) == 6
