"""Filtering streams, folders and Python objects: nothing is lost, and jobs change nothing."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptool.errors import BadDocument, TooManyRejected, UsageError
from ptool.filtering.decisions import decide
from ptool.filtering.documents import filter_documents
from ptool.filtering.rates import find_rates
from ptool.filtering.recipe import choose_recipe, read_recipe
from ptool.filtering.requests import steps_before
from ptool.filtering.run import Filtering, filter_stream, filter_to
from ptool.filtering.sampling import random_pieces
from ptool.formats.ledger import ErrorPolicy
from ptool.formats.manifests import Counts
from ptool.formats.stages import StreamOptions, read_manifest
from ptool.formats.streams import Lines, StreamReader
from ptool.text.batch import Keys

RECIPE = choose_recipe(None, ["word-count:min=2,max=5", "hash-symbols:max=0.5", "stop-words:min=1"])
GOOD = "the brown fox"
BAD_LINES = [b"nonsense", b'{"id":"no text"}', b'{"text":"\xff"}', b'{"text":"\\ud800"}']


def document(text: str, **fields: object) -> bytes:
    return json.dumps({**fields, "text": text}, ensure_ascii=False).encode() + b"\n"


def write(path: Path, *lines: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(lines))
    return path


def read(path: Path) -> bytes:
    return b"".join(lines.data for lines in StreamReader([path], allow_empty=True))


def filtering(*, rejects: Path | None = None, jobs: int = 1, **policy: object) -> Filtering:
    options = StreamOptions(policy=ErrorPolicy(rejects=rejects, **policy))  # type: ignore[arg-type]
    return Filtering(recipe=RECIPE, options=options, jobs=jobs)


def counts_of(path: Path) -> Counts:
    manifest = read_manifest(path)
    assert manifest is not None
    assert manifest.counts is not None
    return manifest.counts


def test_kept_lines_are_the_same_bytes_and_dropped_ones_say_why(tmp_path: Path) -> None:
    kept = b' {"text" : "the caf\\u00e9 is\\topen","id":"1","n":1.50}\r\n'
    short, hashes = document("one", id="2"), document("the # # #", id="3")
    source = write(tmp_path / "in.jsonl", kept, short, b"\n", hashes, document("of two minds"))
    output, rejects = tmp_path / "out.jsonl", tmp_path / "rejects.jsonl"
    filter_stream(filtering(rejects=rejects), [source], output)
    assert output.read_bytes() == kept + b'{"id":"in.jsonl#5","text": "of two minds"}\n'
    first, second = map(json.loads, rejects.read_bytes().splitlines())
    assert first["ptool"] == {"stage": "filter", "rule": "word-count", "value": 1.0, "accept": [2.0, 5.0]}
    assert second["ptool"] == {"stage": "filter", "rule": "word-count", "value": 1.0, "accept": [2.0, 5.0]}
    assert (first["text"], second["id"]) == ("one", "3")
    assert counts_of(output) == Counts(read=4, kept=2, dropped=2, dropped_by={"word-count": 2})


def test_the_first_failing_rule_in_the_recipes_order_is_the_reason(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", document("a## b", id="1"))
    reasons = []
    for order in (["hash-symbols", "stop-words"], ["stop-words", "hash-symbols"]):
        output = tmp_path / f"{order[0]}.jsonl"
        filter_stream(Filtering(recipe=choose_recipe(None, order)), [source], output)
        reasons.append(counts_of(output).dropped_by)
    assert reasons == [{"hash-symbols": 1}, {"stop-words": 1}]


def test_a_line_that_is_no_document_stops_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", document(GOOD), b"\n", b'{"text":7}\n')
    with pytest.raises(BadDocument, match=r"in.jsonl:3: the field 'text' is a number, not a string"):
        filter_stream(filtering(rejects=tmp_path / "rejects.jsonl"), [source], tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_rejected_lines_are_kept_in_input_order_among_the_dropped(tmp_path: Path) -> None:
    lines = [document("one"), b"nonsense\n", document(GOOD), b'{"text":"\xff"}\n', document("two")]
    source = write(tmp_path / "in.jsonl", *lines)
    rejects = tmp_path / "rejects.jsonl"
    filter_stream(filtering(rejects=rejects, on_error="reject", max_errors=2), [source], tmp_path / "out.jsonl")
    found = [json.loads(line) for line in rejects.read_bytes().splitlines()]
    assert [one.get("text") for one in found] == ["one", None, None, "two"]
    assert [one["ptool"].get("line") for one in found] == [None, 2, 4, None]
    assert found[1]["raw"] == "nonsense"
    assert counts_of(tmp_path / "out.jsonl").rejected == 2


texts = st.sampled_from([GOOD, "one", "the # # of", "x y z", "人 the 口", "", " "])
any_line = st.one_of(texts.map(document), st.sampled_from(BAD_LINES).map(lambda line: line + b"\n"), st.just(b"\n"))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(any_line, max_size=30), st.integers(1, 200))
def test_decisions_do_not_depend_on_where_batches_are_cut(lines: list[bytes], size: int) -> None:
    def decided(pieces: list[Lines]) -> tuple[bytes, list[tuple[int, object]]]:
        found = [decide(piece, RECIPE, Keys()) for piece in pieces]
        removed = [(one.number, one) for result in found for one in result.removed]
        told = sum(result.num_kept + len(result.removed) for result in found)
        assert told == sum(line != b"\n" for line in lines)
        return b"".join(result.kept for result in found), removed

    def piece(first: int, last: int) -> Lines:
        return Lines(data=b"".join(lines[first:last]), origin="in.jsonl", path="in.jsonl", first_number=first + 1)

    whole = decided([piece(0, len(lines))])
    cuts = range(0, len(lines), size % 7 + 1)
    assert decided([piece(first, first + size % 7 + 1) for first in cuts]) == whole
    assert [number for number, _ in whole[1]] == sorted(number for number, _ in whole[1])


def test_any_number_of_jobs_writes_the_same_bytes(tmp_path: Path) -> None:
    padding = "x" * 2000
    lines = [
        document(f"{GOOD} {number}" if number % 3 else "one", n=number, padding=padding)
        if number % 100
        else BAD_LINES[number // 100 % 4] + b"\n"
        for number in range(1, 9000)
    ]
    source = write(tmp_path / "in.jsonl", *lines)
    made = []
    for jobs in (1, 2, 3):
        output, rejects = tmp_path / f"{jobs}.jsonl.zst", tmp_path / f"{jobs}.rejects.zst"
        work = filtering(rejects=rejects, jobs=jobs, on_error="reject", max_errors=1000)
        filter_stream(work, [source], output)
        made.append((output.read_bytes(), rejects.read_bytes()))
    assert made[0] == made[1] == made[2]
    assert counts_of(tmp_path / "1.jsonl.zst").read == len(lines)


def test_an_output_is_up_to_date_only_for_the_same_recipe(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", document(GOOD)), tmp_path / "out.jsonl.zst"
    filter_stream(filtering(), [source], output)
    assert filter_stream(filtering(), [source], output).up_to_date
    other = Filtering(recipe=choose_recipe(None, ["word-count:min=3,max=5"]))
    with pytest.raises(UsageError, match="made otherwise"):
        filter_stream(other, [source], output)


def test_a_run_that_asked_for_languages_and_lists_is_known_again(tmp_path: Path) -> None:
    listed = write(tmp_path / "list.txt", b"word\n")
    source, output = write(tmp_path / "in.jsonl", document(GOOD)), tmp_path / "out.jsonl.zst"
    steps = steps_before(langs="en,zh", domains=[listed], blocklists=[f"en:{listed}"])
    asked = Filtering(recipe=choose_recipe("fineweb", first=steps))
    filter_stream(asked, [source], output)
    assert filter_stream(asked, [source], output).up_to_date
    assert read_recipe(asked.recipe.config()).steps == asked.recipe.steps


def test_the_manifest_records_recipe_words_keys_and_unicode(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl.zst"
    filter_stream(filtering(), [write(tmp_path / "in.jsonl", document(GOOD))], output)
    manifest = read_manifest(output)
    assert manifest is not None
    assert manifest.config["recipe"] == RECIPE.config()
    assert manifest.config["recipe"]["words"] == "cjk"
    assert manifest.config["keys"] == {"text": "text", "id": "id", "source": "source"}
    assert manifest.config["unicode"].count(".") == 2


def test_a_folder_has_an_output_for_each_input_whoever_makes_it(tmp_path: Path) -> None:
    inputs = [str(write(tmp_path / f"in {n}" / "文.jsonl", document(GOOD), document("one"))) for n in range(5)]
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    counts = filter_to(filtering(rejects=tmp_path / "whole rejects"), inputs, f"{whole}/")
    assert counts == Counts(read=10, kept=5, dropped=5, dropped_by={"word-count": 5})
    for task in (2, 1):
        filter_to(filtering(rejects=tmp_path / "shared rejects"), inputs, f"{shared}/", shard=f"{task}/2")
    names = sorted(path.relative_to(whole) for path in whole.rglob("*.zst"))
    assert len(names) == 5
    assert (whole / "manifest.json").is_file()
    for name in names:
        assert (whole / name).read_bytes() == (shared / name).read_bytes()
        assert (tmp_path / "whole rejects" / name).read_bytes() == (tmp_path / "shared rejects" / name).read_bytes()
    assert (whole / "manifest.json").read_bytes() == (shared / "manifest.json").read_bytes()
    assert json.loads(read(whole / names[0]))["id"] == f"{names[0]}".replace(".jsonl.zst", ".jsonl") + "#1"


def test_a_folder_is_finished_before_too_many_rejected_lines_are_told(tmp_path: Path) -> None:
    rejected = (3, 0, 1)
    inputs = [
        str(write(tmp_path / f"{n}.jsonl", b"nonsense\n" * bad, document(GOOD))) for n, bad in enumerate(rejected)
    ]
    with pytest.raises(TooManyRejected, match="4 lines were rejected, 2 are allowed"):
        filter_to(filtering(on_error="reject", max_errors=2), inputs, f"{tmp_path}/out/")
    assert (tmp_path / "out" / "manifest.json").is_file()
    assert [counts_of(tmp_path / "out" / f"{n}.jsonl.zst").rejected for n in range(3)] == [3, 0, 1]
    assert filter_to(filtering(on_error="reject", max_errors=4), inputs, f"{tmp_path}/again/").rejected == 4


def test_a_shard_without_a_folder_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", document(GOOD))
    with pytest.raises(UsageError, match="--shard shares out the files of a folder"):
        filter_to(filtering(), [str(source)], str(tmp_path / "out.jsonl"), shard="1/2")


def test_filter_documents_yields_the_same_objects() -> None:
    documents = [{"text": GOOD, "n": [number]} if number % 2 else {"text": "one"} for number in range(1000)]
    kept = list(filter_documents(documents, RECIPE))
    assert len(kept) == 500
    assert all(one is other for one, other in zip(kept, documents[1::2], strict=True))


def test_filter_documents_reads_no_further_than_it_must() -> None:
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield {"body": GOOD}

    stream = filter_documents(endless(), RECIPE, keys=Keys(text="body"))
    assert next(stream) == {"body": GOOD}
    assert taken <= 256


@pytest.mark.parametrize("bad", [{}, {"text": 7}, {"text": "\ud800"}, "text", None])
def test_filter_documents_names_the_one_that_is_none(bad: object) -> None:
    documents = [{"text": GOOD}] * 300 + [bad]
    with pytest.raises(BadDocument, match="document 300"):
        list(filter_documents(documents, "gopher-quality"))  # type: ignore[arg-type]


def test_rates_count_what_fails_alone_and_what_drops_first(tmp_path: Path) -> None:
    lines = [document(GOOD), document("one"), document("#"), b"\n", b"nonsense\n", document("x y z"), document("never")]
    sources = [write(tmp_path / f"{n}.jsonl", *lines) for n in range(2)]
    found = find_rates(sources, RECIPE, sample=5)
    assert (found.num_documents, found.num_kept, found.num_bad) == (8, 2, 2)
    assert [(rate.rule, rate.fails, rate.drops) for rate in found.rates] == [
        ("word-count", 4, 4),
        ("hash-symbols", 2, 0),
        ("stop-words", 6, 2),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.jsonl", "1.jsonl"]


def test_a_sample_ends_where_it_was_asked_to_even_across_batches(tmp_path: Path) -> None:
    padding = "x" * 1_500_000  # batches are 4 MiB
    source = write(tmp_path / "in.jsonl", *[document(GOOD, padding=padding) for _ in range(8)])
    for sample in (1, 4, 7, 8, 9):
        assert find_rates([source], RECIPE, sample=sample).num_documents == min(sample, 8)


def test_a_dry_run_tells_sources_examples_and_what_all_of_it_would_take(tmp_path: Path) -> None:
    lines = [document("the fox", id=f"good{n}", source="a") for n in range(5)]
    lines += [document("one", id=f"bad{n}", source="b") for n in range(5)]
    source = write(tmp_path / "in.jsonl", *lines)
    found = find_rates([source], RECIPE)
    assert {name: (one.documents, one.kept, one.dropped_by) for name, one in found.by_source.items()} == {
        "a": (5, 5, {}),
        "b": (5, 0, {"word-count": 5}),
    }
    assert found.examples == {"word-count": ["bad0", "bad1", "bad2"]}
    assert found.by_language["en"].documents > 0
    assert sum(one.documents for one in found.by_language.values()) == 10
    assert found.sampling == {str(source): "first documents"}
    assert found.seconds is not None
    assert found.output_bytes == sum(map(len, lines[:5]))


@pytest.mark.parametrize("suffix", [".jsonl.zst", ".jsonl"])
def test_a_sample_of_a_long_file_comes_from_all_over_it_by_its_seed(tmp_path: Path, suffix: str) -> None:
    padding = "".join(random.Random(0).choices("abcdef", k=20_000))
    lines = [document("the fox" if n < 800 else "one", id=f"{n}", padding=padding) for n in range(1600)]
    source = tmp_path / f"in{suffix}"
    if suffix == ".jsonl":
        source.write_bytes(b"".join(lines))
    else:
        copied = Filtering(recipe=choose_recipe(None, ["text-length"]))
        filter_stream(copied, [write(tmp_path / "plain.jsonl", *lines)], source)
    pieces = random_pieces(source, 0)
    assert pieces is not None
    in_order = sorted(pieces, key=lambda piece: piece.number)
    assert len(in_order) == 8
    assert b"".join(piece.read() for piece in in_order) == b"".join(lines)
    found = find_rates([source], RECIPE, sample=80)
    assert found.num_documents == 80
    assert 20 <= found.num_kept <= 60  # the first half is good, the second is not
    assert found.sampling == {str(source): "random frames, seed 0"}
    assert found.output_bytes is not None
    assert 0.3 < found.output_bytes / source.stat().st_size < 0.7
    examples = {
        tuple(find_rates([source], RECIPE, sample=80, seed=seed).examples["word-count"]) for seed in (0, 0, 1, 2)
    }
    assert 2 <= len(examples) <= 3
    assert find_rates([source], RECIPE, sample=10_000).num_documents == 1600


def test_what_cannot_be_sampled_is_read_from_its_start(tmp_path: Path) -> None:
    lines = b"".join(document("the fox", id=f"{n}") for n in range(10))
    foreign = tmp_path / "foreign.zst"  # a frame may end within a line
    foreign.write_bytes(b"".join(zstandard.compress(part) for part in (lines[:100], lines[100:])))
    cut = tmp_path / "cut.zst"
    filter_stream(filtering(), [write(tmp_path / "in.jsonl", lines)], tmp_path / "out.zst")
    cut.write_bytes((tmp_path / "out.zst").read_bytes()[:-400])
    packed = tmp_path / "x.gz"
    packed.write_bytes(gzip.compress(lines))
    for source in (foreign, cut, packed, tmp_path / "in.jsonl", "-"):
        assert random_pieces(source, 0) is None
    assert find_rates([foreign, packed], RECIPE, sample=5).num_documents == 10
