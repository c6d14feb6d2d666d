"""The launcher: which end of a rank is the cause of the others, and what a paused terminal must not hold up."""

from __future__ import annotations

import os
import queue
import select
import signal
import socket
import subprocess
import tempfile
import threading
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from ptool.errors import DamagedInput, PtoolError, StoppedAndSaved
from ptool.training import launch, launch_folder
from ptool.training.rank import describe

HUNG = PtoolError("rank 1 (host n2, process 7) has not been heard of for 300 s")


@pytest.mark.parametrize(
    ("said", "exit_codes", "expected"),
    [
        ({}, {1: -9}, "rank 1 was killed by SIGKILL"),
        ({0: PtoolError(launch.PEER_LOST)}, {0: 1, 1: -9}, "rank 1 was killed by SIGKILL"),
        ({0: PtoolError("RuntimeError: something of torch's")}, {0: 1, 1: -9}, "rank 1 was killed by SIGKILL"),
        ({0: HUNG}, {0: 1, 1: -9}, HUNG.message),
        ({0: StoppedAndSaved("saved")}, {0: 75, 1: -9}, "saved"),
        ({0: PtoolError(launch.PEER_LOST), 1: DamagedInput("a broken file")}, {0: 1, 1: 1}, "a broken file"),
        ({0: PtoolError(launch.PEER_LOST)}, {0: 1, 1: -15}, "rank 0 ended with exit code 1"),
    ],
)
def test_the_cause_is_told_and_not_its_echo(
    tmp_path: Path, said: dict[int, PtoolError], exit_codes: dict[int, int], expected: str
) -> None:
    for rank, error in said.items():
        launch_folder.leave_error(tmp_path, rank, error)
    outcome = launch._outcome(tmp_path, exit_codes, Path("run"))
    assert outcome.message == expected
    if expected == "saved":
        assert isinstance(outcome, StoppedAndSaved)


@pytest.mark.parametrize(
    ("error", "expected"), [(PtoolError("broken"), -signal.SIGKILL), (StoppedAndSaved("saved"), None)]
)
def test_a_rank_that_does_not_end_after_another_failed_is_killed_and_one_that_still_saves_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: PtoolError, expected: int | None
) -> None:
    monkeypatch.setattr(launch, "SECONDS_TO_END", 0.05)
    straggler = subprocess.Popen(["sleep", "60"])
    (tmp_path / "rank_1.pid").write_text(str(straggler.pid))
    (tmp_path / "rank_2.pid").write_text("1")  # somebody else's process, whose number an ended rank had
    finished = threading.Event()
    thread = threading.Thread(target=launch._end_stragglers, args=(tmp_path, finished))
    thread.start()
    launch_folder.leave_error(tmp_path, 0, error)
    try:
        if expected is None:
            thread.join(timeout=0.5)
            assert straggler.poll() is None
        else:
            assert straggler.wait(timeout=20) == expected
    finally:
        finished.set()
        thread.join()
        straggler.kill()
        straggler.wait()


def test_a_launcher_that_reads_nothing_does_not_stop_the_training_and_what_it_reads_later_is_whole(
    tmp_path: Path,
) -> None:
    reading = launch_folder.open_pipe(tmp_path)
    reporter = launch_folder.PipeReporter(tmp_path)
    writer = threading.Thread(
        target=lambda: [reporter.progress(step, 9000, unit="steps", detail="loss 2.5") for step in range(9000)],
        daemon=True,
    )
    writer.start()
    writer.join(timeout=20)
    assert not writer.is_alive()
    data = b""
    while select.select([reading], [], [], 0)[0]:
        data += os.read(reading, 65536)
    lines = [msgspec.json.decode(line) for line in data.splitlines()]
    assert lines[0][1] == 0
    assert all(first[1] + 1 == second[1] for first, second in pairwise(lines)), (
        "none is torn, the late ones are missing"
    )
    reporter.notice("这一步被拒绝了: " * 5000)
    told = os.read(reading, 65536)
    assert len(told) <= select.PIPE_BUF
    assert msgspec.json.decode(told)[1].startswith("这一步被拒绝了: ")


def test_a_signal_reaches_the_ranks_before_a_person_hears_of_it(tmp_path: Path) -> None:
    rank = subprocess.Popen(["sleep", "60"])
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
    finished, read_on = threading.Event(), threading.Event()

    class Paused:
        """A terminal on which somebody pressed Ctrl-S."""

        def notice(self, text: str) -> None:
            assert read_on.wait(20)

    try:
        (tmp_path / "rank_0.pid").write_text(str(rank.pid))
        arrived.put(signal.SIGTERM)
        pad = launch.Launchpad(tmp_path, arrived)
        thread = threading.Thread(target=launch._pass_signals_on, args=(pad, 1, finished, Paused()), daemon=True)
        thread.start()
        assert rank.wait(timeout=20) == -signal.SIGTERM
    finally:
        read_on.set()
        finished.set()
        rank.kill()
        rank.wait()
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_what_a_killed_launcher_left_is_removed_and_what_another_host_uses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    with launch.launchpad() as own:
        monkeypatch.setattr(os, "getpid", lambda: ended.pid)  # of this host, or of a host that has no such process
        killed = launch.launchpad()
        left = killed.__enter__().folder
        monkeypatch.setattr(socket, "gethostname", lambda: "another-host")
        elsewhere = launch.launchpad()
        used = elsewhere.__enter__().folder
        assert left.exists()
        monkeypatch.undo()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with launch.launchpad():
            pass
        assert (own.folder.exists(), left.exists(), used.exists()) == (True, False, True)
        elsewhere.__exit__(None, None, None)
        killed.__exit__(None, None, None)


def test_an_error_of_nccl_is_told_where_no_rank_was_lost(tmp_path: Path) -> None:
    text = (
        "NCCL error in: ProcessGroupNCCL.cpp:2006, unhandled system error, NCCL version 2.19.3\n"
        "ncclSystemError: System call or external library call failed.\n"
        "Last error:\nsocketStartConnect: Connect to 10.0.0.1<4711> failed : No route to host\n"
        "Exception raised from checkForNCCLErrors at ProcessGroupNCCL.cpp:99 (most recent call first):\nframe #0"
    )
    for rank in range(2):
        launch_folder.leave_error(tmp_path, rank, describe(RuntimeError(text)))
    outcome = launch._outcome(tmp_path, {0: 1, 1: 1}, Path("run"))
    assert outcome.message.startswith("rank 0 ended with exit code 1: NCCL error in")
    assert outcome.message.endswith(
        "Last error: socketStartConnect: Connect to 10.0.0.1<4711> failed : No route to host"
    )
    launch_folder.leave_error(tmp_path, 1, DamagedInput("a broken file"))
    assert launch._outcome(tmp_path, {0: 1, 1: 1}, Path("run")).message == "a broken file", "a lost peer is an echo"
