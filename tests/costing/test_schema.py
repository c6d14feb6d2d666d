import json
from importlib.resources import files

import jsonschema
import pytest

from ptool.costing.estimate import estimate
from ptool.costing.explain import explain, explain_text
from ptool.costing.report import as_json, as_text
from ptool.costing.request import build_request
from ptool.costing.views import compare, compare_json

SCHEMA = json.loads(files("ptool.costing").joinpath("estimate-cost.schema.json").read_text())

QUESTIONS = {
    "plain": {"params": 70 * 10**9, "tokens": 2 * 10**12},
    "mixture": {"params": 671 * 10**9, "active_params": 37 * 10**9, "tokens": 14 * 10**12, "gpu": "h800"},
    "named": {"model": "7b", "tokens": 2 * 10**12, "gpus": 64, "inference_tokens": 10**13},
    "no price": {"model": "7b", "tokens": 2 * 10**12, "gpu": "mi300x", "precision": "fp8"},
    "layout": {"model": "70b", "tokens": 2 * 10**12, "gpus": 64, "tp": 8, "pp": 2, "zero": 1, "recompute": "full"},
    "does not fit": {"model": "70b", "tokens": 2 * 10**12, "gpus": 8},
    "fp32": {"model": "1b", "tokens": 10**12, "gpus": 8, "precision": "fp32", "engine": "deepspeed"},
    "causal": {"model": "7b", "tokens": 10**12, "mfu_convention": "causal", "fp32_gradients": True, "no_flash": True},
    "budget": {"budget": 2e6, "deadline": 86_400.0 * 30},
}


def test_the_schema_is_one_and_it_refuses_a_key_that_is_missing_or_new():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    good = as_json(estimate(build_request(QUESTIONS["plain"])))
    for bad in ({key: value for key, value in good.items() if key != "cost_usd"}, {**good, "price": 3}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, SCHEMA)


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_every_answer_is_as_the_schema_says(name):
    asked = build_request(QUESTIONS[name])
    found = estimate(asked)
    as_object = as_json(found)
    as_object["explanation"] = [line._asdict() for line in explain(found)]
    as_object["compare"] = compare_json(compare(asked, ["a100", "h200", "b300"]))
    written = json.loads(json.dumps(as_object, allow_nan=False))
    assert list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(written)) == []


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_every_page_is_80_columns_of_ascii(name):
    found = estimate(build_request(QUESTIONS[name]))
    for line in as_text(found).splitlines():
        assert len(line) <= 80, line
        assert line.isascii()
    assert all(line.source and line.numbers for line in explain(found))
    assert "source: Kaplan" in explain_text(found)


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_the_reproduce_line_gives_the_same_figures(name):
    import shlex

    from ptool.cli.app import build
    from ptool.cli.commands import COMMANDS

    found = estimate(build_request(QUESTIONS[name]))
    words = shlex.split(as_json(found)["reproduce"])
    command = build(COMMANDS["estimate-cost"])
    with command.make_context("ptool estimate-cost", words[2:]) as context:
        again = estimate(build_request(context.params))
    assert again.gpu_hours == pytest.approx(found.gpu_hours, rel=1e-6)
    assert again.num_gpus == found.num_gpus
    if found.cost_usd:
        assert again.cost_usd == pytest.approx(found.cost_usd, rel=1e-6)
    if found.fit:
        assert again.fit.memory == found.fit.memory
