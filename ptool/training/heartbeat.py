"""Which rank hangs, and which is slow: told by name, long before the process group gives up on it.

Every rank counts the places it passes in a step (reading rows, forward and backward, adding up, …). All ranks pass the
same places in the same order, so the one with the lowest count is the one the others wait for; that is all it takes,
and no clocks of two hosts are compared. A thread of each rank writes the count to RUN/.heartbeat/rank_00000.json every
few seconds; the lowest rank that is alive reads them all and tells (the others read that one's alone: a thousand ranks
that each read a thousand files would be a million reads every few seconds, of a file system that all share)

    a rank whose file stands still         stopped, or its host is dead
    a rank behind the others               it hangs, where, and for how long
    all at one place                       a collective does not come through: the network
    a rank that takes 1.5 times as long    slow: by the time of its own work, waiting for others left out

and each rank's stacks go to RUN/.heartbeat/stacks_00000.txt by faulthandler, whose thread needs no interpreter. The
step itself pays two assignments per place. Threads and files only, no torch; a file system that all hosts share is
needed, as for the run folder anyway.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Self, TextIO

import msgspec

FOLDER = ".heartbeat"
SLOW = 1.5  # times the others' median: stragglers of a healthy job stay within 1.1
SLOW_STEPS = 32  # whose median is compared
SLOW_AGAIN_SECONDS = 3600.0
SILENT_BEATS = 4  # files may arrive late through a network file system


class Pulse(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank tells of itself: `beat` grows while its thread lives, `passed` with each place it passes.

    `own_seconds` is the median time of a step's own work, once enough steps were taken; `hanging` what the rank that
    watches the others found.
    """

    rank: int
    host: str
    pid: int
    beat: int
    passed: int
    step: int
    place: str
    own_seconds: float | None = None
    hanging: str | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A pulse, and for how long its beat and its count have stood still, by the observer's clock."""

    pulse: Pulse
    silent_seconds: float
    stuck_seconds: float


class Heartbeat:
    """One rank's part. Use as a context manager; `at` at every place, `took` once a step."""

    def __init__(
        self,
        run: Path,
        *,
        rank: int,
        ranks: int,
        every_seconds: float,
        hang_seconds: float,
        tell: Callable[[str, str], None],
    ) -> None:
        """`tell(event, sentence)` is called from the thread: `hang`, `goes_on` or `slow`."""
        self._folder = run / FOLDER
        self._rank = rank
        self._ranks = ranks
        self._every = every_seconds
        self._hang = hang_seconds
        self._tell = tell
        self._host = socket.gethostname()
        self._passed = 0
        self._step = 0
        self._place = "starting"
        self._beat = 0
        self._own: deque[float] = deque(maxlen=SLOW_STEPS)
        self._armed = 0.0
        self._stacks: TextIO | None = None
        self._over = threading.Event()
        self._observer = Observer(every_seconds, hang_seconds)
        self._hanging: str | None = None
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            self._stacks = (self._folder / f"stacks_{self._rank:05d}.txt").open("w")
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=2)
        if self._stacks is not None:
            faulthandler.cancel_dump_traceback_later()
            self._stacks.close()

    def at(self, step: int, place: str) -> None:
        """Note that this rank is at `place` of `step` now; every rank must make the same calls."""
        self._step, self._place = step, place
        self._passed += 1
        now = time.monotonic()
        if self._stacks is not None and now - self._armed > min(1.0, self._hang / 4):
            self._armed = now
            faulthandler.dump_traceback_later(self._hang, file=self._stacks)

    def took(self, seconds: float) -> None:
        """Note the time of a step's own work, without waiting for other ranks."""
        self._own.append(seconds)

    @property
    def diagnosis(self) -> str | None:
        """What is known here of a hang that is not over; for the message of the collective that fails from it."""
        return self._hanging

    def _live(self) -> None:
        while not self._over.wait(self._every):
            self._beat += 1
            self._write()
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Watch all ranks, where no lower one is alive to do it; else hear what that one found. The thread's work."""
        for rank in range(self._rank):
            speaker = self._read(rank)
            if speaker is not None and self._observer.is_alive(speaker, now):
                self._hanging = speaker.hanging
                return
        pulses = {rank: pulse for rank in range(self._ranks) if (pulse := self._read(rank)) is not None}
        found = self._observer.look(pulses, now)
        self._hanging = self._observer.hanging
        if self._rank == self._observer.teller:
            for event, sentence in found.items():
                stacks = f"; stacks of all ranks are in {self._folder}" if event == "hang" else ""
                with suppress(Exception):
                    self._tell(event, sentence + stacks)

    def _write(self) -> None:
        pulse = Pulse(
            rank=self._rank,
            host=self._host,
            pid=os.getpid(),
            beat=self._beat,
            passed=self._passed,
            step=self._step,
            place=self._place,
            own_seconds=median(self._own) if len(self._own) == SLOW_STEPS else None,
            hanging=self._hanging,
        )
        path = self._folder / file_of(self._rank)
        with suppress(OSError):  # a full disk is the checkpoints' business
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(msgspec.json.encode(pulse))
            temporary.replace(path)

    def _read(self, rank: int) -> Pulse | None:
        with suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((self._folder / file_of(rank)).read_bytes(), type=Pulse)
        return None


class Observer:
    """Turns what the files say, one look after another, into events; pure but for what it remembers."""

    def __init__(self, every_seconds: float, hang_seconds: float) -> None:
        self._every = every_seconds
        self._hang = hang_seconds
        self._last: dict[int, tuple[Pulse, float, float]] = {}
        self._told_slow: dict[int, float] = {}
        self.hanging: str | None = None
        self.teller = 0
        """The rank that speaks: the lowest that is alive."""

    def look(self, pulses: Mapping[int, Pulse], now: float) -> dict[str, str]:
        """The events of this look: `hang` and `goes_on` once each, `slow` once an hour for a rank."""
        seen = {rank: self._see(pulse, now) for rank, pulse in pulses.items()}
        alive = [rank for rank, one in seen.items() if one.silent_seconds <= self._silent_after]
        self.teller = min(alive, default=0)
        events: dict[str, str] = {}
        if seen and min(one.stuck_seconds for one in seen.values()) >= self._hang:
            if self.hanging is None:
                events["hang"] = diagnose(seen, silent_after=self._silent_after)
            self.hanging = self.hanging or events["hang"]
        elif self.hanging is not None:
            self.hanging = None
            events["goes_on"] = "the ranks go on"
        slow = slow_rank(pulses)
        if slow is not None and now - self._told_slow.get(slow[0], -SLOW_AGAIN_SECONDS) >= SLOW_AGAIN_SECONDS:
            self._told_slow[slow[0]] = now
            events["slow"] = slow[1]
        return events

    def is_alive(self, pulse: Pulse, now: float) -> bool:
        """Whether this rank's beat has moved of late, or is seen for the first time."""
        return self._see(pulse, now).silent_seconds <= self._silent_after

    @property
    def _silent_after(self) -> float:
        return max(SILENT_BEATS * self._every, min(self._hang, 2.0))

    def _see(self, pulse: Pulse, now: float) -> Seen:
        old, beat_since, passed_since = self._last.get(pulse.rank, (None, now, now))
        if old is not None and old.beat != pulse.beat:
            beat_since = now
        if old is not None and old.passed != pulse.passed:
            passed_since = now
        self._last[pulse.rank] = (pulse, beat_since, passed_since)
        return Seen(pulse=pulse, silent_seconds=now - beat_since, stuck_seconds=now - passed_since)


def diagnose(seen: Mapping[int, Seen], *, silent_after: float) -> str:
    """One sentence on ranks of which none moves."""
    silent = [one for one in seen.values() if one.silent_seconds > silent_after]
    if silent:
        named = ", ".join(_name(one.pulse) for one in silent[:8])
        seconds = max(one.silent_seconds for one in silent)
        return f"{named} {_has(silent)} not been heard of for {seconds:.0f} s: stopped, or the host is gone"
    lowest = min(one.pulse.passed for one in seen.values())
    behind = [one for one in seen.values() if one.pulse.passed == lowest]
    pulse = behind[0].pulse
    seconds = max(one.stuck_seconds for one in behind)
    if len(behind) == len(seen):
        where = f"in {pulse.place} of step {pulse.step:,} for {seconds:.0f} s"
        return f"all {len(seen)} ranks are {where}: a collective does not come through, or all are that slow"
    ahead = next(one.pulse for one in seen.values() if one.pulse.passed > lowest)
    named = ", ".join(_name(one.pulse) for one in behind[:8])
    return (
        f"{named} {_has(behind)} been in {pulse.place} of step {pulse.step:,} for {seconds:.0f} s, "
        f"and the others wait in {ahead.place} of step {ahead.step:,}"
    )


def slow_rank(pulses: Mapping[int, Pulse]) -> tuple[int, str] | None:
    """The rank that takes `SLOW` times as long as the others, with a sentence; None where none does."""
    taken = {rank: pulse.own_seconds for rank, pulse in pulses.items() if pulse.own_seconds is not None}
    if len(taken) < 2 or len(taken) < len(pulses):
        return None
    slowest = max(taken, key=lambda rank: taken[rank])
    others = median(seconds for rank, seconds in taken.items() if rank != slowest)
    if taken[slowest] <= SLOW * others:
        return None
    ratio = taken[slowest] / max(others, 1e-9)
    return slowest, (
        f"{_name(pulses[slowest])} is slow: its own work takes {taken[slowest]:.3g} s a step, "
        f"{ratio:.1f} times the others' {others:.3g} s"
    )


def file_of(rank: int) -> str:
    """The name of a rank's file."""
    return f"rank_{rank:05d}.json"


def _name(pulse: Pulse) -> str:
    return f"rank {pulse.rank} (host {pulse.host}, process {pulse.pid})"


def _has(ranks: list[Seen]) -> str:
    return "has" if len(ranks) == 1 else "have"
