"""Texts as JSON strings are those of msgspec."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ptool.text.batch import columns_of
from ptool.text.rewriting import json_strings


@given(st.lists(st.text(st.sampled_from('ab"\\\n\t\x00\x1f\x7fé中🙂\b\f\r'), max_size=200), max_size=4))
def test_json_strings_are_those_of_msgspec(texts: list[str]) -> None:
    strings, starts = json_strings(*columns_of([text.encode() for text in texts]))
    found = [bytes(strings[start:end]) for start, end in itertools.pairwise(starts)]
    assert found == [msgspec.json.encode(text) for text in texts]
