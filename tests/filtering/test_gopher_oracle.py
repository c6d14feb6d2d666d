"""Gopher quality decides as a slow reading of its rules does, which is datatrove 0.10.1's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ptool.filtering.decisions import judge
from ptool.filtering.recipe import Recipe, choose_recipe
from ptool.formats.streams import StreamReader
from ptool.text.batch import Batch, WordRule, decode
from ptool.text.characters import SYMBOL, character_flags

GOLDEN = json.loads((Path(__file__).parent / "golden" / "decisions.json").read_text())["gopher-quality"]
KEPT = 255

WHITESPACE = choose_recipe("gopher-quality", words="whitespace")
SYMBOLS = {chr(code) for code, flags in enumerate(character_flags().tolist()) if flags & SYMBOL}
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}


def first_failing_step(text: str) -> int:
    """The rules as data anchors and datatrove state them, on str.split() words; the step's position, or KEPT."""
    words = text.split()
    speaking = [word for word in words if set(word) - SYMBOLS]
    if not 50 <= len(speaking) <= 100_000:
        return 0
    if not 3 <= sum(map(len, speaking)) / len(speaking) <= 10:
        return 1
    if text.count("#") / len(words) > 0.1:
        return 2
    if (text.count("...") + text.count("…")) / len(words) > 0.1:
        return 3
    lines = text.splitlines()
    if sum(line.lstrip()[:1] in ("•", "-") and bool(line.lstrip()) for line in lines) / len(lines) > 0.9:
        return 4
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) > 0.3:
        return 5
    if sum(any(character.isalpha() for character in word) for word in words) / len(words) < 0.8:
        return 6
    return KEPT if len(STOP_WORDS & set(words)) >= 2 else 7


def decisions(batch: Batch, recipe: Recipe = WHITESPACE) -> list[int]:
    return [KEPT if failed < 0 else failed for failed in judge(batch, recipe).failed.tolist()]


def batches(path: Path, word_rule: WordRule = "whitespace") -> Iterator[Batch]:
    for lines in StreamReader([path]):
        batch, bad = decode(lines, word_rule=word_rule)
        assert not bad
        yield batch


@pytest.mark.parametrize("name", GOLDEN)
def test_decisions_equal_the_slow_reading_of_the_rules(name: str, shared: Path) -> None:
    batch = next(batches(shared / name))
    most = 400
    slow = [first_failing_step(batch.text_of(index).decode()) for index in range(min(len(batch), most))]
    assert decisions(batch)[:most] == slow


WORDS = [
    "the",
    "of",
    "and",
    "wörter",
    "一二三",
    "a",
    "1",
    "--",
    "...",
    "…",
    "#",
    "#tag",
    "x" * 30,
    "wait...",
    "-",
    "•",
    "\u0301",
]
GAPS = [" ", " ", " ", "\n", "\r\n", "\u2028", "\n- ", "\n• ", "...\n", "\x1c", "\xa0", "\x00", ""]
pieces = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), min_size=40, max_size=90)


@settings(deadline=None, max_examples=300)
@given(pieces, st.sets(st.sampled_from([*WORDS, "many"]), max_size=12))
@example([("the", " "), ("of", "\n")] * 25, set())
@example([("the", " "), ("of", " ")] * 24 + [("wait...", "\n")] * 6, set())
def test_decisions_equal_the_slow_reading_on_nasty_text(found: list[tuple[str, str]], banned: set[str]) -> None:
    text = "".join(("many" if word in banned else word) + gap for word, gap in found)
    assert decisions(Batch.from_texts([text], word_rule="whitespace")) == [first_failing_step(text)]


def test_english_is_judged_the_same_with_cjk_words(shared: Path) -> None:
    for name in ("data/corpus/gum.jsonl.zst", "data/corpus/inaugural.jsonl.zst"):
        for batch in batches(shared / name, "cjk"):
            expected = [first_failing_step(batch.text_of(index).decode()) for index in range(len(batch))]
            assert decisions(batch, choose_recipe("gopher-quality")) == expected


def test_chinese_pages_have_words_only_under_the_cjk_rule(shared: Path) -> None:
    rules = ["word-count:min=100", "alphabetic-words:min=0.6"]
    kept = {
        words: judge(
            next(batches(shared / "data/corpus/zh_wiki_cmrc.jsonl.zst", words)), choose_recipe(None, rules)
        ).failed
        < 0
        for words in ("cjk", "whitespace")
    }
    assert kept["cjk"].mean() > 0.99
    assert kept["whitespace"].mean() < 0.01
