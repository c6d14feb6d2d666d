"""The run folder's files under kills: lines cut, moves interrupted, checkpoints broken, owners alive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import DamagedInput
from ptool.training import history, locks
from ptool.training.history import JsonLines, Ledger, Metrics, StepRecord, stands
from ptool.training.spikes import Action, Decision


def record(step: int, attempt: int = 1) -> StepRecord:
    return StepRecord(
        step=step,
        tokens=step * 256,
        loss=4.0 - step / 7,
        lr=0.1,
        grad_norm=1.0,
        tokens_per_second=9.0,
        attempt=attempt,
        samples=(8 * step - 8, 8 * step),
    )


def steps(path: Path) -> list[tuple[int, int]]:
    return [(line["attempt"], line["step"]) for line in history.read_lines(path)]


def rollback(target: int, step: int = 30) -> Decision:
    return Decision(
        action=Action.ROLLBACK.value, step=step, skip=(0, 8), reason="r", loss=None, grad_norm=9.0, target=target
    )


def test_undone_lines_move_to_attempts_and_the_history_goes_on(tmp_path):
    metrics = Metrics(tmp_path)
    for step in range(1, 8):
        metrics.append(record(step))
    assert metrics.rewind(5) == 2
    metrics.append(record(6, attempt=2))
    assert steps(tmp_path / "metrics.jsonl") == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 6)]
    assert steps(tmp_path / "attempts.jsonl") == [(1, 6), (1, 7)]


def test_a_kill_between_the_two_writes_of_a_move_loses_and_doubles_nothing(tmp_path):
    metrics = Metrics(tmp_path)
    for step in range(1, 8):
        metrics.append(record(step))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    metrics.rewind(5)
    (tmp_path / "metrics.jsonl").write_bytes(before)  # the cut did not reach the disk
    Metrics(tmp_path).rewind(5)
    assert steps(tmp_path / "attempts.jsonl") == [(1, 6), (1, 7)]
    assert len(steps(tmp_path / "metrics.jsonl")) == 5


@given(cut=st.integers(0, 400))
def test_a_file_cut_anywhere_opens_with_its_whole_lines(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    whole = b"".join(json.dumps({"step": k, "text": "x" * k}).encode() + b"\n" for k in range(12))
    path.write_bytes(whole[:cut])
    file = JsonLines(path)
    file.append({"step": "next"})
    assert path.read_bytes() == whole[: whole[:cut].rfind(b"\n") + 1] + b'{"step":"next"}\n'


def test_a_history_shorter_than_the_checkpoint_is_an_error_and_not_a_gap(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.append(record(1))
    with pytest.raises(DamagedInput, match="ends at step 1"):
        metrics.rewind(3)


def test_decisions_and_attempts_are_read_back_from_the_ledger(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.record("start", attempt=1)
    ledger.decide(rollback(10))
    ledger.record("start", attempt=3)
    assert Ledger(tmp_path).decisions == ledger.decisions == [rollback(10)]
    assert history.next_attempt(tmp_path) == 4
    assert ledger.has("start")
    assert not ledger.has("save")


def test_a_checkpoint_stands_unless_a_later_rollback_went_back_past_it():
    decisions = [rollback(20), rollback(10, step=25)]
    assert stands(10, 0, decisions)
    assert not stands(15, 0, decisions), "undone by the second"
    assert not stands(15, 1, decisions)
    assert stands(15, 2, decisions), "written after both"
    assert not stands(30, 0, decisions)


def test_an_owner_is_named_and_its_lock_ends_with_it(tmp_path):
    holder = "import sys,time; from pathlib import Path; from ptool.training.locks import Lock; "
    holder += "lock = Lock(Path(sys.argv[1]), 'launcher'); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(locks.RunIsBusy, match=f"process {process.pid} on host "):
            locks.acquire(tmp_path, "launcher", grace=0)
        locks.expect_no_ranks(tmp_path)
        process.send_signal(signal.SIGKILL)
    locks.acquire(tmp_path, "launcher").release()


def test_a_rank_that_still_lives_keeps_the_next_start_out(tmp_path):
    lock = locks.Lock(tmp_path, locks.rank_name(1))
    with pytest.raises(locks.RunIsBusy, match=str(os.getpid())):
        locks.expect_no_ranks(tmp_path, grace=0)
    locks.expect_no_ranks(tmp_path, own=range(2), grace=0)
    lock.release()
    locks.expect_no_ranks(tmp_path, grace=0)
