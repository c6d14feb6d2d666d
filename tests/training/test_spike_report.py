"""The five questions about a refused step, asked of runs whose answer is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ptool.formats.packed import PackedDataset, PackedSplit
from ptool.formats.packed_writer import write_packed
from ptool.training import spike_report
from ptool.training.config import RunConfig
from ptool.training.corpus import Corpus
from ptool.training.evidence import Evidence, RankLosses
from ptool.training.kernel_log import HardwareReport
from ptool.training.spike_report import SpikeReport
from ptool.training.spikes import Decision, Observation, Window
from ptool.training.validation import Measure
from tests.training import plans, tiny

BATCH = 8
CONFIG = RunConfig(model={}, phase=(plans.phase(steps=10_000, warmup_tokens=10 * 256),))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    documents = [*tiny.documents(200), ("the-loop", None, 400, [7] * 99 + [0])]
    folder = tmp_path_factory.mktemp("report") / "packed"
    write_packed(folder, iter(documents), seq_len=tiny.SEQ_LEN, vocab_size=tiny.VOCAB, eod_id=0)
    return PackedDataset.open(folder)


def report_on(
    run: Path,
    dataset: PackedDataset,
    *,
    sample: int = 800,
    norms: tuple[float, ...] = (1.0,) * 128,
    loss: float = 9.0,
    reason: str = "high",
    earlier: tuple[Decision, ...] = (),
    evidence: Evidence | None = None,
) -> SpikeReport:
    now = Observation(step=sample // BATCH + 1, samples=(sample, sample + BATCH), loss=loss, grad_norm=2.0)
    decision = skip_of(now.samples, step=now.step - 1, reason=reason)
    logs = tuple(map(math.log, norms))
    window = Window(losses=(1.0,) * len(norms), norms=logs)
    return spike_report.make_report(run, Corpus(CONFIG, [dataset]), decision, now, window, earlier, evidence)


def skip_of(samples: tuple[int, int], *, step: int = 0, reason: str = "") -> Decision:
    return Decision(action="skip", step=step, skip=samples, reason=reason, loss=None, grad_norm=None)


def sample_of_loop(dataset: PackedDataset, epoch: int = 0) -> int:
    """The sample whose row is in the middle of the document that repeats one token."""
    num_rows = dataset.train.num_rows
    samples = np.arange(epoch * num_rows, (epoch + 1) * num_rows)
    rows = Corpus(CONFIG, [dataset]).places(samples, []).rows.tolist()
    full = [all(name == "the-loop" for name, _, _ in dataset.train.documents_in(row)) for row in rows]
    return int(samples[full.index(True)])


def test_a_gradient_norm_that_rose_first_is_told_from_one_that_was_quiet(
    tmp_path: Path, dataset: PackedDataset
) -> None:
    rising = (1.0,) * 100 + tuple(1.2**k for k in range(28))
    assert "rose before the spike" in report_on(tmp_path, dataset, norms=rising).findings()[0]
    assert "quiet before the spike" in report_on(tmp_path, dataset).findings()[0]
    assert "too few" in report_on(tmp_path, dataset, norms=(1.0,) * 5).findings()[0]


def test_the_documents_of_the_batch_are_named_and_a_row_that_repeats_itself_stands_out(
    tmp_path: Path, dataset: PackedDataset
) -> None:
    sample = sample_of_loop(dataset)
    batch = report_on(tmp_path, dataset, sample=sample).batch
    assert len(batch["rows"]) == BATCH
    loops = [document for document in batch["documents"] if document["id"] == "the-loop"]
    worst = batch["rows"][batch["repeated"].index(max(batch["repeated"]))]
    loop = next(document for document in loops if document["row"] == worst)
    assert batch["rows"][0] in {document["row"] for document in loops}
    assert loop["commonest_token"] > 0.9
    assert "repeats itself" in batch["finding"]
    assert f"row {loop['row']} repeats itself" in batch["finding"]
    assert batch["repeated"][0] > 0.5 > batch["repeated_usually"]


def test_hardware_is_named_when_the_rerun_differed(tmp_path: Path, dataset: PackedDataset) -> None:
    assert "same result" in report_on(tmp_path, dataset).findings()[2]
    told = report_on(tmp_path, dataset, reason="hardware: the same step again gave another result (0.5)")
    assert told.findings()[2].startswith("hardware")


def test_what_changed_shortly_before_is_named_with_its_distance(tmp_path: Path, dataset: PackedDataset) -> None:
    assert "nothing changed" in report_on(tmp_path, dataset, sample=200 * BATCH).findings()[4]
    assert "30 steps after the end of warm-up" in report_on(tmp_path, dataset, sample=39 * BATCH).findings()[4]
    (tmp_path / "events.jsonl").write_text(json.dumps({"event": "start", "attempt": 2, "step": 190}) + "\n")
    back = msgspec.structs.replace(skip_of((0, 8)), action="rollback", target=150)
    told = report_on(tmp_path, dataset, sample=200 * BATCH, earlier=(back,)).findings()[4]
    assert told == "11 steps after a resume; 51 steps after a rollback"


def test_rows_that_were_guilty_in_another_epoch_are_found_again(tmp_path: Path, dataset: PackedDataset) -> None:
    then, now = sample_of_loop(dataset), sample_of_loop(dataset, epoch=1)
    earlier = (skip_of((then, then + BATCH), step=3),)
    found = report_on(tmp_path, dataset, sample=now, earlier=earlier).recurrence
    assert "the-loop" in found["earlier"][0]["documents"]
    assert "another epoch" in found["finding"]
    assert report_on(tmp_path, dataset, sample=now).recurrence["earlier"] == []


def test_the_report_is_a_file_of_the_run(tmp_path: Path, dataset: PackedDataset) -> None:
    report = report_on(tmp_path, dataset, loss=math.nan)
    path = spike_report.write_report(tmp_path, report)
    assert path == tmp_path / "reports" / "spike_00000101_800.json"
    stored = json.loads(path.read_bytes())
    assert [stored[name]["finding"] for name in list(stored)[2:]] == report.findings()
    assert "not measured" in stored["not_finite"]["finding"]


def test_what_the_ranks_know_is_in_the_answers(tmp_path: Path, dataset: PackedDataset) -> None:
    evidence = Evidence(
        loss_by_source={"web": Measure(loss=2.0, num_targets=9), "code": Measure(loss=8.5, num_targets=3)},
        not_finite="3 NaN of 9 in the forward pass of layers.1 (rank 1 on b, micro-batch 1): its inputs are finite",
        rank_losses=[
            RankLosses(rank=0, host="a", first=2.0, again=2.0),
            RankLosses(rank=1, host="b", first=2.0, again=2.5),
        ],
        hardware=[HardwareReport(host="b", messages=["Xid 79"], unreadable=[])],
    )
    reason = "hardware: the same step again gave another result (0.2)"
    report = report_on(tmp_path, dataset, loss=math.nan, reason=reason, evidence=evidence)
    assert report.batch["finding"].endswith("loss by source: code 8.5, web 2")
    assert report.batch["loss_by_source"]["code"] == {"loss": 8.5, "num_targets": 3}
    assert report.hardware["finding"] == (
        f"{reason}; its own loss differed on rank 1 on host b; errors of GPU or memory: b reports 1"
    )
    assert report.not_finite["finding"] == evidence.not_finite
    same = msgspec.structs.replace(evidence, rank_losses=evidence.rank_losses[:1])
    told = report_on(tmp_path, dataset, reason=reason, evidence=same).hardware["finding"]
    assert "no rank's own loss differed: in a backward pass, or between the ranks" in told


def test_a_step_of_a_longer_row_is_compared_with_the_rows_before_it_of_that_length(
    tmp_path: Path, dataset: PackedDataset
) -> None:
    write_packed(tmp_path / "long", tiny.documents(200, seed=1), seq_len=64, vocab_size=tiny.VOCAB, eod_id=0)
    phases = (
        plans.phase(steps=10, weights=(1.0, 0.0)),
        plans.phase(weights=(0.0, 1.0), seq_len=64, batch_tokens=64 * BATCH),
    )
    corpus = Corpus(RunConfig(model={}, phase=phases), [dataset, PackedDataset.open(tmp_path / "long")])
    for step in (11, 12, 20):  # the first of the phase, one that has rows of both lengths before it, one that has not
        now = Observation(step=step, samples=(8 * step - 8, 8 * step), loss=9.0, grad_norm=2.0)
        report = spike_report.make_report(tmp_path, corpus, skip_of(now.samples), now, Window(), ())
        assert (set(report.batch["folders"]), len(report.batch["rows"])) == ({"long"}, BATCH)


class CountingName(str):
    """A document's id that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        CountingName.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_the_documents_of_a_large_batch_are_not_each_compared_with_each(
    tmp_path: Path, dataset: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of 16 million tokens holds 100,000 documents: that took minutes, in which the other ranks gave up."""
    documents = [(CountingName(f"doc-{number}"), number, 1) for number in range(tiny.SEQ_LEN)]
    monkeypatch.setattr(PackedSplit, "documents_in", lambda self, row: documents)
    monkeypatch.setattr(CountingName, "compared", 0)
    report = report_on(tmp_path, dataset)
    assert report.batch["documents_in_pieces"] == sorted(name for name, _, _ in documents)
    assert CountingName.compared < 10 * BATCH * tiny.SEQ_LEN


def test_decisions_of_the_same_epoch_cost_no_reading(
    tmp_path: Path, dataset: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each took half a second in a large run; a run of a million steps can have hundreds of them."""
    asked: list[int] = []
    documents_in = PackedSplit.documents_in

    def counted(self: PackedSplit, row: int) -> list[tuple[str, int, int]]:
        asked.append(row)
        return documents_in(self, row)

    monkeypatch.setattr(PackedSplit, "documents_in", counted)
    sample = dataset.train.num_rows - 2 * BATCH
    earlier = tuple(skip_of((8 * k, 8 * k + 8), step=k) for k in range(5))
    report = report_on(tmp_path, dataset, sample=sample, earlier=earlier)
    assert (report.recurrence["epoch"], report.recurrence["earlier"], len(asked)) == (0, [], BATCH)
