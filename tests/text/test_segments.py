"""Segments, repetition, sentences and edits of lines equal their plain-Python twins, on nasty text and on any text."""

from __future__ import annotations

import itertools
import re
import time
import unicodedata
from collections import Counter
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptool.text import kinds, long_documents, packed_words
from ptool.text.batch import Batch, WordRule
from ptool.text.line_edits import edit_lines
from ptool.text.line_shapes import look_like_logs, look_like_rows
from ptool.text.phrases import count_lines_with
from ptool.text.repetition import repeated_segments
from ptool.text.segments import Segments, paragraphs, runs_of_lines
from ptool.text.sentences import count_sentences
from ptool.text.whole_texts import differ, strip_edges

PIECES = [
    "\n", "\n", "\n\n", " ", "\t", "\r\n", "\u2028", "\x85", "\x00", "a", "b", "ab", "É", "中", "文。",
    "🙂", "e\u0301", "A.", "J. ", "Σ.", "?", "!", ".", "...", "…", '"', "'", "”", "[1]", "[１２]",
    "[edit]", "[citation needed]", "[", "]", "javascript", "JavaScript", "lorem ipsum", "Lorem Ipsum",
    "{", "}", "privacy policy", "coo\u212aie policy", "coo\u212aie", "use cookies", "uses cookies",
    "terms of use", "one two three four.", "x" * 1001, "word " * 5,
]  # fmt: skip
nasty = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
texts_of = st.lists(nasty | st.text(max_size=20), max_size=4)


def pieces(batch: Batch, found: Segments, document: int) -> list[str]:
    first, last = found.doc_offsets[document : document + 2]
    pairs = zip(found.starts[first:last], found.ends[first:last], strict=True)
    texts = [batch.text[start:end].tobytes().decode() for start, end in pairs]
    assert found.num_chars[first:last].tolist() == [len(text) for text in texts]
    return texts


def find_duplicates(found: list[str]) -> tuple[int, int]:
    seen: set[str] = set()
    num = chars = 0
    for one in found:
        if one in seen:
            num += 1
            chars += len(one)
        seen.add(one)
    return num, chars


@given(texts_of)
@example(["\n", "", "\n\n\n", "a\n", "\na", " \n \n", "a\n \nb", "\n\n a \n\n\nb\u3000\n\n"])
def test_segments_equal_their_twins(texts: list[str]) -> None:
    batch = Batch.from_texts(texts)
    lines = batch.newline_lines
    runs = runs_of_lines(lines)
    found = paragraphs(lines)
    for document, text in enumerate(texts):
        assert pieces(batch, lines, document) == text.split("\n")
        assert pieces(batch, runs, document) == re.split("\n+", text)
        assert pieces(batch, found, document) == re.split("\n{2,}", text.strip())
        filled = [line for line in text.split("\n") if line.strip()]
        assert pieces(batch, batch.filled_lines, document) == filled
        assert batch.num_chars[document] == len(text)


@given(texts_of)
def test_repeated_pieces_equal_a_python_set(texts: list[str]) -> None:
    lines = Batch.from_texts(texts).newline_lines
    found = repeated_segments(lines)
    for document, text in enumerate(texts):
        assert (found.num[document], found.num_chars[document]) == find_duplicates(text.split("\n"))


few_words = st.lists(st.sampled_from(["a", "aa", "b", "ab", "中", "é" * 3]), max_size=60).map(" ".join)


@given(st.lists(few_words | nasty, max_size=4), st.integers(1, 6))
@example(["a aa aa a a aa"], 2)  # equal letters, different words
def test_ngrams_equal_datatroves_functions(texts: list[str], n: int) -> None:
    batch = Batch.from_texts(texts, word_rule="whitespace")
    repeated = batch.packed_words.repeated_ngram_chars(n)
    top = batch.packed_words.top_ngram_chars(n)
    for document, text in enumerate(texts):
        words = text.split()
        assert repeated[document] == find_all_duplicate(words, n)
        ngrams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
        expected = Counter(ngrams).most_common(1)[0] if ngrams else ("", 0)
        assert top[document] == len(expected[0]) * expected[1]


def find_all_duplicate(words: list[str], n: int) -> int:
    unique = set()
    repeated = position = 0
    while position < len(words) - n + 1:
        ngram = "".join(words[position : position + n])
        if ngram in unique:
            repeated += len(ngram)
            position += n
        else:
            unique.add(ngram)
            position += 1
    return repeated


def test_ngrams_longer_than_the_known_powers_and_many_documents() -> None:
    texts = ["x" * 3000 + " y " + "x" * 3000 + " y", "a b " * 5000, "", "one"] * 3
    batch = Batch.from_texts(texts)
    packed = batch.packed_words
    assert packed.repeated_ngram_chars(2).tolist() == [find_all_duplicate(text.split(), 2) for text in texts]
    assert packed.top_ngram_chars(2).tolist()[:4] == [2 * 3002, 5000 * 3, 0, 0]


TERMINALS = "".join(chr(code) for code in np.flatnonzero(kinds.character_kinds() & kinds.TERMINAL))


def sentences_in(line: str) -> int:
    """The regular expression of datatrove, in `re`, which knows no \\p{Lu}."""
    capitals = "".join(sorted({character for character in line if unicodedata.category(character) == "Lu"}))
    capital = f"(?:[{capitals}]\\.)|" if capitals else ""
    return max(1, len(re.findall(f"(?:{capital}.)+?[{re.escape(TERMINALS)}\n]+[\"'”]?", line)))


@given(texts_of)
@example(["J. Smith came. He left", "A.", "A. B. C.", "...", ". a. b", '"Go!" she said. "Why?”', "？！中文。好"])
def test_sentences_equal_the_regular_expression(texts: list[str]) -> None:
    found = count_sentences(Batch.from_texts(texts).newline_lines)
    for document, text in enumerate(texts):
        assert found[document] == (sum(map(sentences_in, text.split("\n"))) if text else 0)


POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def edited(text: str, *, terminal: bool) -> str:
    """C4QualityFilter's loop, with lines that end the document left in instead."""
    kept = []
    for line in text.splitlines():
        line = line.strip()
        words = line.split()
        if any(len(word) > 1000 for word in words):
            continue
        line = re.sub(r"\[\d*]|\[edit]|\[citation needed]", "", line)
        if terminal and (not line.endswith((".", "?", "!", '"', "'")) or line.endswith("...")):
            continue
        if len(words) < 3:
            continue
        lower = line.lower()
        if "lorem ipsum" not in lower:
            if "javascript" in lower:
                continue
            if "{" not in line and any(phrase in lower for phrase in POLICY):
                continue
        kept.append(line)
    return "\n".join(kept)


@pytest.mark.parametrize("terminal", [True, False])
@given(texts=texts_of)
@example(
    texts=["a b c coo\u212aie policy d.", "J\u0130 a lorem \u0130psum b c", "[1] [2] [3]", "a b c [edit].\nd e f."]
)
def test_edited_lines_equal_c4s_loop(texts: list[str], terminal: bool) -> None:
    batch = Batch.from_texts(texts)
    text, offsets = edit_lines(batch.text_lines, terminal=terminal)
    expected = [edited(one, terminal=terminal) for one in texts]
    found = [text[start:end].tobytes().decode() for start, end in itertools.pairwise(offsets)]
    assert found == expected
    assert differ(batch.text, batch.offsets, text, offsets).tolist() == [
        one != other for one, other in zip(texts, expected, strict=True)
    ]


@given(texts_of)
def test_stripped_edges_equal_str_strip(texts: list[str]) -> None:
    batch = Batch.from_texts(texts)
    text, offsets = strip_edges(batch.text, batch.offsets)
    found = [text[start:end].tobytes().decode() for start, end in itertools.pairwise(offsets)]
    assert found == [one.strip() for one in texts]


def test_every_code_point_has_the_kind_that_python_gives_it() -> None:
    found = kinds.character_kinds()
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        assert bool(found[code] & kinds.DIGIT) == (category == "Nd")
        assert bool(found[code] & kinds.UPPER) == (category == "Lu")
        script = found[code] >> kinds.SCRIPT_SHIFT
        assert bool(script) == (chr(code).isalpha() or category[0] == "M")
        assert (script == kinds.MARK) == (category[0] == "M")
    assert len(TERMINALS) == 159  # datatrove 0.10.1: len(TERMINAL_PUNCTUATION)


@given(texts_of)
@example(["É\u00c3\u00a9", "\u00e2\u20ac\u2122", "aaa  aaaa", "\ufffd\x01\t", "中a文", "\u0301" * 3])
def test_profiles_equal_their_twin(texts: list[str]) -> None:
    batch = Batch.from_texts(texts)
    found = batch.profile
    for document, text in enumerate(texts):
        categories = [unicodedata.category(character) for character in text]
        assert found.spaces[document] == sum(map(str.isspace, text))
        assert found.letters[document] == sum(map(str.isalpha, text)) == found.by_script[document].sum()
        assert found.digits[document] == categories.count("Nd")
        assert found.uppercase[document] == categories.count("Lu")
        assert found.marks[document] == sum(category[0] == "M" for category in categories)
        runs = [len(list(run)) for character, run in itertools.groupby(text) if not character.isspace()]
        assert found.longest_run[document] == max(runs, default=0)
        broken = [character in "\ufffd\x00\x01" for character in text if character in PLAIN]
        assert found.broken[document] >= sum(broken)


PLAIN = "abcd \n\t\x00\x01\ufffd.中文"


def test_broken_characters_are_controls_replacements_and_misread_utf8() -> None:
    texts = [
        "plain é – “text”\n\t",
        "caf\u00c3\u00a9",
        "it\u00e2\u20ac\u2122s",
        "a\ufffdb\x00",
        "\ue000\x7f",
        "\u00c3 \u00a9",
    ]
    assert Batch.from_texts(texts).profile.broken.tolist() == [0, 1, 1, 2, 2, 0]


def test_scripts_are_told_by_block() -> None:
    text = "Latin Ελλ Кир עבר عرب हि ไทย 한글 漢かカ Հայ ქარ አማ"
    found = Batch.from_texts([text]).profile
    counts = {name: int(found.of_script(name)[0]) for name in kinds.SCRIPTS if found.of_script(name)[0]}
    assert counts == {
        "latin": 5, "greek": 3, "cyrillic": 3, "hebrew": 3, "arabic": 3, "devanagari": 1, "thai": 3, "hangul": 2,
        "cjk": 3, "armenian": 3, "georgian": 3, "ethiopic": 2,
    }  # fmt: skip


@given(st.lists(st.text("a1 |\t\n", max_size=40), max_size=4))
def test_line_shapes_equal_their_twins(texts: list[str]) -> None:
    batch = Batch.from_texts(texts)
    lines = batch.newline_lines
    flat = [line for text in texts for line in text.split("\n")]
    assert look_like_logs(lines).tolist() == [len(re.findall("[0-9]", line[:24])) >= 6 for line in flat]
    separator = re.compile(r"(?<=[a1|])\t|(?<=[a1|])\s*\t| {2,}|\|")
    del separator
    assert look_like_rows(lines).tolist() == [rows_separators(line) >= 2 for line in flat]


def rows_separators(line: str) -> int:
    """Bars, tabs after the first other character, and characters after two spaces or more."""
    count = 0
    begun = False
    for match in re.finditer(r"( *)([^ ])", line):
        spaces, character = match.groups()
        count += character == "|" or (begun and (character == "\t" or len(spaces) > 1))
        begun = begun or character != "\t"
    return count


# Texts longer than the 64 bytes that are looked at in one step, whose phrases come again.
some_words = st.sampled_from(
    ["a", "the", "x" * 16, "x" * 17, "incomprehensibilities", "naïve", "中文", "a\x00", "\x00"]
)
phrases = st.lists(st.lists(some_words, min_size=1, max_size=9).map(" ".join), min_size=1, max_size=4)
long_texts = phrases.flatmap(lambda some: st.lists(st.sampled_from(some), max_size=40).map(" \n".join))


@given(st.lists(long_texts | nasty, max_size=3), st.integers(1, 11))
def test_ngrams_of_long_texts_equal_datatroves_functions(texts: list[str], n: int) -> None:
    batch = Batch.from_texts(texts, word_rule="whitespace")
    repeated = batch.packed_words.repeated_ngram_chars(n)
    top = batch.packed_words.top_ngram_chars(n)
    for document, text in enumerate(texts):
        words = text.split()
        ngrams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
        expected = Counter(ngrams).most_common(1)[0] if ngrams else ("", 0)
        assert repeated[document] == find_all_duplicate(words, n)
        assert top[document] == len(expected[0]) * expected[1]


@given(
    st.lists(few_words | long_texts | nasty, max_size=4),
    st.integers(1, 11),
    st.sampled_from([1 << 4, 1 << 10]),
    st.integers(6, 12),
    st.integers(1, 20),
)
@example(["a aa aa a a aa"], 2, 16, 6, 3)  # equal letters, different words
def test_ngrams_of_long_documents_are_counted_the_same(
    texts: list[str], n: int, slots: int, bits: int, at_once: int
) -> None:
    packed = Batch.from_texts(texts, word_rule="whitespace").packed_words
    columns = packed.text, packed.starts, packed.doc_offsets
    tops = long_documents.top_ngrams(*columns, n, slots=slots)
    repeated = long_documents.repeated_ngrams(*columns, n, filter_bits=bits, at_once=at_once)
    assert tops.tolist() == packed.top_ngram_chars(n).tolist()
    assert repeated.tolist() == packed.repeated_ngram_chars(n).tolist()


def test_links_that_begin_and_end_alike_are_counted_as_quickly_as_other_words() -> None:
    links = [f"https://example.com/item/{number:09d}/index.html" for number in range(150_000)]
    packed = Batch.from_texts([" ".join([*links, links[70_000]])]).packed_words
    started = time.process_time()
    assert packed.top_ngram_chars(1).tolist() == [2 * len(links[0])]
    assert time.process_time() - started < 10  # compiling included; compared with each other: 50 s


@pytest.mark.parametrize("most_words", [0, 1 << 22])
def test_long_documents_are_those_of_more_words(monkeypatch: pytest.MonkeyPatch, most_words: int) -> None:
    counted: list[int] = []
    monkeypatch.setattr(packed_words, "_MOST_WORDS", most_words)
    monkeypatch.setattr(long_documents, "top_ngrams", lambda *columns: counted.append(columns[-1]))
    monkeypatch.setattr(long_documents, "repeated_ngrams", lambda *columns: counted.append(columns[-1]))
    packed = Batch.from_texts(["a b a b a b"]).packed_words
    packed.top_ngram_chars(2)
    packed.repeated_ngram_chars(5)
    assert counted == ([2, 5] if most_words == 0 else [])


@given(texts_of, st.sampled_from(get_args(WordRule)))
def test_packed_words_are_the_words_end_to_end(texts: list[str], rule: WordRule) -> None:
    batch = Batch.from_texts(texts, word_rule=rule)
    words = batch.words
    spans = list(zip(words.starts.tolist(), words.ends.tolist(), strict=True))
    ways = [packed_words.pack_words(words)]
    if rule != "unicode":
        ways.append(packed_words.pack_marked(batch.text, batch.offsets, batch.marks.starts, batch.marks.spaces))
    for packed in ways:
        assert packed.text[: packed.starts[-1]].tobytes() == b"".join(batch.text[a:b].tobytes() for a, b in spans)
        assert np.diff(packed.starts).tolist() == [b - a for a, b in spans]
        assert packed.doc_offsets.tolist() == words.doc_offsets.tolist()


@given(
    st.lists(st.lists(nasty | long_texts, max_size=4).map("".join), max_size=3), st.sampled_from(["lorem ipsum", "{"])
)
def test_phrases_and_substrings_are_found_wherever_they_stand(texts: list[str], phrase: str) -> None:
    batch = Batch.from_texts(texts)
    for document, text in enumerate(texts):
        lines = text.split("\n")
        assert count_lines_with(batch.newline_lines, phrase)[document] == sum(phrase in one.lower() for one in lines)
        assert batch.count("...")[document] == text.count("...")
        assert batch.count("…")[document] == text.count("…")
