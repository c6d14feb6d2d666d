"""The learning rate, and nothing else: a pure function of the tokens seen and of the rollbacks before.

Linear warm-up to the peak, then a shape, in tokens since the curve's beginning:

    cosine    half a cosine down to the end's rate
    wsd       the peak, and over the last `decay_tokens` down by 1 - sqrt (Hägele et al. 2024, arXiv:2405.18392,
              section 3: better than linear); how long it is stable can be decided while it runs
    linear    a line from the peak to the end's rate
    constant  the peak

After a rollback the rate and the clipping are lowered and go back to full over `ramp_steps` (spikes.py says when). The
engine's own scheduler is never used: it counts skipped steps, and resuming one has gone wrong in every trainer that
tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ptool.training.config import Phase

DECAY_SHARE = 0.1  # of a run: what a decay needs to give its full effect (MiniCPM, arXiv:2404.06395, section 4.3)


def learning_rate(phase: Phase, tokens: int) -> float:
    """The rate of a step of `phase` after which the run has seen `tokens`, before any rollback's factor."""
    done, warmup, end = tokens - phase.curve_start, phase.warmup_tokens, phase.curve_tokens
    peak, last = phase.peak_lr, phase.end_lr
    if done <= warmup:
        return peak * (done / warmup)
    if phase.shape == "constant":
        return peak
    if phase.shape == "wsd":
        progress = max(0.0, min(1.0, (done - (end - phase.decay_tokens)) / max(1, phase.decay_tokens)))
        return last + (peak - last) * (1 - math.sqrt(progress))
    progress = min(1.0, (done - warmup) / max(1, end - warmup))
    falling = 1 - progress if phase.shape == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return last + (peak - last) * falling


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
