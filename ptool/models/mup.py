"""muP: rates tuned on a narrow model hold for a wide one; the factors by which it differs. Torch-free.

Maximal update parametrisation (Yang et al. 2022, arXiv:2203.03466, table 8), for Adam and its kin. With m = hidden /
mup_base_hidden, against the standard parametrisation:

    hidden matrices   initial spread / sqrt(m)     learning rate / m
    embeddings, norms, biases, output head         both unchanged
    logits            / m
    attention scores  q.k sqrt(base head size) / head size, in place of q.k / sqrt(head size)

At m = 1 all of it is the standard parametrisation, to the bit. All widths are taken to grow together: `hidden`,
`ffn_hidden` and the number of heads (or their size: then give `mup_base_head_dim`). Depth, batch and length are not
covered: rates carry over in width alone.

The initial spread and the forward pass follow from the configuration by themselves; the learning-rate factors have to
be applied by the optimiser's owner, from `learning_rate_factor`.
"""

from __future__ import annotations

import math

from ptool.models.config import ModelConfig

_NOT_HIDDEN = ("embedding.weight", "head.weight")


def width_ratio(config: ModelConfig) -> float:
    """m: how many times wider than the base model; 1 without muP."""
    return 1.0 if config.mup_base_hidden is None else config.hidden / config.mup_base_hidden


def is_hidden_matrix(name: str) -> bool:
    """Whether both sides of the parameter `name` grow with the width."""
    return not (name.endswith(_NOT_HIDDEN) or "norm" in name.rsplit(".", 2)[-2] or name.endswith(".bias"))


def learning_rate_factor(name: str, config: ModelConfig) -> float:
    """What the learning rate of the parameter `name` is multiplied by."""
    return 1 / width_ratio(config) if is_hidden_matrix(name) else 1.0


def spread_factor(name: str, config: ModelConfig) -> float:
    """What the initial standard deviation of the parameter `name` is multiplied by."""
    return 1 / math.sqrt(width_ratio(config)) if is_hidden_matrix(name) else 1.0


def attention_scale(config: ModelConfig) -> float | None:
    """What attention scores are multiplied by; None: the usual 1/sqrt(head size)."""
    if config.mup_base_head_dim is None:
        return None
    return math.sqrt(config.mup_base_head_dim) / config.head_dim
