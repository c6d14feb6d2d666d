from __future__ import annotations

from importlib.resources import files

import pytest

from ptool.errors import UsageError
from ptool.filtering.protocol import Range
from ptool.filtering.recipe import (
    DEFAULT_PRESET,
    choose_recipe,
    load_preset,
    parse_recipe,
    preset_names,
    read_recipe,
    rule_names,
    with_rules,
)
from ptool.filtering.report import list_rules, rules_text


class Notices:
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def progress(self, done: int, total: int | None, *, unit: str, detail: str = "") -> None:
        pass


def bounds(texts: list[str], *, preset: str | None = "gopher-quality") -> dict[str, tuple[float | None, float | None]]:
    steps = choose_recipe(preset, texts).steps
    return {step.name: (step.rule.accept.min, step.rule.accept.max) for step in steps}


def test_gopher_quality_has_the_papers_rules_in_datatroves_order() -> None:
    assert bounds([]) == {
        "word-count": (50, 100_000),
        "mean-word-length": (3, 10),
        "hash-symbols": (None, 0.1),
        "ellipsis-symbols": (None, 0.1),
        "bullet-lines": (None, 0.9),
        "ellipsis-lines": (None, 0.3),
        "alphabetic-words": (0.8, None),
        "stop-words": (2, None),
    }


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_complete_and_survives_the_manifest(name: str) -> None:
    recipe = load_preset(name)
    assert recipe.description
    again = read_recipe(recipe.config())
    assert again.steps == recipe.steps
    assert again.words == recipe.words
    text = files("ptool.filtering.presets").joinpath(f"{name}.toml").read_text()
    assert text.startswith("#"), "a preset opens by naming its source"
    assert "min" in text or "max" in text


def test_a_rule_option_changes_a_presets_bound_where_it_stands() -> None:
    steps = choose_recipe("gopher-quality", ["mean-word-length:max=12"]).steps
    assert [step.name for step in steps] == list(bounds([]))
    assert (steps[1].rule.accept.min, steps[1].rule.accept.max) == (3, 12)


def test_a_rule_option_adds_what_the_preset_lacks_at_the_end() -> None:
    recipe = parse_recipe('[[steps]]\nrule = "stop-words"\n', where="my.toml")
    names = [step.name for step in with_rules(recipe, ["word-count:min=3"]).steps]
    assert names == ["stop-words", "word-count"]


def test_rules_without_a_preset_are_the_whole_recipe() -> None:
    notices = Notices()
    recipe = choose_recipe(None, ["stop-words"], reporter=notices)
    assert [step.name for step in recipe.steps] == ["stop-words"]
    assert not notices.notices


def test_neither_preset_nor_rule_is_the_default_preset_and_says_so() -> None:
    notices = Notices()
    assert choose_recipe(None, reporter=notices).steps == load_preset(DEFAULT_PRESET).steps
    assert notices.notices == [f"no --preset and no --rule: using --preset {DEFAULT_PRESET}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("word-count:min=0", (0, 100_000)),
        ("word-count:min=1_000,max=2k", (1000, 2000)),
        ("word-count:max=none", (50, None)),
        ("word-count:min=none,max=2e12", (None, 2e12)),
        ("word-count:min=7,max=7", (7, 7)),
        ("word-count", (50, 100_000)),
        ("hash-symbols:max=5%", (None, 0.05)),
        ("hash-symbols:max=0", (None, 0)),
    ],
)
def test_bounds_are_numbers_as_people_type_them_and_zero_is_one(
    text: str, expected: tuple[float | None, float | None]
) -> None:
    assert bounds([text], preset=None)[text.partition(":")[0]] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("word-cuont", "unknown rule 'word-cuont' .*did you mean word-count.*valid: .*stop-words"),
        ("word-count:mni=3", "unknown parameter of word-count 'mni' .*did you mean min"),
        ("word-count:min", "'min' is not PARAMETER=VALUE"),
        ("word-count:min=", "'min=' is not PARAMETER=VALUE"),
        ("word-count:min=3,,max=4", "'' is not PARAMETER=VALUE"),
        ("word-count:min=3,min=4", "'min' is given twice"),
        ("word-count:min=nan", "'nan' is not a number"),
        ("word-count:min=inf", "'inf' is not a number"),
        ("word-count:max=-1", "'-1' is not a number"),
        ("word-count:max=1e999", "1e999"),
        ("word-count:min=9,max=3", "no value is at least 9 and at most 3"),
        ("word-count:max=20", "no value is at least 50 and at most 20"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_a_way_out(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}") as raised:
        choose_recipe(None, [text])
    assert raised.value.hint


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("steps = 3", "at least one step"),
        ("", "at least one step"),
        ("words = 'cjk'\n[[step]]\nrule='stop-words'", "unknown recipe key 'step' .*did you mean steps"),
        ("[[steps]]\nmin = 3", "the step names no rule"),
        ("[[steps]]\nrule = 'stop-words'\nmin = 'two'", "my.toml, step 1: .*float"),
        ("[[steps]]\nrule = 'stop-words'\nmin = nan", "finite"),
        (
            "words = 'latin'\n[[steps]]\nrule='stop-words'",
            "unknown word splitter 'latin' .*valid: cjk, whitespace, unicode",
        ),
        ("[[steps", "my.toml: not TOML"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_with_its_place(toml: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}"):
        parse_recipe(toml, where="my.toml")


def test_an_unknown_preset_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(UsageError, match="unknown preset 'gofer-quality' .*did you mean gopher-quality"):
        choose_recipe("gofer-quality")


def test_words_are_part_of_the_recipe_and_can_be_overridden() -> None:
    assert choose_recipe("gopher-quality").config()["words"] == "cjk"
    assert choose_recipe("gopher-quality", words="whitespace").config()["words"] == "whitespace"


def test_the_manifest_spells_out_a_lifted_bound() -> None:
    recipe = choose_recipe(None, ["word-count:max=none"])
    assert recipe.config()["steps"] == [{"rule": "word-count", "min": 50.0, "max": "none"}]
    assert read_recipe(recipe.config()) == recipe


def test_both_bounds_of_a_range_are_inside_it() -> None:
    import numpy as np

    values = np.array([-1.0, 0.0, 0.1, 0.1000000001, np.nan])
    assert Range(min=0, max=0.1).accepts(values).tolist() == [False, True, True, False, False]
    assert Range(min=0.1).accepts(values).tolist() == [False, False, True, True, False]
    assert Range().accepts(values).all()


def test_listed_rules_are_the_files_of_the_package() -> None:
    stems = {
        file.name.removesuffix(".py").replace("_", "-")
        for file in files("ptool.filtering.rules").iterdir()
        if file.name.endswith(".py") and not file.name.startswith("_")
    }
    assert {rule["rule"] for rule in list_rules()} == stems == set(rule_names())
    for name in stems:
        assert name in rules_text()
