"""Initial weights that depend on the seed and a parameter's name, and on nothing else.

Each parameter has a generator of its own, seeded from (seed, name). So every rank and every ZeRO stage builds the same
weights whatever was drawn before, and a parameter added later does not move the others. The draws are made on the CPU
and copied, so a GPU run starts from the same numbers.

Matrices and embeddings are drawn from a normal truncated at three standard deviations, each of `init_std` or, with
`init = "width"`, 1/sqrt(hidden); the two matrices of each layer that write into the residual stream have it divided by
sqrt(2 * layers), so that the stream's variance does not grow with depth (GPT-2, Radford et al. 2019, section 2.3). With
muP (mup.py) hidden matrices start narrower. Norm gains start at one, biases at zero.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from ptool.models.config import ModelConfig
from ptool.models.mup import spread_factor

CUTOFF = 3.0  # standard deviations; torchtitan and OLMo cut there

RESIDUAL_OUTPUTS = ("attention.output.weight", "feed_forward.down.weight")


@torch.no_grad()
def initialise(module: nn.Module, config: ModelConfig, *, seed: int) -> None:
    """Set every parameter of `module` in place."""
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
        else:
            parameter.copy_(_draw(name, parameter.shape, config, seed))


def standard_deviation(name: str, config: ModelConfig) -> float:
    """Standard deviation of the parameter `name` before truncation."""
    base = config.init_std
    if config.init == "width":
        base = 1 / math.sqrt(config.mup_base_hidden or config.hidden)
    base *= spread_factor(name, config)
    return base / math.sqrt(2 * config.layers) if name.endswith(RESIDUAL_OUTPUTS) else base


def _draw(name: str, shape: torch.Size, config: ModelConfig, seed: int) -> Tensor:
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    std = standard_deviation(name, config)
    values = torch.empty(shape, dtype=torch.float32)
    return nn.init.trunc_normal_(values, std=std, a=-CUTOFF * std, b=CUTOFF * std, generator=generator)
