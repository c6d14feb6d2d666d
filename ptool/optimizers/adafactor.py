"""Adafactor: Adam's second moment kept as row and column means (Shazeer & Stern 2018, arXiv:1804.04235).

For a matrix of R rows and C columns R + C numbers are kept instead of 2 R C; there is no first moment. The step is
relative: the learning rate is a share of the tensor's root mean square, so 1e-2 is a usual peak. Rows and columns must
be whole: choices.py refuses ZeRO's flat shards.

Algorithm 4 with the learning rate as it is given. torch.optim.Adafactor takes min(lr, 1/sqrt(step)) of it, a schedule
of its own, and is otherwise the same (a test holds one against the other); here the schedule is the trainer's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ptool.optimizers.stepping import Stepping, decay, moment

CLIP = 1.0  # d in section 6: the largest root mean square of an update
SMALLEST_SCALE = 1e-3  # eps2 in section 8: the least a tensor's root mean square counts as


class Adafactor(Stepping):
    """x <- x - lr max(eps2, rms(x)) u / max(1, rms(u)), with u = g / sqrt(second moment)."""

    def __init__(self, params: Iterable[Any], *, decay_power: float = 0.8, weight_decay: float = 0.0) -> None:
        """The second moment's rate at step t is 1 - t^-decay_power (section 7.2)."""
        super().__init__(params, decay_power=decay_power, weight_decay=weight_decay)

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Decay, then a relative step clipped in size."""
        fresh = float(state["step"]) ** -group["decay_power"]
        scale = group["lr"] * max(SMALLEST_SCALE, _rms(parameter))
        decay(parameter, group)
        direction = gradient * _second_moment(gradient, state, fresh).rsqrt_()
        parameter.add_(direction, alpha=-scale / max(1.0, _rms(direction) / CLIP))


def _second_moment(gradient: Tensor, state: dict[str, Any], fresh: float) -> Tensor:
    """The running mean of squared gradients: whole for vectors, rank one for matrices; never below eps squared."""
    tiny = torch.finfo(gradient.dtype).eps
    if gradient.dim() < 2:
        whole = moment(state, "exp_avg_sq", gradient).lerp_(gradient.square(), fresh)
        return whole.clamp(min=tiny**2)
    rows = moment(state, "row_mean", gradient[..., :1]).lerp_(gradient.square().mean(-1, keepdim=True), fresh)
    columns = moment(state, "column_mean", gradient[..., :1, :]).lerp_(gradient.square().mean(-2, keepdim=True), fresh)
    return (rows @ columns / rows.mean(-2, keepdim=True).clamp(min=tiny)).clamp_(min=tiny**2)


def _rms(tensor: Tensor) -> float:
    return float(tensor.norm()) / math.sqrt(tensor.numel())
