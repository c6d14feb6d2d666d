"""When to save, and saving beside the training.

    save     finish the save before; copy this rank's state (snapshots.py); a thread writes the copy
    poll     once a step while one is being written: when all ranks are done, publish it together, and rotate
    failure  of any rank (a full disk): remove what was written, make room by rotation, try once more; then OutputError

The training stands still for the copy and for publishing, which is a manifest and a rename; the ledger's `save` event
says for how long. A kill in between leaves the checkpoint before. Publishing is done by the threads that train, since
ranks must agree and only they talk to one another.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from ptool.errors import OutputError, PtoolError
from ptool.formats.checkpoints import Checkpoint
from ptool.formats.manifests import FileEntry
from ptool.training import checkpoints
from ptool.training.anchors import Anchors
from ptool.training.checkpoints import Position
from ptool.training.config import RunConfig
from ptool.training.engine import Engine
from ptool.training.ranks import Ranks
from ptool.training.rotation import Saved
from ptool.training.snapshots import Buffers, Snapshot
from ptool.training.timeline import Timeline

MakePosition = Callable[[bool], Position]
"""Where the run stands now; its argument says whether the step schedule asks."""


class _Writing:
    """A save that is under way."""

    def __init__(self, snapshot: Snapshot, began: float, give_back: Callable[[Snapshot], None]) -> None:
        """`give_back`: what becomes of the snapshot's memory, which must stay as it is until then."""
        self.snapshot = snapshot
        self.give_back = give_back
        self.began = began
        self.stall = 0.0
        self.tries = 0
        self.written: Future[list[FileEntry]] = Future()

    @property
    def step(self) -> int:
        return self.snapshot.position.step


class Saver:
    """Saves and anchors of a run; all methods but `is_late` are collective."""

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        engine: Engine,
        ranks: Ranks,
        timeline: Timeline,
        *,
        last_step: int,
        notice: Callable[[str], None],
    ) -> None:
        """`last_step`: the run ends with it."""
        self._run = run
        self._config = config
        self._engine = engine
        self._ranks = ranks
        self._timeline = timeline
        self._last_step = last_step
        self._notice = notice
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: _Writing | None = None
        self._buffers = Buffers()
        self._last_begun = time.monotonic()
        self.anchors = Anchors(config, engine, ranks)
        self.last_saved: int | None = None
        """The step of the newest published checkpoint, or of the one gone on from."""

    def is_late(self) -> bool:
        """On rank 0, whose clock counts: whether a save is due by it. The step's sum tells all ranks."""
        minutes = self._config.checkpoint.every_minutes
        late = time.monotonic() - self._last_begun >= 60 * minutes
        return self._ranks.is_first and minutes > 0 and late and self._writing is None

    def after_step(self, step: int, make_position: MakePosition, *, by_clock: bool) -> None:
        """Do what is due after an accepted step. Raises OutputError where nothing can be written any more."""
        self.poll()
        scheduled, is_anchor = self.is_scheduled(step), self.anchors.is_due(step)
        if not (scheduled or is_anchor or by_clock):
            return
        started = time.monotonic()
        position = make_position(scheduled)
        anchor = self._anchor(position) if is_anchor else None
        if scheduled or by_clock:
            self._save(position, anchor, started)
            if step == self._last_step:
                self.finish()

    def is_scheduled(self, step: int) -> bool:
        """Whether the state after this step is saved whatever the clock says."""
        return step % self._config.checkpoint.every_steps == 0 or step == self._last_step

    def save_now(self, step: int, make_position: MakePosition) -> None:
        """Save, unless this step is saved already, and wait until it is published."""
        self.finish()
        if self.last_saved != step:
            self._save(make_position(self.is_scheduled(step)), None, time.monotonic())
            self.finish()

    def start_from(self, position: Position) -> None:
        """The engine stands where a checkpoint of the disk stood: that one is saved, and may be an anchor."""
        self.anchors.forget_after(position.step)
        self.last_saved = position.step
        if position.scheduled and self.anchors.is_due(position.step) and position.step not in self.anchors:
            self._anchor(position)

    def go_back_to(self, step: int, open_saved: Callable[[int], Checkpoint]) -> Position:
        """Put the engine into the state of an anchor or of a checkpoint."""
        self.finish()
        if step in self.anchors:
            position = self.anchors.go_back_to(step).position
            self.last_saved = None
            return position
        position = checkpoints.load(open_saved(step), self._engine, self._ranks)
        self.start_from(position)
        return position

    def poll(self) -> None:
        """Publish the save under way when all ranks have written it."""
        writing = self._writing
        if writing is not None and self._ranks.sum([float(writing.written.done())])[0] == self._ranks.size:
            started = time.monotonic()
            self._conclude(writing, started)

    def finish(self) -> None:
        """Wait for the save under way, and publish it."""
        while self._writing is not None:
            started = time.monotonic()
            self._conclude(self._writing, started)

    def _anchor(self, position: Position) -> Snapshot | None:
        """A copy to roll back to; None where `checkpoint.anchor_folder` has no room for it on some rank."""
        try:
            snapshot = self._ranks.together(lambda: Snapshot(position, self._engine, self.anchors.buffers))
        except OutputError as error:
            self.anchors.give_up()
            self._notice(f"no more states to roll back to are kept, rollbacks will go to saves: {error}")
            return None
        problem = self.anchors.keep(snapshot)
        if problem is not None:
            self._notice(problem)
        return snapshot

    def _save(self, position: Position, anchor: Snapshot | None, started: float) -> None:
        self.finish()
        self._timeline.sync()
        self._timeline.record("saving", step=position.step)
        self._last_begun = time.monotonic()
        if anchor is not None:
            self.anchors.lend(anchor)
            writing = _Writing(anchor, started, self.anchors.take_back)
        elif self._config.checkpoint.asynchronous:
            writing = _Writing(Snapshot(position, self._engine, self._buffers), started, self._buffers.give_back)
        else:
            writing = _Writing(Snapshot(position, self._engine, None), started, lambda _: None)
        self._begin(writing)
        writing.stall = time.monotonic() - started
        self._writing = writing
        if not self._config.checkpoint.asynchronous:
            self.finish()

    def _begin(self, writing: _Writing) -> None:
        """Start to write; a folder that cannot be made is a failure like any other."""
        temporary = checkpoints.temporary_of(self._run, writing.step)
        writing.tries += 1
        try:
            self._ranks.together(lambda: checkpoints.begin(temporary) if self._ranks.is_first else None)
        except OutputError as error:
            writing.written = Future()
            writing.written.set_exception(error)
            return
        writing.written = self._thread.submit(checkpoints.write_share, temporary, writing.snapshot, self._ranks.rank)

    def _conclude(self, writing: _Writing, started: float) -> None:
        """Publish what all ranks wrote, or try once more, or give up."""
        try:
            shares = self._ranks.gather(self._ranks.together(writing.written.result))
            entries = [msgspec.convert(entry, FileEntry) for share in shares for entry in share]
            self._ranks.together(lambda: self._publish(writing, entries) if self._ranks.is_first else None)
        except PtoolError as error:
            self._try_again(writing, error)
            writing.stall += time.monotonic() - started
            return
        writing.stall += time.monotonic() - started
        self._timeline.record(
            "save",
            step=writing.step,
            seconds=round(time.monotonic() - writing.began, 4),
            stall_seconds=round(writing.stall, 4),
            bytes=sum(entry.size for entry in entries),
        )
        self._release(writing)
        self.last_saved = writing.step

    def _publish(self, writing: _Writing, entries: list[FileEntry]) -> None:
        checkpoints.publish(self._run, writing.snapshot, self._config, entries)
        self._rotate(writing.snapshot.position)

    def _rotate(self, position: Position, *, coming: bool = False) -> None:
        settings = self._config.checkpoint
        fields = {name: getattr(position, name) for name in Saved.__struct_fields__}
        checkpoints.rotate(
            self._run,
            keep_last=settings.keep_last,
            back_off=None if position.step == self._last_step else self._config.spike.back_off,
            keep_every=settings.keep_every_steps,
            coming=Saved(**fields) if coming else None,
        )

    def _try_again(self, writing: _Writing, error: PtoolError) -> None:
        """Once: the last good checkpoint stays, whatever happens."""

        def make_room() -> None:
            shutil.rmtree(checkpoints.temporary_of(self._run, writing.step), ignore_errors=True)
            if writing.tries == 1:
                self._rotate(writing.snapshot.position, coming=True)

        self._ranks.together(lambda: make_room() if self._ranks.is_first else None)
        self._timeline.record("save failed", step=writing.step, reason=error.message, tries=writing.tries)
        if writing.tries > 1:
            self._release(writing)
            raise error
        self._notice(f"the checkpoint of step {writing.step:,} could not be written, trying again: {error}")
        self._begin(writing)

    def _release(self, writing: _Writing) -> None:
        writing.give_back(writing.snapshot)
        self._writing = None
