"""Tables in plain text."""

from __future__ import annotations

from ptool.cli.output import plain_table


def test_numbers_end_below_one_another_and_words_begin_so_whatever_their_script():
    table = plain_table(("source", "rows", "what"), [("web", "1,234", "text"), ("代码", "7", "programs")])
    assert table.splitlines() == ["source   rows  what", "web     1,234  text", "代码        7  programs"]
    assert plain_table(("a", "b"), [("x", "-"), ("y", "~1.5")]).splitlines() == ["a     b", "x     -", "y  ~1.5"]


def test_a_name_cannot_break_the_table_nor_reach_the_terminal():
    table = plain_table(("source", "rows"), [("a\nb\x1b[31m", "1"), ("e\u0301", "2")])
    assert table.splitlines() == ["source        rows", r"a\nb\x1b[31m     1", "e\u0301                2"]
