"""Why a step was refused: five questions, in the order in which they are cheapest to answer for good.

    1  did the gradient norm rise before the loss?       the trouble was in the weights already
    2  what was in the batch?                            repeats, loss by source, documents by id and text
    3  is it the hardware?                               the rerun by rank, and what every host says of GPU and memory
    4  where did a number stop being finite?             the first module, by hooks in the rerun
    5  what changed just before?                         warm-up's end, a resume, a rollback, the learning rate

and whether the same rows were guilty before, in another epoch: then it is the data (duplicates, a broken document).
Written to RUN/reports/spike_STEP_SAMPLE.json by rank 0 when the decision is already in the ledger. A question that
could not be answered says so; a report that fails is a notice and never the end of a run. It decides nothing. A report
reads the rows of one step and of 32 before it: some milliseconds. What takes all ranks (2 to 4) comes as `Evidence`,
gathered before (evidence.py). Torch-free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from ptool.formats.atomic import write_bytes
from ptool.formats.mixture import Samples as Places
from ptool.formats.packed import PackedDataset
from ptool.training import kernel_log, spikes
from ptool.training.corpus import Corpus
from ptool.training.course import Course
from ptool.training.data import Range, Samples
from ptool.training.evidence import Evidence
from ptool.training.history import EVENTS, Record, read_lines
from ptool.training.spikes import Decision, Observation, Window

FOLDER = "reports"
RECENT = 8  # accepted steps whose gradient norm is compared with the window's
RISING = 1.5  # times the window's median: gradient norms that stand out before a spike do so by more
EXCERPT = 200  # letters of a document's text
MOST_DOCUMENTS = 64
NEAR = 100  # steps: what changed this shortly before is worth naming
NGRAM = 8  # tokens: longer than chance repeats, shorter than a sentence
MOST_ROWS = 2048  # of a decision, whose documents are compared
_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)  # splitmix64 (Steele et al. 2014)


class SpikeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answers, each an object with `finding`, one sentence, and the numbers behind it."""

    decision: Decision
    samples: Range
    gradient_norm: Record
    batch: Record
    hardware: Record
    not_finite: Record
    changes: Record
    recurrence: Record

    def findings(self) -> list[str]:
        """One sentence per question, in order."""
        answers = (self.gradient_norm, self.batch, self.hardware, self.not_finite, self.changes, self.recurrence)
        return [answer["finding"] for answer in answers]


def make_report(
    run: Path,
    corpus: Corpus,
    decision: Decision,
    now: Observation,
    window: Window,
    earlier: Sequence[Decision],
    evidence: Evidence | None = None,
) -> SpikeReport:
    """Answer the questions about `now`, which `decision` is about; `earlier` are the decisions before it.

    `evidence` is what all ranks gathered about it; without, this process looks alone.
    """
    skipped = [other.skip for other in earlier]
    return SpikeReport(
        decision=decision,
        samples=now.samples,
        gradient_norm=_gradient_norm(window, now),
        batch=_batch(corpus, now.samples, skipped, evidence),
        hardware=_hardware(decision, evidence),
        not_finite=_not_finite(now, evidence),
        changes=_changes(run, corpus.course, earlier, now.step),
        recurrence=_recurrence(corpus, now.samples, earlier),
    )


def write_report(run: Path, report: SpikeReport) -> Path:
    """Write a report into the run folder; returns its path."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"spike_{report.decision.step + 1:08d}_{report.samples[0]}.json"
    write_bytes(path, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return path


def _gradient_norm(window: Window, now: Observation) -> Record:
    norms = [float(np.exp(value)) for value in window.norms]
    if len(norms) < 2 * RECENT:
        return {"finding": f"{len(norms)} accepted steps are too few to say how the gradient norm went"}
    ratio = median(norms[-RECENT:]) / median(norms)
    _, z = spikes.scores(window, now)
    rose = ratio > RISING
    finding = f"gradient norm {'rose before the spike' if rose else 'was quiet before the spike'}: the last {RECENT} "
    finding += f"accepted steps have {ratio:.2f} times the median of {len(norms)}"
    return {"finding": finding, "ratio": ratio, "deviations": z if np.isfinite(z) else None, "norms": norms[-32:]}


def _batch(corpus: Corpus, samples: Range, skipped: Sequence[Range], evidence: Evidence | None) -> Record:
    """The documents of the refused step, and how much of its rows repeats, beside the 32 rows before them."""
    places = corpus.places(np.arange(*samples, dtype=np.int64), skipped)
    before = _alike(corpus, corpus.places(np.arange(max(0, samples[0] - 32), samples[0], dtype=np.int64), skipped))
    repeats = [_repeated(row) for row in _tokens(corpus, places)]
    usual = [_repeated(row) for row in _tokens(corpus, before)] or [0.0]
    text_of = _decoder(corpus.datasets[0])
    documents: list[Record] = []
    rows = places.rows
    where = zip(places.folders.tolist(), rows.tolist(), _tokens(corpus, places), strict=True)
    for folder, row, tokens in where:
        for document, start, length in corpus.datasets[folder].train.documents_in(row):
            piece = tokens[start : start + length]
            common = int(np.unique(piece, return_counts=True)[1].max()) / length
            text = text_of(piece)[:EXCERPT] if len(documents) < MOST_DOCUMENTS else ""
            fields = {"id": document, "row": row, "tokens": length, "commonest_token": round(common, 4), "text": text}
            documents.append(fields)
    ids = [document["id"] for document in documents]
    twice = sorted(name for name, count in Counter(ids).items() if count > 1)
    worst = int(np.argmax(repeats))
    odd = repeats[worst] > max(0.2, 3 * median(usual))
    finding = f"batch of {len(rows)} rows and {len(set(ids))} documents"
    finding += (
        f", row {int(rows[worst])} repeats itself: {repeats[worst]:.0%} of it" if odd else ", no row repeats itself"
    )
    by_source = {} if evidence is None else evidence.loss_by_source or {}
    if len(by_source) > 1:
        listed = sorted(by_source.items(), key=lambda item: -item[1].loss)
        finding += f"; loss by source: {', '.join(f'{name} {one.loss:.4g}' for name, one in listed[:4])}"
    return {
        "finding": finding + (f"; {len(twice)} documents are in it in several pieces" if twice else ""),
        "rows": rows.tolist(),
        "folders": [corpus.datasets[folder].folder.name for folder in places.folders.tolist()],
        "repeated": [round(value, 4) for value in repeats],
        "repeated_usually": round(median(usual), 4),
        "documents_in_pieces": twice,
        "documents": documents[:MOST_DOCUMENTS],
        "documents_left_out": max(0, len(documents) - MOST_DOCUMENTS),
        "loss_by_source": msgspec.to_builtins(by_source) or None,
    }


def _hardware(decision: Decision, evidence: Evidence | None) -> Record:
    hosts = [kernel_log.read()] if evidence is None else evidence.hardware
    guilty = "" if evidence is None else evidence.guilty_ranks()
    if not decision.reason.startswith("hardware"):
        finding = "the same step again gave the same result, so the batch or the weights are to blame"
    elif guilty:
        finding = f"{decision.reason}; its own loss differed on {guilty}"
    else:
        finding = f"{decision.reason}; no rank's own loss differed: in a backward pass, or between the ranks"
    return {
        "finding": f"{finding}; {kernel_log.sentence(hosts)}",
        "ranks": [] if evidence is None else msgspec.to_builtins(evidence.rank_losses),
        "hosts": msgspec.to_builtins(hosts),
    }


def _not_finite(now: Observation, evidence: Evidence | None) -> Record:
    if now.is_finite:
        once = [] if evidence is None else [one for one in evidence.rank_losses if one.first is None]
        named = ", ".join(f"rank {one.rank} on host {one.host}" for one in once)
        return {"finding": f"finite in the rerun, and not before on {named}" if once else "all finite"}
    where = "" if evidence is None else evidence.not_finite
    return {"finding": where or "where it stopped being finite was not measured"}


def _changes(run: Path, course: Course, earlier: Sequence[Decision], step: int) -> Record:
    """Steps since what changes how steps are taken."""
    starts = [e["step"] for e in read_lines(run / EVENTS) if e.get("event") == "start" and e.get("attempt", 1) > 1]
    since = {
        "the end of warm-up": step - course.warmup_steps,
        "a change of phase": min((step - first for first in course.first_steps[1:] if first <= step), default=None),
        "a resume": min((step - at for at in starts if at < step), default=None),
        "a rollback": min((step - at for at in spikes.rollback_targets(earlier) if at < step), default=None),
    }
    known = {what: distance for what, distance in since.items() if distance is not None}
    near = [f"{distance} steps after {what}" for what, distance in known.items() if 0 <= distance <= NEAR]
    if known["the end of warm-up"] < 0:
        near.append("during warm-up")
    return {"finding": "; ".join(near) or f"nothing changed within {NEAR} steps before it", "steps_since": since}


def _recurrence(corpus: Corpus, samples: Range, earlier: Sequence[Decision]) -> Record:
    """Decisions about the same rows, or about documents that stand in them."""
    skipped = [decision.skip for decision in earlier]
    epoch = _epoch(corpus, samples, skipped)
    others = [decision for decision in earlier if _epoch(corpus, decision.skip, skipped) != epoch]
    rows, ids = _rows_and_documents(corpus, samples, skipped) if others else (set(), set())
    again = []
    for decision in others:
        other_rows, other_ids = _rows_and_documents(corpus, decision.skip, skipped)
        if rows & other_rows or ids & other_ids:
            shared = {"rows": sorted(row for _, row in rows & other_rows), "documents": sorted(ids & other_ids)}
            again.append({"step": decision.step + 1, **shared})
    finding = f"epoch {epoch + 1}, sample {samples[0]:,} in data order"
    if again:
        finding = (
            f"the same rows or documents were guilty in another epoch ({len(again)} times): look at them; {finding}"
        )
    return {"finding": finding, "epoch": epoch, "earlier": again}


def _rows_and_documents(
    corpus: Corpus, samples: Range, skipped: Sequence[Range]
) -> tuple[set[tuple[int, int]], set[str]]:
    """The rows of samples by (folder, row), and the ids of the documents in the first `MOST_ROWS` of them."""
    places = corpus.places(np.arange(*samples, dtype=np.int64), skipped)
    rows = list(zip(places.folders.tolist(), places.rows.tolist(), strict=True))
    splits = [dataset.train for dataset in corpus.datasets]
    ids = {name for folder, row in rows[:MOST_ROWS] for name, _, _ in splits[folder].documents_in(row)}
    return set(rows), ids


def _epoch(corpus: Corpus, samples: Range, skipped: Sequence[Range]) -> int:
    return int(corpus.places(np.arange(samples[0], samples[0] + 1), skipped).epochs[0])


def _tokens(corpus: Corpus, places: Places) -> Iterator[Samples]:
    """The tokens of rows, few at a time: a step of a large run has thousands."""
    for start in range(0, len(places.rows), 64):
        yield from corpus.rows(Places(*(column[start : start + 64] for column in places))).tokens


def _alike(corpus: Corpus, places: Places) -> Places:
    """Those that are as long as the last one: the rows before a step may be of a phase of shorter rows."""
    lengths = np.array([dataset.seq_len for dataset in corpus.datasets])[places.folders]
    return Places(*(column[lengths == lengths[-1:]] for column in places))


def _repeated(tokens: Samples) -> float:
    """The share of a row's runs of `NGRAM` tokens that occurred in it before, by a hash of each."""
    count = len(tokens) - NGRAM + 1
    if count < 1:
        return 0.0
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(NGRAM):
        hashes = (hashes + tokens[place : place + count].astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    return 1.0 - len(np.unique(hashes)) / count


def _decoder(dataset: PackedDataset) -> Any:
    """Text of tokens by the dataset's own tokenizer; empty where it has none or it cannot be loaded here."""
    from ptool.errors import PtoolError
    from ptool.tokenizers.loading import load_tokenizer

    try:
        tokenizer = load_tokenizer(dataset.tokenizer_file)
    except (PtoolError, OSError, ImportError):
        return lambda tokens: ""
    return tokenizer.decode
