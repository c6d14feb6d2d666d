"""The learning rate of a step, and nothing else: a pure function of the step and of the rollbacks before it.

Linear warm-up to the peak, then half a cosine down to `min_lr_ratio` of it at the last step. After a rollback the rate
and the clipping are lowered and go back to full over `ramp_steps` (spikes.py says when). The engine's own scheduler is
never used: it counts skipped steps, and resuming one has gone wrong in every trainer that tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ptool.training.config import RunConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """The rate of `step`, counted from 1 to `max_steps`, before any rollback's factor."""
    peak, warmup, last = config.optimizer.peak_lr, config.schedule.warmup_steps, config.run.max_steps
    if step <= warmup:
        return peak * step / warmup
    progress = min(1.0, (step - warmup) / max(1, last - warmup))
    floor = config.schedule.min_lr_ratio
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def ramp(factor: float, steps_since: int, ramp_steps: int) -> float:
    """`factor` just after a rollback, 1 from `ramp_steps` on, linear in between."""
    if steps_since > ramp_steps:
        return 1.0
    return factor + (1 - factor) * max(0, steps_since - 1) / ramp_steps


def after_rollbacks(factor: float, ramp_steps: int, targets: Iterable[int], step: int) -> float:
    """The product of the ramps of all rollbacks whose target lies before `step`."""
    product = 1.0
    for target in targets:
        if target < step:
            product *= ramp(factor, step - target, ramp_steps)
    return product
