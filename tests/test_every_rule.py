"""Every rule, found by its file: its own examples, and a finite, repeatable number for any text whatever."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.filtering.decisions import decide
from ptool.filtering.protocol import Rule
from ptool.filtering.recipe import choose_recipe, describe, load_rule, read_recipe, rule_names
from ptool.formats.streams import Lines
from ptool.text.batch import Batch, Keys, WordRule

NAMES = rule_names()
WORD_RULES: tuple[WordRule, ...] = ("cjk", "whitespace", "unicode")

NASTY = {
    "empty": "",
    "whitespace": " \t\u3000\xa0 \n \r\n \u2028",
    "only newlines": "\n" * 1000,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈❤️ 🙂" * 50,
    "combining marks": "a" + "\u0301" * 10_000,
    "NUL and controls": "".join(map(chr, range(32))) * 20,
    "bare surrogate neighbours": "\ud7ff\ue000\uffff\U0010ffff",
    "byte order mark": "\ufeffthe and of",
    "Chinese": "帝京篇十首。秦川雄帝宅，函谷壯皇居。" * 20,
    "1 MB line": "word " * 200_000,
    "1 MB without a space": "x" * 1_000_000,
    "1 MB of lines": "-\n" * 500_000,
}


@pytest.fixture(scope="module")
def fifty_megabytes() -> Batch:
    """One document of one line; the batch keeps its words, so that each rule pays only for itself."""
    return Batch.from_texts(["the quick brown fox, 狐狸... #1 " * (50_000_000 // 34)])


def measure(rule: Rule, texts: list[str], word_rule: WordRule = "cjk") -> np.ndarray:
    values = rule.measure(Batch.from_texts(texts, word_rule=word_rule))
    assert values.shape == (len(texts),)
    assert values.dtype == np.float64
    assert np.isfinite(values).all(), values
    return values


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_keeps_and_drops_its_own_examples(name: str) -> None:
    rule = load_rule(name)()
    assert rule.keeps
    assert rule.drops
    for texts, kept in ((rule.keeps, True), (rule.drops, False)):
        values = measure(rule, list(texts))
        for text, value, accepted in zip(texts, values, rule.accept.accepts(values), strict=True):
            assert accepted == kept, f"{name} measures {value} in {text[:60]!r}, and accepts {rule.accept}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", NASTY)
@pytest.mark.parametrize("word_rule", WORD_RULES)
def test_a_rule_is_finite_repeatable_and_blind_to_neighbours(name: str, kind: str, word_rule: WordRule) -> None:
    rule = load_rule(name)()
    alone = measure(rule, [NASTY[kind]], word_rule)
    among = measure(rule, ["the first", NASTY[kind], "", "und das letzte\n"], word_rule)
    assert alone[0] == among[1] == measure(rule, [NASTY[kind]], word_rule)[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_measures_a_document_of_50_megabytes(name: str, fifty_megabytes: Batch) -> None:
    rule = load_rule(name)()
    first = rule.measure(fifty_megabytes)
    assert np.isfinite(first).all()
    assert first.tolist() == rule.measure(fifty_megabytes).tolist()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(), min_size=1, max_size=4))
def test_all_rules_are_finite_on_any_text(texts: list[str]) -> None:
    for name in NAMES:
        measure(load_rule(name)(), texts)


def test_a_lone_surrogate_reaches_no_rule() -> None:
    lines = Lines(data=b'{"text":"\\ud800"}\n', origin="a", path="a", first_number=1)
    decided = decide(lines, choose_recipe(None, NAMES), Keys())
    assert decided.num_kept == 0
    assert "lone surrogate" in decided.removed[0].message  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_says_what_it_measures_and_where_it_comes_from(name: str) -> None:
    module = sys.modules[load_rule(name).__module__]
    assert 10 < len(describe(name)) < 80
    assert "Source:" in (module.__doc__ or "")


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_travels_to_workers_and_into_manifests(name: str) -> None:
    recipe = choose_recipe(None, [f"{name}:min=0,max=none"])
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    written = json.loads(json.dumps(recipe.config()))
    assert read_recipe(written) == recipe


def test_knowing_the_rules_takes_no_compiler() -> None:
    program = (
        "import sys\nfrom ptool.filtering.report import list_rules\nlist_rules()\n"
        "assert not {'numba', 'torch', 'typer', 'rich'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
