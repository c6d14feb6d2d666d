"""`--annotate` writes what was measured; `--sweep` counts from it what thresholds would drop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import BadDocument, InputError, UsageError
from ptool.filtering.annotations import names_of, sweep, sweep_rows
from ptool.filtering.decisions import judge
from ptool.filtering.recipe import choose_recipe, parse_recipe
from ptool.filtering.run import Filtering, filter_stream
from ptool.formats.manifests import Counts
from ptool.formats.streams import Lines, StreamReader
from ptool.text.batch import Batch, decode

TEXTS = ["the brown fox", "one", "", "the # # of it", "中文字\nthe end"]


def annotate(tmp_path: Path, lines: list[bytes], recipe_name: str = "fineweb") -> Path:
    (tmp_path / "in.jsonl").write_bytes(b"".join(lines))
    filtering = Filtering(recipe=choose_recipe(recipe_name), annotate=True)
    report = filter_stream(filtering, [tmp_path / "in.jsonl"], tmp_path / "out.jsonl.zst")
    assert report.manifest.counts == Counts(read=len(lines), kept=len(lines), dropped=0, rejected=0)
    assert report.manifest.config["annotate"] is True
    return tmp_path / "out.jsonl.zst"


def test_every_document_is_kept_with_what_its_rules_measured(tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(n), "text": text, "n": 1.50}).encode() + b"\n" for n, text in enumerate(TEXTS)]
    made = annotate(tmp_path, lines)
    recipe = choose_recipe("fineweb")
    values = judge(Batch.from_texts(TEXTS), recipe).values
    found = b"".join(one.data for one in StreamReader([made])).splitlines(keepends=True)
    for index, (before, after) in enumerate(zip(lines, found, strict=True)):
        measured = json.loads(after)["measured"]
        assert list(measured.values()) == [values[position, index] for position, _ in recipe.rules]
        assert after.endswith(before[1:])
    again = Filtering(recipe=choose_recipe(None, ["word-count"]), annotate=True)
    filter_stream(again, [made], tmp_path / "again.jsonl")
    first = json.loads((tmp_path / "again.jsonl").read_bytes().splitlines()[0])
    assert first == {"measured": {"word-count": 3.0}, "id": "0", "text": TEXTS[0], "n": 1.5}


def test_a_rule_that_comes_again_has_a_number() -> None:
    steps = '[[steps]]\nrule = "word-count"\n[[steps]]\nedit = "strip-edges"\n[[steps]]\nrule = "word-count"\n'
    assert names_of(parse_recipe(steps, where="x")) == ["word-count", "word-count#2"]


@given(
    values=st.lists(st.integers(-5, 5) | st.floats(-5, 5) | st.none() | st.text(max_size=2), min_size=1, max_size=30)
)
def test_a_sweep_counts_what_each_threshold_would_drop(
    tmp_path_factory: pytest.TempPathFactory, values: list[float | str | None]
) -> None:
    source = tmp_path_factory.mktemp("sweep") / "in.jsonl"
    source.write_text("".join(json.dumps({"text": "x", "a": {"b": value}}) + "\n\n" for value in values))
    known = [value for value in values if isinstance(value, int | float)]
    if not known:
        with pytest.raises(InputError, match="no document has a number there"):
            sweep([source], ["field:a.b"])
        return
    (found,) = sweep([source], ["field:a.b"])
    assert (found.num_documents, found.num_missing) == (len(known), len(values) - len(known))
    assert {min(known), max(known)} <= {point.threshold for point in found.points}
    for point in found.points:
        assert point.below == sum(value < point.threshold for value in known)
        assert point.above == sum(value > point.threshold for value in known)


def test_a_sweep_shows_default_bounds_and_reads_no_text(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"measured":{{"word-count":{n}}}}}\n' for n in range(100)))  # no text at all
    (found,) = sweep([source], ["word-count"])
    rows = {row[0]: row[1:] for row in sweep_rows(found)}
    assert rows["50"] == ["50.00 %", "49.00 %", "the default min"]
    assert rows["100000"] == ["100.00 %", "0.00 %", "the default max"]
    assert np.all(np.diff([point.below for point in found.points]) >= 0)


def test_a_sweep_names_what_is_wrong(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text":"x"}\n')
    with pytest.raises(UsageError, match="did you mean word-count"):
        sweep([source], ["wordcount"])
    with pytest.raises(InputError, match=r"no document has measured\.word-count"):
        sweep([source], ["word-count"])
    source.write_text('{"text":"x"}\nnonsense\n')
    with pytest.raises(BadDocument, match="not JSON") as error:
        sweep([source], ["word-count"])
    assert error.value.where == f"{source}:2"


def test_integers_that_no_float_holds_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    values = ["1", "-" + "9" * 309, "1" + "0" * 5000, "7"]
    path.write_text("".join(f'{{"text":"x","q":{{"n":{value},"m":2}}}}\n' for value in values))
    for name, known in (("field:q.n", 2), ("field:q.m", 4)):
        (found,) = sweep([path], [name])
        assert (found.num_documents, found.num_missing) == (known, 4 - known)
    with pytest.raises(BadDocument, match="not a JSON object"):
        path.with_name("list.jsonl").write_text("[1]\n")
        sweep([path.with_name("list.jsonl")], ["field:q.n"])
    batch, _ = decode(Lines(path.read_bytes(), "a", "a", 1))
    assert choose_recipe(None, ["field:q.n:min=0"]).rules[0][1].rule.measure(batch)[[0, 3]].tolist() == [1, 7]
    assert np.isnan(choose_recipe(None, ["field:q.n:min=0"]).rules[0][1].rule.measure(batch)[1:3]).all()
