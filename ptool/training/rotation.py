"""Which checkpoints are kept: a pure function of what is there.

    the newest `keep_last`      of the step schedule; one that the clock or a signal asked for while it is newest
    one to roll back to         the newest of the schedule at least `back_off` steps before the newest, else the oldest
    milestones                  every `keep_every` steps, for good
    the best                    the lowest validation loss of all, and of each phase

What the clock does never changes what is kept of the schedule, so that two equal runs can go back to the same steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct


class Saved(Struct, frozen=True, kw_only=True):
    """What the rule needs to know of a checkpoint; `validation_loss` None: none was measured at this step."""

    step: int
    scheduled: bool = True
    validation_loss: float | None = None
    phase: int = 0


def kept(present: Sequence[Saved], *, keep_last: int, back_off: int | None, keep_every: int = 0) -> set[int]:
    """The steps to keep; `back_off` None: the run is at its end, and nothing will be rolled back."""
    if not present:
        return set()
    scheduled = sorted(saved.step for saved in present if saved.scheduled)
    keep = {*scheduled[-keep_last:], max(saved.step for saved in present)}
    if back_off is not None and scheduled:
        far_enough = [step for step in scheduled if step <= scheduled[-1] - back_off]
        keep.add(far_enough[-1] if far_enough else scheduled[0])
    if keep_every:
        keep |= {step for step in scheduled if step and step % keep_every == 0}
    return keep | {saved.step for saved in best_of_each_phase(present)}


def best_of_each_phase(present: Iterable[Saved]) -> list[Saved]:
    """The checkpoint of lowest validation loss of each phase; the earlier one of two equal ones."""
    best: dict[int, Saved] = {}
    for saved in sorted(present, key=lambda saved: saved.step):
        loss = saved.validation_loss
        known = best.get(saved.phase)
        if loss is not None and (known is None or known.validation_loss is None or loss < known.validation_loss):
            best[saved.phase] = saved
    return list(best.values())


def best(present: Iterable[Saved]) -> Saved | None:
    """The checkpoint of lowest validation loss, None where none was measured."""
    found = best_of_each_phase(present)
    return min(found, key=lambda saved: (saved.validation_loss or 0.0, saved.step)) if found else None
