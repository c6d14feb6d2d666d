"""The checkpoint a run goes on from or back to: broken ones, undone ones, those of the clock; what is read of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from ptool.errors import DamagedInput, InputError
from ptool.formats import artefacts
from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import list_files
from ptool.formats.manifests import decode_manifest, encode_manifest, new_manifest
from ptool.formats.mixture import Mixture, Phase
from ptool.reporting import SILENT
from ptool.training import config as configs
from ptool.training import history
from ptool.training.checkpoints import Position
from ptool.training.config import RunConfig, Spike
from ptool.training.course import Course
from ptool.training.data import take
from ptool.training.history import Ledger
from ptool.training.spikes import Action, Decision, Observation, Verdict, Window
from ptool.training.timeline import Timeline
from tests.training import plans


def rollback(target: int, step: int = 30) -> Decision:
    return Decision(
        action=Action.ROLLBACK.value, step=step, skip=(0, 8), reason="r", loss=None, grad_norm=9.0, target=target
    )


class OneRank:
    """A rank alone: what it says to the others, it says to itself."""

    is_first, rank, size = True, 0, 1

    def gather(self, value):
        return [value]

    def object_from_first(self, value, kind):
        return msgspec.json.decode(msgspec.json.encode(value), type=kind)

    def on_first(self, work, kind):
        return self.object_from_first(work(), kind)

    def barrier(self) -> None: ...


def publish(run: Path, step: int, details: dict[str, object] | None = None) -> Path:
    folder = run / folders.FOLDER / folders.name_of(step)
    folder.mkdir(parents=True)
    (folder / "weights_00000.safetensors").write_bytes(b"weights of step %d" % step)
    manifest = new_manifest(
        folders.STAGE,
        {},
        details=details or {"step": step, "tokens": step * 256},
        files=list_files(folder, ["weights_00000.safetensors"]),
    )
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder


def test_the_newest_checkpoint_that_verifies_is_found_and_broken_ones_are_named(tmp_path):
    for step in (5, 10, 15, 20):
        publish(tmp_path, step)
    newest = tmp_path / folders.FOLDER / folders.name_of(20)
    (newest / "weights_00000.safetensors").write_bytes(b"WEIGHTS of step 20")
    (tmp_path / folders.FOLDER / folders.name_of(15) / "manifest.json").unlink()
    (tmp_path / folders.FOLDER / "step_00000025.tmp").mkdir()
    told: list[str] = []

    class Listener:
        def notice(self, text: str) -> None:
            told.append(text)

        def progress(self, done: int, total: int | None, *, unit: str, detail: str = "") -> None: ...

    assert folders.newest_verified(tmp_path, reporter=Listener()).step == 10
    assert ["20" in told[0], "15" in told[1], len(told)] == [True, True, 2]


def test_a_folder_without_a_checkpoint_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        folders.newest_verified(tmp_path)


def standing(run: Path, step: int, decisions: int, *, scheduled: bool = True) -> Path:
    position = Position(
        step=step,
        tokens=step * 256,
        cursor=step * 8,
        decisions=decisions,
        attempt=1,
        loss=1.0,
        probe_loss=1.0,
        window=Window(),
        world_size=1,
        zero=0,
        versions={},
        scheduled=scheduled,
    )
    return publish(run, step, msgspec.to_builtins(position))


def timeline(run: Path, *phases: configs.Phase) -> Timeline:
    metrics, spike = configs.Metrics(tensorboard=False), Spike(back_off=10)
    config = RunConfig(model={}, metrics=metrics, spike=spike, phase=phases or (plans.phase(),))
    return Timeline(run, config, OneRank(), SILENT)  # type: ignore[arg-type]


def test_a_rollback_that_a_kill_interrupted_is_finished_by_the_next_start(tmp_path):
    Ledger(tmp_path).decide(rollback(10))
    for step, known in ((5, 0), (10, 0), (15, 0), (20, 0)):
        standing(tmp_path, step, known)
    found = timeline(tmp_path).find_start()
    assert found is not None
    assert found.step == 10
    assert folders.steps_of(tmp_path) == [5, 10]
    standing(tmp_path, 15, decisions=1)
    found = timeline(tmp_path).find_start()
    assert found is not None
    assert found.step == 15, "written after the rollback"


def test_how_long_a_save_takes_is_known_from_the_ledger_also_after_a_new_start(tmp_path):
    assert timeline(tmp_path).slowest_save == 0.0
    before = Ledger(tmp_path)
    for seconds in (900.0, *[40.0] * (history.SAVES_LOOKED_AT - 1), 50.0):
        before.record("save", step=5, seconds=seconds, stall_seconds=0.1)
    assert before.slowest_save == 50.0, "a hiccup long ago says nothing"
    before.close()
    now = timeline(tmp_path)
    assert now.slowest_save == 50.0
    now.record("save", step=10, seconds=60.0, stall_seconds=0.1)
    assert now.slowest_save == 60.0


def test_a_run_whose_checkpoints_are_all_broken_never_begins_anew_in_silence(tmp_path):
    assert timeline(tmp_path).find_start() is None, "nothing was ever saved"
    (standing(tmp_path, 5, 0) / "weights_00000.safetensors").write_bytes(b"")
    timeline(tmp_path).record("save", step=5)
    with pytest.raises(DamagedInput, match="none of them can be read"):
        timeline(tmp_path).find_start()


def test_a_rollback_goes_to_the_newest_good_checkpoint_far_enough_back_or_the_oldest(tmp_path):
    for step in (0, 10, 20, 30):
        standing(tmp_path, step, 0)
    (tmp_path / folders.FOLDER / folders.name_of(20) / "weights_00000.safetensors").write_bytes(b"")
    verdict = Verdict(action=Action.ROLLBACK, reason="r")
    now = Observation(step=32, samples=(248, 256), loss=9.0, grad_norm=1.0)
    first = timeline(tmp_path).decide(now, verdict, Window())
    assert (first.action, first.step, first.target) == ("rollback", 31, 10), "20 is broken"
    assert history.read_decisions(tmp_path) == [first], "on the disk before anything is done"
    early = Observation(step=3, samples=(16, 24), loss=9.0, grad_norm=1.0)
    (tmp_path / "none").mkdir()
    assert timeline(tmp_path / "none").decide(early, verdict, Window()).action == "halt"


def test_a_rollback_over_the_beginning_of_a_mix_leaves_the_guilty_rows_out_and_not_those_of_the_mix_before(tmp_path):
    """The first batch of the second mix is refused: with a margin before it, its rows would come again."""
    web, code = plans.phase(steps=20, weights=(1.0, 0.0)), plans.phase(name="code", weights=(0.0, 1.0))
    standing(tmp_path, 0, 0)
    now = Observation(step=21, samples=(160, 168), loss=9.0, grad_norm=1.0)
    found = timeline(tmp_path, web, code).decide(now, Verdict(action=Action.ROLLBACK, reason="r"), Window())
    course = Course([web, code])

    def rows(samples: np.ndarray, skipped: list[tuple[int, int]]) -> list[tuple[int, int]]:
        phases = [Phase(*pair) for pair in zip(course.first_samples(skipped), ((1.0, 0.0), (0.0, 1.0)), strict=True)]
        order = Mixture([1000, 1000], [32_000, 32_000], phases, seed=1)
        places = [order.samples(sample, 1) for sample in samples.tolist()]
        return [(int(place.folders[0]), int(place.rows[0])) for place in places]

    guilty = set(rows(np.arange(*now.samples), []))
    taken, _ = take(0, 120 * 8, [found.skip])
    again = rows(taken, [found.skip])
    assert not guilty & set(again)
    assert again[:160] == rows(np.arange(160), []), "the mix before lost nothing"
    assert (found.target, found.skip) == (0, (160, 176))


class InMemory:
    """States in memory, at steps with whether they are whole."""

    def __init__(self, **steps: bool) -> None:
        self._steps = {int(name[1:]): whole for name, whole in steps.items()}

    def verified(self, at_most: int) -> list[int]:
        return [step for step, whole in self._steps.items() if whole and step <= at_most]

    def cursor_of(self, step: int) -> int:
        return 8 * step


@pytest.mark.parametrize(
    ("states", "target"),
    [
        (None, 10),
        (InMemory(), 10),
        (InMemory(_5=True, _15=True, _25=True), 15),
        (InMemory(_5=True, _15=False), 10),
        (InMemory(_10=True), 10),
    ],
)
def test_a_rollback_goes_to_the_newest_state_of_the_schedule_in_memory_or_on_the_disk(tmp_path, states, target):
    for step, scheduled in ((0, True), (10, True), (18, False), (20, False), (30, True)):
        standing(tmp_path, step, 0, scheduled=scheduled)
    now = Observation(step=32, samples=(248, 256), loss=9.0, grad_norm=1.0)
    found = timeline(tmp_path).decide(now, Verdict(action=Action.ROLLBACK, reason="r"), Window(), states)
    assert found.target == target, "what the clock saved is not the same in two equal runs"
    assert found.skip[0] >= 8 * target


def test_only_the_checkpoint_that_is_gone_back_to_is_read(tmp_path, monkeypatch):
    """Reading one can take longer than the other ranks wait: those that are too new, or in undone history, are not."""
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.parent.name)
        return artefacts_digest(path)

    artefacts_digest = artefacts.file_digest
    monkeypatch.setattr(artefacts, "file_digest", counted)
    for step, scheduled in ((0, True), (10, True), (18, False), (30, True)):
        standing(tmp_path, step, 0, scheduled=scheduled)
    read.clear()
    now = Observation(step=32, samples=(248, 256), loss=9.0, grad_norm=1.0)
    timeline(tmp_path).decide(now, Verdict(action=Action.ROLLBACK, reason="r"), Window())
    assert read == ["step_00000010"]
    read.clear()
    assert timeline(tmp_path).find_start().step == 10  # type: ignore[union-attr]
    assert read == ["step_00000010"], "18 and 30 were undone"
    again = tmp_path / "again"
    for step in (0, 10, 30):
        standing(again, step, 0)
    read.clear()
    timeline(again).decide(now, Verdict(action=Action.ROLLBACK, reason="r"), Window(), InMemory(_15=True))
    assert read == [], "what is in memory is newer than all that is old enough"


def test_every_rank_reads_its_share_of_a_checkpoint_and_one_that_any_finds_broken_is_left_aside(tmp_path, monkeypatch):
    folder = standing(tmp_path, 10, 0)
    names = [f"weights_{rank:05d}.safetensors" for rank in range(5)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    manifest = decode_manifest((folder / "manifest.json").read_bytes(), where="")
    whole = msgspec.structs.replace(manifest, files=list_files(folder, names))
    (folder / "manifest.json").write_bytes(encode_manifest(whole))
    read: list[str] = []
    monkeypatch.setattr(artefacts, "file_digest", lambda path: read.append(path.name))
    for rank in range(3):
        with pytest.raises(DamagedInput):
            folders.verify_share(tmp_path, 10, rank=rank, ranks=3)
    assert read == names[:3], "the first of each share; none is equal to nothing"
    monkeypatch.undo()
    (folder / names[4]).write_bytes(b"#" * len(names[4]))
    assert [broken(tmp_path, 10, rank=rank, ranks=3) for rank in range(3)] == [False, True, False]
    standing(tmp_path, 5, 0)
    monkeypatch.setattr(OneRank, "gather", lambda self, value: [value, "bad"])
    monkeypatch.setattr(OneRank, "size", 2)
    assert timeline(tmp_path).find_start() is None, "the other rank finds fault with both"


def broken(run: Path, step: int, *, rank: int, ranks: int) -> bool:
    try:
        folders.verify_share(run, step, rank=rank, ranks=ranks)
    except DamagedInput:
        return True
    return False


@pytest.mark.parametrize(
    ("back_off", "kept"), [(None, [30, 35, 40]), (8, [30, 35, 40]), (18, [20, 30, 35, 40]), (100, [0, 30, 35, 40])]
)
def test_rotation_keeps_the_last_ones_and_the_one_a_rollback_would_need(tmp_path, back_off, kept):
    from ptool.training.checkpoints import rotate

    for step in range(0, 41, 5):
        publish(tmp_path, step)
    rotate(tmp_path, keep_last=3, back_off=back_off)
    assert folders.steps_of(tmp_path) == kept
    assert sorted(path.name for path in (tmp_path / folders.FOLDER).iterdir()) == [folders.name_of(s) for s in kept]
