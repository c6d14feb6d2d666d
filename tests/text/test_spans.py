"""Words, lines and counts equal their plain-Python twins, on nasty text and on any text."""

from __future__ import annotations

import itertools
import re
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.text import characters
from ptool.text.batch import Batch, WordRule
from ptool.text.counts import count_substring
from ptool.text.lines import LineSpans
from ptool.text.word_spans import word_spans
from ptool.text.words import HAS_LETTER, HAS_TEXT, Words, split_words

# One of each kind of character, so that short random texts hit every transition.
ALPHABET = (
    "ab Z1_-.,#'\"…•\t\n\r\v\f\x00\x1c\x1d\x1e\x1f\x7f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\u200b\ufeff"
    "é中文々〇。！１かガーﾊﾞ\u3099\ufe0f\U000e0100\u0301ßᄒ한ก🙂👩\u200d\U0001f680\U00020000\U00030000\ud7ff\ue000\uffff\U0010ffff"
)
nasty = st.text(st.sampled_from(ALPHABET), max_size=40)
any_text = st.text(max_size=40)
many_texts = st.lists(nasty | any_text, max_size=5)
RULES: tuple[WordRule, ...] = ("cjk", "whitespace", "unicode")

CJK = (
    "\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fffd\U00030000-\U0003fffd"
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d\U0001aff0-\U0001afff\U0001b000-\U0001b16f"
)
JOINING = "\u3099\u309a\uff9e\uff9f\ufe00-\ufe0f\U000e0100-\U000e01ef"
CJK_WORD = re.compile(f"[{CJK}][{JOINING}]*|[^{CJK}]+")


PARTS = "".join(
    re.escape(character) for character in {*ALPHABET, *"09_"} if character == "_" or character.isalnum()
    or unicodedata.category(character).startswith("M")
)  # fmt: skip
PART = f"(?:(?![{CJK}])(?:[{PARTS}]|\\w))"
UNICODE_WORD = re.compile(f"[{CJK}][{JOINING}]*|{PART}+(?:(?:['’.]|(?<=[0-9]),(?=[0-9])){PART}+)*|\\S")


def twin_words(text: str, rule: WordRule) -> list[str]:
    if rule == "whitespace":
        return text.split()
    if rule == "unicode":
        return UNICODE_WORD.findall(text)
    return [word for run in text.split() for word in CJK_WORD.findall(run)]


def spans(batch: Batch, found: Words | LineSpans, document: int) -> list[str]:
    first, last = found.doc_offsets[document : document + 2]
    pairs = zip(found.starts[first:last], found.ends[first:last], strict=True)
    return [batch.text[start:end].tobytes().decode() for start, end in pairs]


@pytest.mark.parametrize("rule", RULES)
@given(texts=many_texts)
def test_words_equal_their_twin(rule: WordRule, texts: list[str]) -> None:
    if rule == "unicode":  # `re` knows no category of marks: the twin has those of the alphabet
        texts = [re.sub(f"[^{re.escape(ALPHABET)}]", "'", text) for text in texts]
    batch = Batch.from_texts(texts, word_rule=rule)
    for document, text in enumerate(texts):
        expected = twin_words(text, rule)
        assert Batch.from_texts(texts, word_rule=rule).num_words[document] == len(expected)
        assert spans(batch, batch.words, document) == expected


@given(many_texts)
def test_flags_of_words_equal_their_twin(texts: list[str]) -> None:
    batch = Batch.from_texts(texts)
    symbols = {chr(code) for code in np.flatnonzero(characters.character_flags() & characters.SYMBOL)}
    ideographs = {chr(code) for code in np.flatnonzero(characters.character_flags() & characters.CJK)}
    for document, text in enumerate(texts):
        words = twin_words(text, "cjk")
        with_text = [word for word in words if any(character not in symbols for character in word)]
        assert batch.words.num_words[document] == len(words)
        assert batch.words.num_with_letters[document] == sum(any(map(str.isalpha, word)) for word in words)
        assert batch.words.num_with_text[document] == len(with_text)
        assert batch.words.chars_with_text[document] == sum(map(len, with_text))
        without_cjk = [word for word in words if not ideographs & set(word)]
        assert batch.words.num_short(2)[document] == sum(len(word) <= 2 for word in without_cjk)


@given(many_texts)
def test_lines_equal_their_twin(texts: list[str]) -> None:
    batch = Batch.from_texts(texts)
    found = batch.text_lines
    for document, text in enumerate(texts):
        expected = text.splitlines()
        first, last = found.doc_offsets[document : document + 2]
        assert spans(batch, found, document) == expected
        stripped = zip(found.stripped_starts[first:last], found.stripped_ends[first:last], strict=True)
        assert [batch.text[start:end].tobytes().decode() for start, end in stripped] == [
            line.strip() for line in expected
        ]


@pytest.mark.parametrize(
    "end", ["\n", "\r", "\r\n", "\n\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
)
def test_every_line_end_of_python_ends_a_line(end: str) -> None:
    texts = [end, f"a{end}", f"{end}a", f"a{end}b", f"a{end}{end}b", end * 1000, f" a {end} b" * 1000]
    batch = Batch.from_texts(texts)
    for document, text in enumerate(texts):
        assert spans(batch, batch.text_lines, document) == text.splitlines()


@given(many_texts, st.lists(st.sampled_from(["-", "•", "...", "…", "ab", ""]), max_size=3, unique=True))
def test_lines_by_their_edges_equal_their_twin(texts: list[str], marks: list[str]) -> None:
    found = Batch.from_texts(texts).text_lines
    for document, text in enumerate(texts):
        stripped = [line.strip() for line in text.splitlines()]
        assert found.num_starting(*marks)[document] == sum(line.startswith(tuple(marks)) for line in stripped)
        assert found.num_ending(*marks)[document] == sum(line.endswith(tuple(marks)) for line in stripped)


@given(st.lists(st.text("ab.…", max_size=12), max_size=4), st.text("ab.…", min_size=1, max_size=3))
def test_substring_counts_equal_str_count(texts: list[str], wanted: str) -> None:
    batch = Batch.from_texts(texts)
    assert count_substring(batch.text, batch.offsets, wanted).tolist() == [text.count(wanted) for text in texts]
    assert batch.count(wanted).tolist() == [text.count(wanted) for text in texts]


@given(st.lists(st.text("ab 中", max_size=12), max_size=4), st.lists(st.text("ab中", max_size=3), max_size=4))
def test_distinct_words_equal_their_twin(texts: list[str], wanted: list[str]) -> None:
    found = Batch.from_texts(texts, word_rule="whitespace").words.num_distinct(wanted)
    assert found.tolist() == [len(set(wanted) & set(text.split())) for text in texts]


def test_every_code_point_has_the_flags_that_python_gives_it() -> None:
    flags = characters.character_flags()
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        kind = flags[code]
        assert bool(kind & characters.LETTER) == character.isalpha()
        assert bool(kind & characters.SPACE) == character.isspace()
    breaks = {code for code in range(0x3000) if len(f"a{chr(code)}b".splitlines()) == 2}
    assert set(np.flatnonzero(flags & characters.LINE_BREAK).tolist()) == breaks
    assert np.count_nonzero(flags & characters.SYMBOL) == 281  # datatrove 0.10.1: len(PUNCTUATION_SET)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world 3.5", ["Hello,", "world", "3.5"]),
        ("世界 peace和平。", ["世", "界", "peace", "和", "平", "。"]),
        ("カタカナ", ["カ", "タ", "カ", "ナ"]),
        ("か\u3099き", ["か\u3099", "き"]),
        ("葛\U000e0100城", ["葛\U000e0100", "城"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("no\xa0break", ["no", "break"]),
        ("zero\u200bwidth", ["zero\u200bwidth"]),
    ],
)
def test_cjk_words(text: str, words: list[str]) -> None:
    batch = Batch.from_texts([text])
    assert spans(batch, batch.words, 0) == words


def test_unicode_words_are_cut_at_punctuation() -> None:
    texts = ["It's 1,234.5 e.g. co-op, (a_b) x,y 世界peace！"]
    expected = [
        "It's",
        "1,234.5",
        "e.g",
        ".",
        "co",
        "-",
        "op",
        ",",
        "(",
        "a_b",
        ")",
        "x",
        ",",
        "y",
        "世",
        "界",
        "peace",
        "！",
    ]
    batch = Batch.from_texts(texts, word_rule="unicode")
    assert spans(batch, batch.words, 0) == expected


def test_english_has_the_same_words_under_both_rules() -> None:
    texts = ["It's 10 o'clock — said \u201cthe\u201d cafés' owner…\n\n- and\tso on"]
    columns = [word_spans(*columns_of(Batch.from_texts(texts)), rule) for rule in ("cjk", "whitespace")]
    for one, other in zip(*columns, strict=True):
        assert one.tolist() == other.tolist()


# Runs long enough for pieces of 32 bytes to be all ASCII, and characters that matter at their ends.
pieces = st.sampled_from(
    ["a" * 31, "b c " * 9, " " * 33, "\x1c\x1f\t", "é", "世界", "カ\u3099", "\ufe00", "\u3000", "\x85"]
)


@given(st.lists(st.lists(pieces | st.text(max_size=5), max_size=8).map("".join), max_size=5))
def test_spans_alone_are_those_of_measured_words(texts: list[str]) -> None:
    batch = Batch.from_texts([text.encode("utf-8", "ignore").decode() for text in texts])
    for rule in ("cjk", "whitespace"):
        words = split_words(*columns_of(batch), rule)
        spans, doc_offsets = word_spans(*columns_of(batch), rule)
        assert spans[:, 0].tolist() == words.starts.tolist()
        assert spans[:, 1].tolist() == words.ends.tolist()
        assert doc_offsets.tolist() == words.doc_offsets.tolist()


@pytest.mark.parametrize(
    "text", ["a" * 29 + "世" + "b" * 40, "a" * 29 + "世" + " b" * 20, "one\x1ftwo\x1cthree\x0bfour " * 4]
)
def test_pieces_of_ascii_end_an_ideograph_and_know_all_white_space(text: str) -> None:
    batch = Batch.from_texts([text])
    spans, _ = word_spans(*columns_of(batch))
    found = [batch.text[start:end].tobytes().decode() for start, end in spans.tolist()]
    assert found == text.replace("世", " 世 ").split()


def columns_of(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    return batch.text, batch.offsets


def test_a_word_never_runs_over_the_end_of_its_document() -> None:
    texts = ["one two", "", "three", " four ", "\n", "five"]
    for order in itertools.permutations(texts):
        batch = Batch.from_texts(order)
        assert [spans(batch, batch.words, index) for index in range(len(order))] == [text.split() for text in order]
        assert [spans(batch, batch.text_lines, index) for index in range(len(order))] == [
            text.splitlines() for text in order
        ]


def test_flags_are_two_different_bits() -> None:
    words = Batch.from_texts(["a 1 . é —"]).words
    assert words.flags.tolist() == [HAS_LETTER | HAS_TEXT, HAS_TEXT, 0, HAS_LETTER | HAS_TEXT, 0]
