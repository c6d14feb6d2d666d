"""Lion: the sign of a momentum (Chen et al. 2023, arXiv:2302.06675, algorithm 2).

Half the state of AdamW. Every number moves by exactly the learning rate, so that must be 3 to 10 times smaller than
AdamW's, and the weight decay as much larger (section 5); betas 0.95 and 0.98 are the paper's for language models.
Each number's update depends on its own history alone, so it is the same under every ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ptool.optimizers.stepping import Stepping, decay, moment


class Lion(Stepping):
    """p <- p - lr (sign(beta1 m + (1 - beta1) g) + wd p); then m <- beta2 m + (1 - beta2) g."""

    def __init__(
        self, params: Iterable[Any], *, betas: tuple[float, float] = (0.95, 0.98), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, betas=betas, weight_decay=weight_decay)

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Decay, a step by the sign, then the momentum."""
        beta1, beta2 = group["betas"]
        mean = moment(state, "exp_avg", gradient)
        decay(parameter, group)
        parameter.add_(mean.lerp(gradient, 1 - beta1).sign_(), alpha=-group["lr"])
        mean.lerp_(gradient, 1 - beta2)
