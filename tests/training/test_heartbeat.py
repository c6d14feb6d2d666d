"""Hung and slow ranks are named: by the observer alone, and by threads of real processes of which one is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from ptool.training.heartbeat import FOLDER, Heartbeat, Observer, Pulse, slow_rank
from tests.training import tiny


def pulse(rank: int, *, beat: int = 0, passed: int = 0, place: str = "adding up", own: float | None = None) -> Pulse:
    return Pulse(
        rank=rank, host=f"n{rank}", pid=100 + rank, beat=beat, passed=passed, step=7, place=place, own_seconds=own
    )


def looks(*moments: dict[int, Pulse], seconds: float = 10.0, hang: float = 30.0) -> list[dict[str, str]]:
    """What an observer says at looks `seconds` apart."""
    observer = Observer(every_seconds=seconds, hang_seconds=hang)
    return [observer.look(moment, 1000.0 + seconds * number) for number, moment in enumerate(moments)]


def test_the_rank_that_is_behind_is_named_with_its_place_and_told_once_until_it_goes_on() -> None:
    def stuck(beat: int) -> dict[int, Pulse]:
        return {0: pulse(0, beat=beat, passed=9), 1: pulse(1, beat=beat, passed=7, place="reading rows")}

    ahead = {rank: pulse(rank, beat=6, passed=12) for rank in range(2)}
    told = looks(*map(stuck, range(5)), stuck(5), ahead)
    assert told[:3] == [{}, {}, {}]
    assert told[3]["hang"] == (
        "rank 1 (host n1, process 101) has been in reading rows of step 7 for 30 s, "
        "and the others wait in adding up of step 7"
    )
    assert told[4:6] == [{}, {}]
    assert told[6] == {"goes_on": "the ranks go on"}


def test_a_rank_whose_thread_is_gone_is_told_from_one_that_hangs() -> None:
    moments = [{0: pulse(0, beat=beat, passed=3), 1: pulse(1, beat=min(beat, 1), passed=3)} for beat in range(8)]
    told = looks(*moments, hang=60.0)
    assert "rank 1 (host n1, process 101) has not been heard of for 50 s" in told[6]["hang"]


def test_when_all_stand_at_one_place_the_network_is_suspected() -> None:
    told = looks(*[{rank: pulse(rank, beat=beat, passed=3) for rank in range(4)} for beat in range(4)])
    assert "all 4 ranks are in adding up of step 7 for 30 s: a collective does not come through" in told[3]["hang"]


def test_moving_ranks_are_left_alone_and_the_lowest_living_rank_speaks() -> None:
    told = looks(*[{rank: pulse(rank, beat=beat, passed=beat) for rank in range(2)} for beat in range(9)])
    assert told == [{}] * 9
    observer = Observer(every_seconds=1.0, hang_seconds=8.0)
    for beat in range(9):
        observer.look({0: pulse(0), 1: pulse(1, beat=beat), 2: pulse(2, beat=beat)}, float(beat))
    assert observer.teller == 1


def test_a_slow_rank_is_named_by_the_time_of_its_own_work_once_an_hour() -> None:
    def pulses(own: float | None) -> dict[int, Pulse]:
        return {rank: pulse(rank, own=own if rank == 2 else 1.0) for rank in range(4)}

    assert slow_rank(pulses(1.4)) is None
    assert slow_rank(pulses(None)) is None, "not all have told yet"
    rank, sentence = slow_rank(pulses(1.8)) or (0, "")
    assert rank == 2
    assert sentence == (
        "rank 2 (host n2, process 102) is slow: its own work takes 1.8 s a step, 1.8 times the others' 1 s"
    )
    told = looks(*[pulses(1.8)] * 4, seconds=1300.0, hang=1e9)
    assert ["slow" in events for events in told] == [True, False, False, True]


def test_among_many_ranks_one_reads_all_files_and_the_others_hear_of_it_until_it_falls_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    hearts = [
        Heartbeat(
            tmp_path, rank=rank, ranks=64, every_seconds=1.0, hang_seconds=8.0, tell=lambda *said: told.append(said[1])
        )
        for rank in range(64)
    ]
    (tmp_path / FOLDER).mkdir()
    read_by = [0] * 64
    read = Heartbeat._read

    def counted(heart: Heartbeat, rank: int) -> Pulse | None:
        read_by[heart._rank] += 1
        return read(heart, rank)

    def live(seconds: range, ranks: range) -> None:
        for second in seconds:
            for heart in hearts[ranks.start : ranks.stop]:
                heart._beat += 1
                heart._write()
            for heart in hearts[ranks.start : ranks.stop]:
                heart.look(float(second))

    monkeypatch.setattr(Heartbeat, "_read", counted)
    live(range(1), range(64))
    assert read_by == [64] + [1] * 63
    live(range(1, 11), range(64))
    assert len(told) == 1
    assert "all 64 ranks are in starting" in told[0]
    assert {heart.diagnosis for heart in hearts} == {told[0].partition(";")[0]}, "all can name it in their errors"
    live(range(11, 31), range(1, 64))  # rank 0's host is gone
    assert len(told) == 2
    assert told[1].startswith("rank 0 (host ")
    assert all(heart.diagnosis and "rank 0 (host " in heart.diagnosis for heart in hearts[1:])


RANK = """
import sys, time
from pathlib import Path
from ptool.training.heartbeat import Heartbeat
run, rank = Path(sys.argv[1]), int(sys.argv[2])
def tell(event, sentence):
    with (run / "told").open("a") as file:
        file.write(f"{rank} {event} {sentence}\\n")
with Heartbeat(run, rank=rank, ranks=2, every_seconds=0.05, hang_seconds=0.6, tell=tell) as heart:
    heart.at(3, "reading rows")
    if rank == 0:
        heart.at(3, "adding up")
    def a_collective_that_waits():
        time.sleep(60)
    a_collective_that_waits()
"""


def test_threads_of_two_processes_name_the_stopped_one_and_write_the_stacks(tmp_path: Path) -> None:
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, tmp_path, str(rank)]) for rank in range(2)]
    try:
        deadline = time.monotonic() + 30
        while len(list((tmp_path / FOLDER).glob("rank_*.json"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        while msgspec.json.decode((tmp_path / FOLDER / "rank_00000.json").read_bytes())["passed"] < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        ranks[1].send_signal(signal.SIGSTOP)
        while not (tmp_path / "told").exists() or "rank 1" not in (tmp_path / "told").read_text():
            assert time.monotonic() < deadline, (tmp_path / "told").read_text()
            time.sleep(0.01)
        while "a_collective_that_waits" not in (tmp_path / FOLDER / "stacks_00000.txt").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    told = (tmp_path / "told").read_text().splitlines()
    assert len(told) == 1
    assert told[0].startswith(f"0 hang rank 1 (host {told[0].split('host ')[1].split(',')[0]}, process {ranks[1].pid})")
    assert str(tmp_path / FOLDER) in told[0]


def test_a_full_disk_costs_the_signs_of_life_only(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    with Heartbeat(tmp_path, rank=0, ranks=1, every_seconds=0.01, hang_seconds=9, tell=lambda *_: None) as heart:
        heart.at(1, "reading rows")
        heart.took(0.1)
    assert heart.diagnosis is None


def test_passing_a_place_costs_the_step_nothing_to_speak_of(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, rank=0, ranks=1, every_seconds=60, hang_seconds=60, tell=lambda *_: None) as heart:
        before = time.process_time()
        for step in range(20_000):
            heart.at(step, "adding up")
        assert time.process_time() - before < 2.0, "100 microseconds each would be too much"
    assert not tiny.lines(tmp_path / "told")
