"""Muon: momentum made orthogonal, for hidden matrices; AdamW for everything else.

A hidden matrix moves along the nearest (semi-)orthogonal matrix to its momentum, so all directions learn at one rate
(Jordan et al. 2024, kellerjordan.github.io/posts/muon). Its step is scaled to the size of AdamW's, 0.2 sqrt(max(rows,
columns)) (Liu et al. 2025, arXiv:2502.16982, section 2.2), so one learning rate and one weight decay serve both.

The orthogonal matrix comes from five Newton-Schulz steps, which leave the singular values between 0.7 and 1.2 rather
than at 1; that is enough, and costs at most 5 r / (tokens in a batch) of a step for a matrix of r rows (Jordan et al.).
It works on whole matrices: choices.py refuses ZeRO's flat shards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ptool.optimizers.stepping import Stepping, adam_direction, decay, moment

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al.: steepest at 0, and no iterate leaves [0.7, 1.2] for good
STEPS = 5
SCALE = 0.2  # root mean square of AdamW's steps, Liu et al., section 2.2


class Muon(Stepping):
    """Groups with `hidden` true are orthogonalised, the others take AdamW; see groups.py."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        hidden: bool = False,
    ) -> None:
        super().__init__(params, momentum=momentum, betas=betas, eps=eps, weight_decay=weight_decay, hidden=hidden)

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Decay, then a step along the orthogonalised Nesterov momentum, or one of Adam."""
        if not group["hidden"]:
            decay(parameter, group)
            parameter.add_(adam_direction(gradient, state, group), alpha=-group["lr"])
            return
        if parameter.dim() != 2:
            raise ValueError(f"Muon needs matrices, and this hidden parameter has {parameter.dim()} dimensions")
        mean = moment(state, "exp_avg", gradient).lerp_(gradient, 1 - group["momentum"])
        direction = orthogonalise(gradient.lerp(mean, group["momentum"]))
        decay(parameter, group)
        parameter.add_(direction.to(parameter.dtype), alpha=-group["lr"] * SCALE * math.sqrt(max(parameter.shape)))


def orthogonalise(matrix: Tensor) -> Tensor:
    """Roughly the nearest matrix with orthonormal rows (or columns, if it has fewer): in bf16 on a GPU, else fp32."""
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = x.T
    x = x / x.norm().clamp(min=1e-7)  # all singular values in [0, 1]
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x
