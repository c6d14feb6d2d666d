"""Plans are pure integers: every token once, in order, and equal to one item at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.packing.plan import Plan, best_fit, plan_rows

LENGTHS = st.lists(st.one_of(st.integers(0, 12), st.integers(0, 90)), max_size=60)


def rows_of(plan: Plan) -> list[list[tuple[int, int, int, int]]]:
    """(document, offset, start, length) of every span, by row."""
    rows = []
    at = 0
    for count in plan.counts.tolist():
        rows.append([tuple(int(value) for value in span) for span in plan.spans[at : at + count]])
        at += count
    assert at == len(plan.spans)
    return rows


@pytest.mark.parametrize("strategy", ["concat", "best-fit"])
@settings(max_examples=300, deadline=None)
@given(lengths=LENGTHS, seq_len=st.integers(2, 40))
def test_every_token_is_in_exactly_one_span(strategy, lengths, seq_len) -> None:
    rows = rows_of(plan_rows(np.array(lengths, dtype=np.int64), seq_len, strategy))
    seen: dict[int, list[tuple[int, int]]] = {}
    for row in rows:
        column = 0
        assert row, "no row is empty"
        for document, offset, start, length in row:
            assert start == column, "spans stand side by side from the row's start"
            assert length > 0
            column += length
            seen.setdefault(document, []).append((offset, length))
        assert column <= seq_len
    for document, total in enumerate(lengths):
        at = 0
        for offset, length in sorted(seen.get(document, [])):
            assert offset == at
            at += length
        assert at == total


@settings(max_examples=200, deadline=None)
@given(lengths=LENGTHS, seq_len=st.integers(2, 40))
def test_concat_keeps_the_order_and_pads_only_the_last_row(lengths, seq_len) -> None:
    rows = rows_of(plan_rows(np.array(lengths, dtype=np.int64), seq_len, "concat"))
    tokens = [(d, at) for row in rows for d, offset, _, length in row for at in range(offset, offset + length)]
    assert tokens == [(document, at) for document, length in enumerate(lengths) for at in range(length)]
    assert all(sum(span[3] for span in row) == seq_len for row in rows[:-1])


def one_item_at_a_time(lengths: list[int], seq_len: int) -> list[list[tuple[int, int, int]]]:
    """Best-fit decreasing as a textbook has it, then rows and spans in the order that plan.py promises."""
    rows: list[list[tuple[int, int, int]]] = []
    items = []
    for document, length in enumerate(lengths):
        full = length // seq_len
        rows += [[(document, number * seq_len, seq_len)] for number in range(full)]
        if length % seq_len:
            items.append((length % seq_len, document, full * seq_len))
    bins: list[dict] = []
    for clock, (size, document, offset) in enumerate(sorted(items, key=lambda item: -item[0])):
        fitting = [one for one in bins if one["room"] >= size]
        if fitting:
            chosen = min(fitting, key=lambda one: (one["room"], one["since"]))
        else:
            chosen = {"room": seq_len, "since": -1, "spans": []}
            bins.append(chosen)
        chosen["spans"].append((document, offset, size))
        chosen["room"] -= size
        chosen["since"] = clock
    rows += [one["spans"] for one in bins]
    rows.sort(key=lambda row: min((document, offset) for document, offset, _ in row))
    return [sorted(row, key=lambda span: (span[1] == 0, span[0])) for row in rows]


@settings(max_examples=400, deadline=None)
@given(lengths=LENGTHS, seq_len=st.integers(2, 40))
def test_best_fit_equals_one_item_at_a_time_ties_included(lengths, seq_len) -> None:
    found = rows_of(best_fit(np.array(lengths, dtype=np.int64), seq_len))
    assert [[(d, o, n) for d, o, _, n in row] for row in found] == one_item_at_a_time(lengths, seq_len)


def test_best_fit_leaves_documents_whole_and_cuts_only_long_ones() -> None:
    lengths = np.array([3, 10, 5, 2, 7, 23])
    pieces = [span for row in rows_of(best_fit(lengths, 10)) for span in row]
    whole = {document for document, offset, _, length in pieces if offset == 0 and length == lengths[document]}
    assert whole == {0, 1, 2, 3, 4}
