"""States to go back to, apart from saves: one every `checkpoint.anchor_steps` steps, in host memory.

A rollback goes to the newest state at least `spike.back_off` steps before the trouble began. Saves are hundreds of
steps apart; with anchors every 100 steps it loses 100 to 200 steps, and no time to reading. Kept are those that a
rollback decided at any later step could still want, three of them as things stand: 36 bytes a parameter over all
ranks with AdamW (`checkpoint.anchor_folder` puts them into mapped files).

They end with the process. What goes on from a checkpoint has only later ones; until there are enough of them, a
rollback goes to the newest verified save of the step schedule instead. So a run that was killed shortly before a spike
may go back farther than its unbroken twin, by a decision that the ledger holds: a run that is given the same decisions
from the start is the same run, to the bit.
"""

from __future__ import annotations

import socket

import msgspec

from ptool.executors import free_memory
from ptool.training.config import RunConfig, Spike
from ptool.training.engine import Engine
from ptool.training.ranks import Ranks
from ptool.training.snapshots import Buffers, Snapshot, buffers_in


class Anchor(msgspec.Struct, frozen=True):
    """A snapshot, and the digest of its tensors when it was taken."""

    snapshot: Snapshot
    digest: int


class Anchors:
    """The anchors of one rank; all ranks have those of the same steps."""

    def __init__(self, config: RunConfig, engine: Engine, ranks: Ranks) -> None:
        self._every = config.checkpoint.anchor_steps
        self._spike = config.spike
        self._engine = engine
        self._ranks = ranks
        self._anchors: dict[int, Anchor] = {}
        self._lent: Snapshot | None = None
        self._in_memory = not config.checkpoint.anchor_folder
        self.buffers: Buffers = buffers_in(config.checkpoint.anchor_folder)

    @property
    def steps(self) -> list[int]:
        """The steps there is an anchor of, rising."""
        return sorted(self._anchors)

    def is_due(self, step: int) -> bool:
        """Whether the state after this step is to be kept."""
        return self._every > 0 and step % self._every == 0

    def keep(self, snapshot: Snapshot) -> str | None:
        """Keep a snapshot, made in `buffers`, and let go of those that no rollback will want any more; collective.

        Where memory is too short for what will be kept, there are none from now on, and the answer says so.
        """
        step = snapshot.position.step
        if not self._anchors and not self._has_room(snapshot.num_bytes):
            self._every = 0
            return "no host memory for states to roll back to (checkpoint.anchor_folder): rollbacks will go to saves"
        self._anchors[step] = Anchor(snapshot, snapshot.digest())
        self._drop(set(self._anchors) - needed(self.steps, self._spike))
        return None

    def give_up(self) -> None:
        """Keep no more of them; those that are there stay."""
        self._every = 0

    def lend(self, snapshot: Snapshot) -> None:
        """A save is being written from this snapshot: its memory is not used again before `take_back`."""
        self._lent = snapshot

    def take_back(self, snapshot: Snapshot) -> None:
        """The save is written. No rollback may want the anchor any more: a slow disk takes longer than it lives."""
        self._lent = None
        if self._every > 0 and all(anchor.snapshot is not snapshot for anchor in self._anchors.values()):
            self.buffers.give_back(snapshot)

    def verified(self, at_most: int) -> list[int]:
        """Steps up to `at_most`, rising, whose anchors are on all ranks what they were when taken; collective."""
        good = []
        for step in [step for step in self.steps if step <= at_most]:
            anchor = self._anchors[step]
            intact = float(anchor.snapshot.digest() == anchor.digest)
            if self._ranks.sum([intact])[0] == self._ranks.size:
                good.append(step)
        return good

    def cursor_of(self, step: int) -> int:
        """The next sample of an anchor."""
        return self._anchors[step].snapshot.position.cursor

    def __contains__(self, step: int) -> bool:
        return step in self._anchors

    def go_back_to(self, step: int) -> Snapshot:
        """Put the engine into the state of an anchor; collective. Later ones are dropped."""
        snapshot = self._anchors[step].snapshot
        snapshot.put_back(self._engine)
        self.forget_after(step)
        return snapshot

    def forget_after(self, step: int) -> None:
        """Drop the anchors of a history that was undone."""
        self._drop({other for other in self._anchors if other > step})

    def _has_room(self, size: int) -> bool:
        """Whether all ranks have memory for the rest of the anchors, and for one that is being written."""
        steps = range(0, 2 * self._every + 2 * self._spike.back_off + self._every, self._every)
        more = len(needed(list(steps), self._spike))
        free = free_memory() if self._in_memory else None
        # The ranks of this machine share its memory; srun does not say how many they are.
        hosts = self._ranks.gather(socket.gethostname())
        fits = free is None or more * size * hosts.count(hosts[self._ranks.rank]) <= free
        return self._ranks.sum([float(fits)])[0] == self._ranks.size

    def _drop(self, steps: set[int]) -> None:
        for step in steps:
            snapshot = self._anchors.pop(step).snapshot
            if snapshot is not self._lent:
                self.buffers.give_back(snapshot)


def needed(steps: list[int], spike: Spike) -> set[int]:
    """Of the steps there are anchors of, rising, those that a rollback decided after the last one may go to.

    The onset of trouble lies at most `reach` steps before the decision, and the target `back_off` before that.
    """
    if not steps:
        return set()
    reach = max(spike.raised_steps, spike.skip_horizon) + 1
    earliest = steps[-1] - reach - spike.back_off
    before = [step for step in steps if step <= earliest]
    return {*before[-1:], *(step for step in steps if step > earliest)}
