"""`ptool explain` and `ptool stats`: what is said is what is there."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ptool.errors import InputError
from ptool.filtering.explaining import explain, explanation_rows
from ptool.filtering.recipe import choose_recipe
from ptool.filtering.run import Filtering, filter_stream
from ptool.filtering.statistics import find_statistics, lengths_table, totals_table
from ptool.formats.documents import DocumentTableWriter, new_records
from ptool.formats.ledger import ErrorPolicy
from ptool.formats.manifests import Counts, DocumentsDigest, encode_manifest, new_manifest
from ptool.formats.stages import StreamOptions
from ptool.formats.streams import StreamWriter
from ptool.text.batch import Keys

DOCUMENTS = [
    {"id": "good", "text": "the brown fox", "source": "a"},
    {"id": "短い", "text": "one", "source": "b"},
    {"text": "# # #"},
    {"id": "good", "text": "again the fox"},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A filtered stream with its rejects; one line is no document."""
    lines = [json.dumps(document, ensure_ascii=False).encode() + b"\n" for document in DOCUMENTS]
    (tmp_path / "in.jsonl").write_bytes(b"".join([*lines, b"nonsense\n"]))
    recipe = choose_recipe(None, ["word-count:min=2", "mean-word-length:min=2,max=4", "hash-symbols"])
    policy = ErrorPolicy(rejects=tmp_path / "no.jsonl.zst", on_error="reject", max_errors=1)
    filtering = Filtering(recipe=recipe, options=StreamOptions(policy=policy), explain_all=True)
    filter_stream(filtering, [tmp_path / "in.jsonl"], tmp_path / "out.jsonl.zst")
    return tmp_path


def paths(run: Path, *names: str) -> list[str]:
    return [str(run / name) for name in names]


def test_a_kept_document_is_seen_where_it_stands_as_often_as_it_does(run: Path) -> None:
    found = explain("good", paths(run, "in.jsonl", "out.jsonl.zst", "no.jsonl.zst"))
    assert [(sighting.event, sighting.line) for sighting in found.sightings] == [
        ("kept", 1),
        ("kept", 4),
        ("kept", 1),
        ("kept", 2),
    ]
    assert found.unseen == []


def test_a_dropped_document_is_explained_with_every_rule_it_failed(run: Path) -> None:
    found = explain("in.jsonl#3", paths(run, "in.jsonl", "out.jsonl.zst", "no.jsonl.zst"))
    there, dropped = found.sightings
    assert (there.event, dropped.event, dropped.stage) == ("kept", "dropped", "filter")
    assert dropped.reason["rule"] == "word-count"
    assert [one["rule"] for one in dropped.reason["also"]] == ["mean-word-length", "hash-symbols"]
    assert "word-count is 0, accepted 2 to 100000; also fails mean-word-length (0)" in explanation_rows(found)[1][2]


def test_ids_in_any_script_and_rejected_lines_are_found(run: Path) -> None:
    (dropped,) = explain("短い", paths(run, "no.jsonl.zst")).sightings
    assert dropped.reason["value"] == 1
    (rejected,) = explain("in.jsonl#5", paths(run, "no.jsonl.zst")).sightings
    assert rejected.event == "rejected"
    assert "not JSON" in rejected.reason["reason"]


def test_a_stage_whose_rejects_are_not_there_is_named(run: Path) -> None:
    found = explain("短い", paths(run, "out.jsonl.zst"))
    assert found.sightings == []
    assert found.unseen == ["filter dropped 3 documents; its rejects are not among the paths"]
    with pytest.raises(InputError):
        explain("x", paths(run, "missing.jsonl"))
    with pytest.raises(InputError, match="no finished artefact"):
        explain("x", [str(run)])


def test_a_folder_is_searched_by_its_index_and_tells_the_stages_before(tmp_path: Path) -> None:
    with DocumentTableWriter(lambda name: (tmp_path / name).open("wb"), "train") as table:
        records = new_records(3)
        records["num_tokens"] = [5, 6, 7]
        table.add(records, ["ab", "b", "短い"])
    before = new_manifest("filter", {}, counts=Counts(read=5, kept=3, dropped=2, dropped_by={"word-count": 2}))
    (tmp_path / "manifest.json").write_bytes(encode_manifest(new_manifest("pack", {}, upstream=[before])))
    (found,) = explain("b", [str(tmp_path)]).sightings
    assert (found.event, found.stage, found.reason["document"], found.reason["num_tokens"]) == (
        "in train",
        "pack",
        1,
        6,
    )
    assert [one.reason["document"] for one in explain("短い", [str(tmp_path)]).sightings] == [2]
    nobody = explain("a", [str(tmp_path)])
    assert nobody.sightings == []
    assert nobody.unseen == ["filter dropped 2 documents; its rejects are not among the paths"]


def test_a_run_leads_to_the_folder_that_it_was_trained_on(tmp_path: Path) -> None:
    packed, run = tmp_path / "packed 文", tmp_path / "runs" / "a"
    for folder in (packed, run):
        folder.mkdir(parents=True)
    with DocumentTableWriter(lambda name: (packed / name).open("wb"), "train") as table:
        table.add(new_records(1), ["b"])
    (packed / "manifest.json").write_bytes(encode_manifest(new_manifest("pack", {})))
    gone = tmp_path / "gone"
    (run / "config.toml").write_text(f'[data]\npacked = ["{packed}", "../packed 文", "{gone}"]\n')
    found = explain("b", [str(run)])
    assert [(sighting.path, sighting.stage) for sighting in found.sightings] == [(str(packed), "pack")]
    assert found.unseen == [f"{run} was trained on {gone}, which is not there"]
    assert len(explain("b", [str(run), str(packed)]).sightings) == 1
    (run / "config.toml").write_text(f'[data]\npacked = "{packed}"\n')
    assert explain("b", [str(run)]).unseen == []
    (run / "config.toml").write_text("[data")
    with pytest.raises(InputError, match="the run's configuration cannot be read"):
        explain("b", [str(run)])


@pytest.mark.parametrize("jobs", [1, 2])
def test_statistics_add_up_for_any_number_of_jobs(run: Path, jobs: int) -> None:
    found = find_statistics(paths(run, "in.jsonl"), jobs=jobs)
    assert found.bad_lines == 1
    assert (found.total.documents, found.total.words, found.total.chars) == (4, 10, 34)
    assert {name: totals.documents for name, totals in found.by_source.items()} == {"-": 2, "a": 1, "b": 1}
    assert found.total.lengths == {2: 1, 3: 1, 4: 2}
    assert totals_table(found)[1][-1][:2] == ["all", "4"]
    assert lengths_table(found)[1][0] == ["2 to 3", "1", "25.0 %"]


def test_statistics_of_nothing_and_of_languages(tmp_path: Path) -> None:
    with (tmp_path / "empty.jsonl.zst").open("wb") as file:
        StreamWriter(file, stage="filter").finish(new_manifest("filter", {}, documents_out=DocumentsDigest().documents))
    assert find_statistics([tmp_path / "empty.jsonl.zst"]).total.documents == 0


def test_every_document_may_be_of_another_source(tmp_path: Path) -> None:
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(f'{{"text":"a b","source":"http://{number}"}}\n' for number in range(40_000)))
    find_statistics([path], keys=Keys(source="none"))  # compiled
    started = time.process_time()
    found = find_statistics([path])
    assert time.process_time() - started < 5  # compared with each other: half a minute
    assert len(found.by_source) == 40_000
    assert (found.total.documents, found.total.words, found.total.lengths) == (40_000, 80_000, {2: 40_000})
    texts = ["The quick brown fox jumps over the lazy dog.", "敏捷的棕色狐狸跳过了懒狗，然后它就睡着了。", ""]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "two.jsonl").write_text("".join(lines))
    assert find_statistics([tmp_path / "two.jsonl"], languages=True).languages == {"-": 1, "en": 1, "zh": 1}
