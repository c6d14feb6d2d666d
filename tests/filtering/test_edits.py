"""Edits: their own examples, what they do to lines, and that a recipe measures what an edit left."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import UsageError
from ptool.filtering.decisions import Dropped, decide
from ptool.filtering.recipe import (
    EditStep,
    choose_recipe,
    describe,
    edit_names,
    load_edit,
    parse_recipe,
    read_recipe,
)
from ptool.filtering.run import Filtering, filter_stream
from ptool.formats.ledger import ErrorPolicy
from ptool.formats.stages import StreamOptions
from ptool.formats.streams import Lines, StreamReader
from ptool.text.batch import Batch, Keys

NAMES = edit_names()
C4 = choose_recipe("c4")
READER = dict(StreamReader.__init__.__kwdefaults__ or {})
ANY_TEXT = st.text(st.sampled_from('ab .\n\r\t"\\{}é中🙂\x00\u2028'), max_size=30) | st.text(max_size=20)


def applied(name: str, texts: list[str]) -> list[str]:
    batch = Batch.from_texts(texts)
    edited = batch.with_texts(load_edit(name)().apply(batch))
    return [edited.text_of(index).decode() for index in range(len(texts))]


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_does_its_own_examples_and_only_once(name: str) -> None:
    kind = load_edit(name)
    before = [one for one, _ in kind.changes]
    after = [other for _, other in kind.changes]
    assert applied(name, before) == after
    assert applied(name, [*after, *kind.leaves]) == [*after, *kind.leaves]
    assert 10 < len(describe(name)) < 80


@pytest.mark.parametrize("name", NAMES)
@given(texts=st.lists(ANY_TEXT, max_size=4))
def test_an_edit_takes_any_text_and_is_blind_to_neighbours(name: str, texts: list[str]) -> None:
    assert applied(name, texts) == [applied(name, [text])[0] for text in texts]


def edit_recipe(edit: str, *rules: str) -> str:
    return f'[[steps]]\nedit = "{edit}"\n' + "".join(f"[[steps]]\n{rule}\n" for rule in rules)


STRIP = parse_recipe(edit_recipe("strip-edges", 'rule = "text-length"'), where="x")


@given(
    st.lists(
        st.tuples(
            ANY_TEXT,
            st.dictionaries(
                st.text(max_size=5) | st.sampled_from(["te\\xt", "a"]), st.text(max_size=9) | st.integers()
            ),
            st.booleans(),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_only_the_text_of_an_edited_line_is_written_anew(
    documents: list[tuple[str, dict[str, str | int], bool]],
) -> None:
    lines, expected = b"", b""
    for text, fields, ascii_only in documents:
        document = {**fields, "id": "1", "text": text, "more": {"text": [text, "x"]}}
        line = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "replace") + b"\n"
        lines += line
        if text.strip() == text:
            expected += line if text else b""
        elif text.strip():
            old = json.dumps(text, ensure_ascii=ascii_only).encode()
            at = line.index(b'"text": ' + old + b', "more"') + len(b'"text": ')
            kept = decide(Lines(line, "a", "a", 1), STRIP, Keys()).kept
            assert kept.startswith(line[:at])
            assert kept.endswith(line[at + len(old) :])
            assert json.loads(kept) == {**document, "text": text.strip()}
            expected += kept
    assert decide(Lines(lines, "a", "a", 1), STRIP, Keys()).kept == expected


def test_a_key_that_is_written_with_escapes_is_found_too() -> None:
    line = b'{"\\u0074ext":" a ","id":"1","n":1.50}\n'
    assert json.loads(decide(Lines(line, "a", "a", 1), STRIP, Keys()).kept) == {"text": "a", "id": "1", "n": 1.5}


def test_an_integer_of_any_length_beside_a_key_with_escapes_keeps_its_digits() -> None:
    line = b'{"\\u0061":1' + b"0" * 5000 + b',"text":" a ","id":"1"}\n'
    kept = decide(Lines(line, "a", "a", 1), STRIP, Keys()).kept
    assert kept == line.replace(b'" a "', b'"a"')


def test_of_equal_keys_the_last_one_counts() -> None:
    line = b'{"text":" x ","id":"1","text":" a "}\n'
    assert decide(Lines(line, "a", "a", 1), STRIP, Keys()).kept == b'{"text":" x ","id":"1","text":"a"}\n'


def test_a_measurement_after_an_edit_sees_the_edited_text_and_a_dropped_line_is_the_original() -> None:
    rules = 'rule = "word-count"\nmin = 4'
    before = parse_recipe(f"[[steps]]\n{rules}\n" + edit_recipe("c4-lines"), where="x")
    after = parse_recipe(edit_recipe("c4-lines", rules), where="x")
    line = b'{"id":"1","text":"Home\\nThree words here.\\n"}\n'
    assert decide(Lines(line, "a", "a", 1), before, Keys()).kept == b'{"id":"1","text":"Three words here."}\n'
    dropped = decide(Lines(line, "a", "a", 1), after, Keys()).removed[0]
    assert isinstance(dropped, Dropped)
    assert dropped.line == line
    assert dropped.failure.value == 3
    assert dropped.chars == (23, 17)


def test_the_manifest_and_the_rejects_have_the_lengths(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"id":"1","text":"  a b "}\n{"id":"2","text":"cd"}\n{"id":"3","text":"  "}\n')
    options = StreamOptions(policy=ErrorPolicy(rejects=tmp_path / "no.jsonl"))
    report = filter_stream(Filtering(recipe=STRIP, options=options), [source], tmp_path / "out.jsonl.zst")
    assert report.manifest.details == {
        "edits": [{"edit": "strip-edges", "documents": 2, "chars_before": 10, "chars_after": 5}]
    }
    reason = json.loads((tmp_path / "no.jsonl").read_bytes())["ptool"]
    assert reason["chars"] == [2, 0]
    kept = b"".join(lines.data for lines in StreamReader([tmp_path / "out.jsonl.zst"]))
    assert kept == b'{"id":"1","text":"a b"}\n{"id":"2","text":"cd"}\n'


def test_a_recipe_with_edits_survives_the_manifest_and_can_be_refused() -> None:
    recipe = choose_recipe("fineweb")
    assert [step.name for _, step in recipe.edits] == ["c4-lines", "strip-edges"]
    again = read_recipe(json.loads(json.dumps(recipe.config())))
    assert again.steps == recipe.steps
    assert isinstance(again.steps[22], EditStep)
    with pytest.raises(UsageError, match=r"edits documents \(c4-lines, strip-edges\) and --no-edits is given"):
        choose_recipe("fineweb", edits=False)
    assert choose_recipe("fineweb-quality", edits=False).steps
    with pytest.raises(UsageError, match="unknown parameter of c4-lines 'terminals'.*did you mean terminal"):
        parse_recipe('[[steps]]\nedit = "c4-lines"\nterminals = true', where="x")
    with pytest.raises(UsageError, match="an edit of the recipe, not a rule"):
        choose_recipe("c4", ["c4-lines"])


def test_a_recipe_is_repeated_from_its_file_its_manifest_and_its_output(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"id":"1","text":"  a b "}\n')
    mine = tmp_path / "mine.toml"
    mine.write_text(edit_recipe("strip-edges", 'rule = "word-count"\nmin = 1'))
    first = choose_recipe(None, recipe_file=mine)
    filter_stream(Filtering(recipe=first), [source], tmp_path / "out.jsonl")
    filter_stream(Filtering(recipe=first), [source], tmp_path / "out.jsonl.zst")
    for made in ("out.jsonl.manifest.json", "out.jsonl.zst"):
        assert choose_recipe(None, recipe_file=tmp_path / made).steps == first.steps
    with pytest.raises(UsageError, match="exclude each other"):
        choose_recipe("c4", recipe_file=mine)
    with pytest.raises(UsageError, match="no such recipe file"):
        choose_recipe(None, recipe_file=tmp_path / "none.toml")
    with pytest.raises(UsageError, match="neither a recipe nor a manifest"):
        (tmp_path / "x").write_bytes(b"\xff\xfe")
        choose_recipe(None, recipe_file=tmp_path / "x")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from(
                ["Home", "A whole sentence.[1]", "One more here! And a third.", "use cookies now", "中文。", " ", "{"]
            ),
            max_size=40,
        ).map("\n".join),
        min_size=1,
        max_size=25,
    ),
    st.integers(0, 10**6),
)
def test_batches_and_frames_change_nothing_about_what_comes_out(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], layout: int
) -> None:
    """Whatever the pieces that documents arrive in: the same bytes, rejects and counts, edits and all."""
    folder = tmp_path_factory.mktemp("layout")
    chance = random.Random(layout)
    lines = [
        json.dumps({"text": text} | ({"id": str(n)} if n % 3 else {})).encode() + b"\n" for n, text in enumerate(texts)
    ]
    lines.insert(chance.randrange(len(lines)), b"nonsense\n")
    plain = b"".join(lines)
    cuts = sorted(chance.randrange(len(plain)) for _ in range(chance.randrange(6)))
    parts = [plain[start:end] for start, end in itertools.pairwise([0, *cuts, len(plain)])]
    made = []
    for name, data in (
        ("whole", plain),
        ("frames", b"".join(map(zstandard.compress, parts))),
        ("members", b"".join(map(gzip.compress, parts))),
    ):
        source = folder / name / "in.jsonl"
        source.parent.mkdir()
        source.write_bytes(data)
        rejects = source.parent / "no.jsonl"
        policy = ErrorPolicy(rejects=rejects, on_error="reject", max_errors=1)
        work = Filtering(recipe=C4, options=StreamOptions(policy=policy), explain_all=True)
        batch_bytes = 1 if name == "whole" else chance.choice([1, 100, 1 << 20])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StreamReader.__init__, "__kwdefaults__", {**READER, "batch_bytes": batch_bytes})
            report = filter_stream(work, [source], source.parent / "out.jsonl.zst")
        counts = report.manifest.counts
        assert counts is not None
        assert counts.read == len(lines) == counts.kept + counts.dropped + counts.rejected
        made.append(
            ((source.parent / "out.jsonl.zst").read_bytes(), rejects.read_bytes().replace(str(source).encode(), b""))
        )
    assert made[0] == made[1] == made[2]


def test_an_edited_stream_is_the_same_bytes_for_any_number_of_jobs(tmp_path: Path) -> None:
    text = "Home\nA whole sentence, number {}.\nIt has one more. And a third. A fourth! A fifth?\n"
    lines = [json.dumps({"id": str(n), "text": text.format(n) * (n % 7)}).encode() + b"\n" for n in range(60_000)]
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"".join(lines))
    made = []
    for jobs in (1, 3):
        output = tmp_path / f"{jobs}.jsonl.zst"
        filter_stream(Filtering(recipe=choose_recipe("c4"), jobs=jobs), [source], output)
        made.append(output.read_bytes())
    assert made[0] == made[1]
    assert len(made[0]) > 1000
