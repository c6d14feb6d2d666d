"""Which optimiser steps are refused, and what follows: a pure function of what was observed. No torch, no files.

A step is judged before its update, on the global mean loss and the global gradient norm. Both are compared, as
logarithms, with the last `window` accepted steps by a robust z-score: (x - median of the last 32) / max(1.4826 MAD,
floor). Medians, because one outlier must not hide the next; logarithms, because then a threshold means the same at
loss 9 and at loss 2; the last 32, because the loss drifts while it falls. 1.4826 makes the median absolute deviation
the standard deviation of a normal. What is refused never enters the window, nor does a raised loss.

    judge -> ACCEPT    and the window grows
             RERUN     the first refusal of a batch: do the same step again
             SKIP      the rerun agrees: the batch is guilty, leave it out (weights and moments are untouched)
             ROLLBACK  more than max_skips of them within skip_horizon steps, or a loss raised for raised_steps: the
                       state is suspect too. Go back to a checkpoint at least back_off steps before the onset, leave
                       out the guilty samples, halve the learning rate and the clipping and ramp both back
             HALT      the rerun differs (hardware), or the budget of rollbacks is spent

Replaying a batch from another state often passes (PaLM, arXiv:2204.02311, section 5.1): state and data are guilty
together, so a rollback without a skip, or a skip without a rollback, repeats the spike. Nothing here happens twice:
decisions are kept outside the checkpoints (history.py), and given the same decisions a run is the same run.

Sources of the numbers: window 128 and 6 sigma on loss and norm, OLMo-core's SkipStepOptimizer; ratio and raised steps,
LLM Foundry's KillLossSpike (2x for 5 steps; here 1.5x for 10); back_off 100 and up to 200 skipped batches, PaLM.
The cost is a few microseconds a step: two medians over 128 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from statistics import fmean, median, stdev

import msgspec

from ptool.training.config import Spike

RECENT = 32  # steps whose median is "now"; a quarter of the window
LOSS_FLOOR = 0.02  # of log loss: less than 2 % of noise is not believed
NORM_FLOOR = 0.1  # of log gradient norm, which scatters more


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One attempted step: the number it would have, its samples [first, last), global mean loss and gradient norm."""

    step: int
    samples: tuple[int, int]
    loss: float
    grad_norm: float

    @property
    def is_finite(self) -> bool:
        """Whether both numbers are."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What the detector remembers: log loss and log norm of accepted steps, and how long the loss has been raised.

    Part of every checkpoint: it goes back with the weights.
    """

    losses: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()
    raised: int = 0


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about the samples of a refused step; `step` is the number of accepted steps before it.

    `target` is the step a rollback goes to. `skip` are the samples left out from then on.
    """

    action: str
    step: int
    skip: tuple[int, int]
    reason: str
    loss: float | None
    grad_norm: float | None
    target: int | None = None


class Action(StrEnum):
    """See the module's docstring."""

    ACCEPT = "accept"
    RERUN = "rerun"
    SKIP = "skip"
    ROLLBACK = "rollback"
    HALT = "halt"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an observation; `clip` multiplies the clipping norm of an accepted step."""

    action: Action
    reason: str = ""
    clip: float = 1.0


def judge(
    config: Spike,
    window: Window,
    decisions: Sequence[Decision],
    now: Observation,
    *,
    first: Observation | None = None,
    warmup_steps: int = 0,
) -> Verdict:
    """What to do about `now`; `first` is the same step's first attempt when this is its rerun."""
    loss_z, norm_z = scores(window, now)
    reason = _suspicion(config, window, now, loss_z, norm_z, warmup_steps)
    if first is not None:
        change = _relative_change(first, now)
        if change > config.rerun_tolerance:
            return Verdict(
                action=Action.HALT, reason=f"hardware: the same step again gave another result ({change:.2g})"
            )
    if reason is None:
        lone_norm = _is_judged(config, window, now, warmup_steps) and norm_z > config.joint_norm_z
        return Verdict(action=Action.ACCEPT, clip=config.clip_factor if lone_norm else 1.0)
    if first is None:
        return Verdict(action=Action.RERUN, reason=reason)
    if window.raised + 1 < config.raised_steps and len(_recent_skips(config, decisions, now.step)) < config.max_skips:
        return Verdict(action=Action.SKIP, reason=reason)
    spent = [d for d in decisions if d.action == Action.ROLLBACK and d.step > now.step - 1 - config.budget_steps]
    if len(spent) >= config.max_rollbacks:
        return Verdict(action=Action.HALT, reason=f"{reason}; {len(spent)} rollbacks were spent on it")
    return Verdict(action=Action.ROLLBACK, reason=reason)


def accept(config: Spike, window: Window, now: Observation) -> Window:
    """The window after an accepted step."""
    if _is_raised(config, window, now):
        return msgspec.structs.replace(window, raised=window.raised + 1)
    return Window(
        losses=(*window.losses, _log(now.loss))[-config.window :],
        norms=(*window.norms, _log(now.grad_norm))[-config.window :],
    )


def scores(window: Window, now: Observation) -> tuple[float, float]:
    """Robust z-scores of log loss and log gradient norm."""
    return _z(window.losses, now.loss, LOSS_FLOOR), _z(window.norms, now.grad_norm, NORM_FLOOR)


def exceeds_two_sigma(window: Window, now: Observation) -> bool:
    """The rule of thumb in circulation: the loss is above mean + 2 sigma of the window. It only ever warns.

    On clean normal noise that is 2.3 % of all steps, 228 in 10,000: acting on it would do more harm than spikes do.
    """
    if not math.isfinite(now.loss):
        return True
    losses = [math.exp(value) for value in window.losses]
    return len(losses) > 1 and now.loss > fmean(losses) + 2 * stdev(losses)


def onset(config: Spike, window: Window, decisions: Sequence[Decision], now: Observation) -> tuple[int, int]:
    """(accepted steps, first sample) at which the trouble that led to a rollback began."""
    batch = now.samples[1] - now.samples[0]
    skips = _recent_skips(config, decisions, now.step)
    raised = now.step - 1 - window.raised, now.samples[0] - window.raised * batch
    return min([raised, *((skip.step, skip.skip[0]) for skip in skips)])


def latest_target(config: Spike, decisions: Sequence[Decision], onset_step: int) -> int:
    """The highest step a rollback may go back to: farther each time one falls within the last ones' reach."""
    return onset_step - config.back_off * (1 + _repeats(config, decisions, onset_step))


def guilty(
    config: Spike, decisions: Sequence[Decision], onset_step: int, first: int, now: Observation, cursor: int
) -> tuple[int, int]:
    """The samples a rollback leaves out: onset to now with a margin, doubled when it recurs; none before `cursor`.

    `cursor` is the data cursor of the checkpoint gone back to, or where the mix of `now` began if that is later.
    """
    batch = now.samples[1] - now.samples[0]
    start = max(cursor, first - config.margin * batch)
    end = now.samples[1] + config.margin * batch
    end += (end - start) * (2 ** _repeats(config, decisions, onset_step) - 1)
    return start, min(end, start + max(config.max_window * batch, now.samples[1] - start))


def rollback_targets(decisions: Sequence[Decision]) -> list[int]:
    """The steps gone back to, for the learning rate's and the clipping's ramps."""
    return [d.target for d in decisions if d.action == Action.ROLLBACK and d.target is not None]


def _suspicion(
    config: Spike, window: Window, now: Observation, loss_z: float, norm_z: float, warmup_steps: int
) -> str | None:
    if not now.is_finite:
        return f"not finite: loss {now.loss:g}, gradient norm {now.grad_norm:g}"
    if not _is_judged(config, window, now, warmup_steps):
        return None
    if loss_z > config.loss_z:
        return f"loss {now.loss:.4g} is {loss_z:.1f} deviations above the last {len(window.losses)} steps"
    if loss_z > config.joint_loss_z and norm_z > config.joint_norm_z:
        return (
            f"loss {now.loss:.4g} and gradient norm {now.grad_norm:.4g} are {loss_z:.1f} and {norm_z:.1f} deviations up"
        )
    if window.raised + 1 >= config.raised_steps and _is_raised(config, window, now):
        return f"loss {now.loss:.4g} has been over {config.ratio} times its median for {window.raised + 1} steps"
    return None


def _is_judged(config: Spike, window: Window, now: Observation, warmup_steps: int) -> bool:
    return config.enabled and len(window.losses) >= config.min_history and now.step > warmup_steps


def _is_raised(config: Spike, window: Window, now: Observation) -> bool:
    if len(window.losses) < config.min_history or not config.enabled:
        return False
    return _log(now.loss) > median(window.losses) + math.log(config.ratio)


def _recent_skips(config: Spike, decisions: Sequence[Decision], step: int) -> list[Decision]:
    """Skips since the last rollback, within the horizon; only those of steps already reached count."""
    done = step - 1
    after = max((index for index, d in enumerate(decisions) if d.action == Action.ROLLBACK), default=-1)
    recent = decisions[after + 1 :]
    return [d for d in recent if d.action == Action.SKIP and done - config.skip_horizon < d.step <= done]


def _repeats(config: Spike, decisions: Sequence[Decision], onset_step: int) -> int:
    """How many rollbacks came shortly before: their ramp or their way back had not ended."""
    reach = config.back_off + config.ramp_steps
    return sum(1 for d in decisions if d.action == Action.ROLLBACK and abs(onset_step - d.step) <= reach)


def _relative_change(first: Observation, now: Observation) -> float:
    if first.is_finite != now.is_finite:
        return math.inf
    if not now.is_finite:
        return 0.0
    pairs = ((first.loss, now.loss), (first.grad_norm, now.grad_norm))
    return max(abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairs)


def _z(history: Sequence[float], value: float, floor: float) -> float:
    if not history or not math.isfinite(value):
        return math.inf if history else 0.0
    centre = median(history)
    spread = 1.4826 * median(abs(x - centre) for x in history)
    return (_log(value) - median(history[-RECENT:])) / max(spread, floor)


def _log(value: float) -> float:
    return math.log(max(value, 1e-30))
