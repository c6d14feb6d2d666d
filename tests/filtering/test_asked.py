"""Rules that need something: fields, lists, languages; and fractions that are kept by a hash of the text."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptool.errors import InputError, UsageError
from ptool.filtering.asked import blocked_urls
from ptool.filtering.asked.blocked_domains import domains_of
from ptool.filtering.decisions import Decided, Dropped, decide
from ptool.filtering.documents import filter_documents
from ptool.filtering.recipe import Recipe, choose_recipe, make_rule, read_recipe
from ptool.filtering.requests import steps_before
from ptool.formats.streams import Lines
from ptool.text.batch import Keys


def decided(recipe: Recipe, *documents: dict[str, Any]) -> Decided:
    lines = b"".join(json.dumps({"id": str(n), "text": "x", **one}).encode() + b"\n" for n, one in enumerate(documents))
    return decide(Lines(lines, "a", "a", 1), recipe, Keys())


def kept(recipe: Recipe, *documents: dict[str, Any]) -> list[int]:
    return [int(json.loads(line)["id"]) for line in decided(recipe, *documents).kept.splitlines()]


DOCUMENTS = [{"score": 0.2}, {"score": -3}, {"score": 7}, {"score": "7"}, {}, {"q": {"score": 5, "deep": {"n": 1}}}]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("field:score:max=0.5", [0, 1]),
        ("field:score:min=-1", [0, 2]),
        ("field:score:min=-5,max=-1", [1]),
        ("field:score:min=0.5,missing=keep", [2, 3, 4, 5]),
        ("field:q.score:min=1", [5]),
        ("field:q.deep.n:min=1", [5]),
        ("field:q.deep.n.m:min=1", []),
        ("field:score:max=0.5,keep-fraction=1", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_field_is_judged_as_any_measurement_and_may_be_negative(rule: str, expected: list[int]) -> None:
    recipe = choose_recipe(None, [rule])
    assert kept(recipe, *DOCUMENTS) == expected
    assert read_recipe(json.loads(json.dumps(recipe.config()))).steps == recipe.steps


def test_a_document_without_the_number_says_so() -> None:
    (dropped,) = decided(choose_recipe(None, ["field:a.b:min=1"]), {"a": {"b": "no"}}).removed
    assert isinstance(dropped, Dropped)
    assert np.isnan(dropped.failure.value)


@pytest.mark.parametrize("rule", ["field::max=1", "field:a..b:max=1", "field:x:min=--1", "field:x:min=-nan"])
def test_a_field_rule_that_cannot_be_is_refused(rule: str) -> None:
    with pytest.raises(UsageError):
        choose_recipe(None, [rule])


def test_fields_are_judged_in_a_notebook_too() -> None:
    documents = [{"text": "a", "score": 1}, {"text": "b", "score": 3}]
    assert list(filter_documents(documents, choose_recipe(None, ["field:score:min=2"]))) == documents[1:]


def test_a_kept_fraction_is_the_share_and_depends_on_the_text_alone() -> None:
    recipe = choose_recipe(None, ["text-length:min=100,keep-fraction=20%"])
    documents = [{"text": f"text {n}"} for n in range(2000)]
    found = kept(recipe, *documents)
    assert 320 < len(found) < 480
    alone = [number for number, document in enumerate(documents) if kept(recipe, document) == [0]]
    assert alone == found
    other = choose_recipe(None, ["word-count:min=100,keep-fraction=0.2"])
    assert kept(other, *documents) != found
    with pytest.raises(UsageError, match="more than 1"):
        choose_recipe(None, ["text-length:keep-fraction=2"])


def write(path: Path, *entries: str) -> Path:
    path.write_text("\n".join(entries) + "\n", encoding="utf-8")
    return path


def test_lists_of_words_stand_alone_but_in_scripts_without_spaces(tmp_path: Path) -> None:
    file = write(tmp_path / "words.txt", "# a comment", "ass", "Two Words", "性感", "")
    recipe = Recipe(steps=tuple(steps_before(blocklists=[str(file)])))
    texts = ["an ASS!", "a class", "assess", "two words", "two wordsmiths", "很性感的", "ass", "ok", ""]
    assert kept(recipe, *[{"text": text} for text in texts]) == [1, 2, 4, 7, 8]
    some = Recipe(steps=tuple(steps_before(blocklists=[str(file)], keep_fraction=1.0)))
    assert len(kept(some, *[{"text": text} for text in texts])) == len(texts)
    config = recipe.config()["steps"][0]
    assert config["digest"].startswith("sha256:")
    assert read_recipe(json.loads(json.dumps(recipe.config()))).steps == recipe.steps


def test_a_list_that_has_changed_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "words.txt", "bad")
    recipe = Recipe(steps=tuple(steps_before(blocklists=[str(file)])))
    write(file, "worse")
    with pytest.raises(UsageError, match="the list has changed"):
        kept(recipe, {"text": "bad"})
    with pytest.raises(InputError, match="cannot read the list"):
        steps_before(domains=[tmp_path / "none"])


def test_urls_are_judged_by_domain_page_and_word(tmp_path: Path) -> None:
    domains = write(tmp_path / "domains", "bad.com", "sub.good.co.uk", "co.uk", "blog.example.org")
    urls = write(tmp_path / "urls", "http://www.x.com/page/")
    words = write(tmp_path / "words", "casino", "free")
    pages = [
        "https://bad.com/a", "http://www.bad.com", "https://notbad.com", "https://good.co.uk/", "sub.good.co.uk/x",
        "https://x.com/page", "https://x.com/page2", "https://y.com/best-Casino/", "https://y.com/casinos", "", "http://[",
        "https://blog.example.org", "https://example.org",
    ]  # fmt: skip
    documents = [{"url": page} for page in pages] + [{}, {"url": 3}]
    recipe = Recipe(steps=tuple(steps_before(domains=[domains], urls=[urls], url_words=[words])))
    assert kept(recipe, *documents) == [2, 3, 6, 8, 9, 10, 12, 13, 14]
    linking = Recipe(steps=tuple(steps_before(domains=[domains], urls=[urls])))
    links = ["http://good.org/to?u=http://x.com/page", "https://web.archive.org/2020/http://www.x.com/page/"]
    assert kept(linking, *({"url": page} for page in links)) == [0, 1], "another page, which links to one of the list"
    soft = Recipe(steps=(make_rule("blocked-url-words", file=str(words), max=1),))
    assert kept(soft, {"url": "http://a.com/casino"}, {"url": "http://a.com/free/casino"}) == [0]
    anywhere = Recipe(steps=(make_rule("blocked-url-words", file=str(words), match="anywhere"),))
    assert kept(anywhere, {"url": "http://a.com/thecas-inos"}, {"url": "http://a.com/"}) == [1]


def test_domains_end_at_the_one_that_can_be_registered() -> None:
    assert domains_of("https://a.b.example.co.uk:80/x?y") == ["a.b.example.co.uk", "b.example.co.uk", "example.co.uk"]
    assert domains_of("http://localhost/") == ["localhost"]
    assert domains_of("http://192.168.0.1/")[0] == "192.168.0.1"
    assert domains_of("a.example.com/to?u=http://other.org//x") == ["a.example.com", "example.com"]
    assert domains_of("//example.com/x") == ["example.com"]
    assert domains_of(None) == []


def test_a_list_of_pages_is_read_once_for_all_batches(tmp_path: Path) -> None:
    recipe = Recipe(steps=tuple(steps_before(urls=[write(tmp_path / "urls", "x.com/page")])))
    before = blocked_urls._blocked.cache_info().misses
    for _ in range(3):
        assert kept(recipe, {"url": "http://x.com/page"}, {"url": "http://x.com/"}) == [1]
    assert blocked_urls._blocked.cache_info().misses == before + 1


def test_languages_are_told_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    texts = [
        "The quick brown fox jumps over the lazy dog, and then it sleeps.",
        "Le renard brun saute par-dessus le chien paresseux, puis il dort.",
        "敏捷的棕色狐狸跳过了懒狗，然后它就睡着了。",
        "12345 67890",
        "",
    ]
    documents = [{"text": text} for text in texts]
    assert kept(Recipe(steps=tuple(steps_before(langs="en"))), *documents) == [0]
    assert kept(Recipe(steps=tuple(steps_before(langs="en,zh"))), *documents) == [0, 2]
    assert kept(Recipe(steps=tuple(steps_before(langs="fr", lang_threshold=0.0))), *documents) == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError, match="no language code"):
        steps_before(langs="english")
