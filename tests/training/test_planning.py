"""What a call would do, before anything is done: the data is held to its digest, and repeats are found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ptool.errors import InputError, UsageError
from ptool.formats.manifests import encode_manifest, new_manifest
from ptool.formats.packed import PackedDataset
from ptool.formats.packed_writer import write_packed
from ptool.training.planning import Plan, plan_resume, plan_train
from ptool.training.resolving import check
from ptool.training.settings_text import from_toml, to_toml
from tests.training import tiny

SMALL = check(
    {"model": {"layers": 1, "hidden": 32, "heads": 2}, "batch": {"tokens": 256}, "parallel": {"device": "cpu"}}
)


def pack(folder: Path, first: int, count: int) -> Path:
    """Documents `first` and following."""
    documents = list(tiny.documents(first + count))[first:]
    write_packed(folder, iter(documents), seq_len=tiny.SEQ_LEN, vocab_size=tiny.VOCAB, eod_id=0)
    return folder


def phases(*mixes: dict[str, float]) -> dict[str, object]:
    return {**SMALL, **check({"phase": [{"tokens": 2048, "mix": mix} for mix in mixes]})}


def begun(plan: Plan) -> Path:
    """A run folder as it stands when training begins."""
    plan.run.mkdir()
    (plan.run / "config.toml").write_text(to_toml(plan.config))
    return plan.run


def checkpoint(run: Path, step: int) -> Path:
    """The manifest of one, and nothing else."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    manifest = new_manifest("checkpoint", {}, details={"step": step, "decisions": 0})
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder


def test_changed_data_is_refused_unless_it_is_allowed_and_then_recorded(tmp_path):
    web = pack(tmp_path / "web", 0, 80)
    run = begun(plan_train([web], SMALL, tmp_path / "run"))
    assert plan_resume(run).changes == ()
    shutil.rmtree(web)
    with pytest.raises(InputError, match="is gone"):
        plan_resume(run)
    pack(web, 100, 90)
    with pytest.raises(InputError, match="--allow-data-change"):
        plan_resume(run)
    allowed = plan_resume(run, allow_data_change=True)
    assert [change.setting for change in allowed.changes] == ["data"]
    assert allowed.config.data.fingerprints == (PackedDataset.open(web).fingerprint,)
    assert "other data" in allowed.changes[0].meaning


def test_a_document_in_the_folders_of_two_phases_is_refused_unless_it_is_allowed(tmp_path):
    one, other = pack(tmp_path / "one", 0, 80), pack(tmp_path / "other", 79, 80)
    apart = phases({"one": 1.0}, {"other": 1.0})
    with pytest.raises(InputError, match="1 documents stand in the folders of two phases"):
        plan_train([one, other], apart, tmp_path / "run")
    allowed = {**apart, "data": {"allow_repeats": True}}
    assert plan_train([one, other], allowed, tmp_path / "run").config.run.max_steps == 16
    assert plan_train([one, other], phases({"one": 0.5, "other": 0.5}), tmp_path / "run").standing == "new"
    assert not (tmp_path / "run").exists()


def test_a_folder_that_joins_a_run_must_not_hold_documents_it_has_seen(tmp_path):
    one, seen, new = pack(tmp_path / "one", 0, 80), pack(tmp_path / "seen", 79, 80), pack(tmp_path / "new", 200, 80)
    run = begun(plan_train([one], SMALL, tmp_path / "run"))
    checkpoint(run, 2)
    with pytest.raises(InputError, match="1 documents stand in the folders of two phases"):
        plan_resume(run, [f'data.packed=["{one}", "{seen}"]'])
    joined = plan_resume(run, [f'data.packed=["{one}", "{new}"]'])
    assert [len(p.weights) for p in joined.config.phase] == [1, 2]


def test_rows_that_come_again_in_a_later_phase_are_refused(tmp_path):
    one, other = pack(tmp_path / "one", 0, 80), pack(tmp_path / "other", 100, 20)
    with pytest.raises(InputError, match=r"taken [0-9.]+ times over the phases 1 and 2"):
        plan_train([one, other], phases({"one": 0.5, "other": 0.5}, {"other": 1.0}), tmp_path / "run")


def test_folders_of_different_tokenizers_are_refused(tmp_path):
    one = pack(tmp_path / "one", 0, 20)
    other = pack(tmp_path / "other", 30, 20)
    manifest = (other / "manifest.json").read_text()
    assert '"tokenizer_fingerprint":null' in manifest
    (other / "manifest.json").write_text(
        manifest.replace('"tokenizer_fingerprint":null', '"tokenizer_fingerprint":"sha256:1"')
    )
    with pytest.raises(InputError, match="different tokenizers"):
        plan_train([one, other], SMALL, tmp_path / "run")


def test_another_run_in_the_folder_is_named_by_what_differs(tmp_path):
    web = pack(tmp_path / "web", 0, 80)
    run = begun(plan_train([web], SMALL, tmp_path / "run"))
    assert plan_train([web], SMALL, run).standing == "unfinished"
    other = {**SMALL, "run": {"seed": 5}}
    with pytest.raises(UsageError, match="run.seed is 0, not 5"):
        plan_train([web], other, run)


def test_a_change_counts_from_the_newest_checkpoint_that_can_be_read(tmp_path):
    run = begun(plan_train([pack(tmp_path / "web", 0, 80)], SMALL, tmp_path / "run"))
    checkpoint(run, 2)
    damaged = checkpoint(run, 4) / "manifest.json"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    changed = plan_resume(run, ["batch.tokens=512"])
    assert changed.config.phase[0].steps == 2
    assert "after step 2" in changed.changes[0].meaning


def test_a_finished_run_is_finished_for_any_number_of_ranks_from_outside(tmp_path, monkeypatch):
    """The jobs that follow in a chain find it so, and have perhaps more nodes."""
    run = begun(plan_train([pack(tmp_path / "web", 0, 80)], SMALL, tmp_path / "run"))
    last = from_toml(run / "config.toml").run.max_steps
    checkpoint(run, last)
    (run / "manifest.json").write_bytes(encode_manifest(new_manifest("train", {})))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    found = plan_resume(run)
    assert (found.standing, found.changes, found.config.parallel.ranks) == ("finished", (), 2)
    longer = plan_resume(run, [f"run.max_steps={last + 2}"])
    assert (longer.standing, longer.config.parallel.ranks) == ("unfinished", 4)
