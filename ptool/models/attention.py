"""Causal self-attention that stops at segment boundaries, with rotary positions and grouped keys.

A packed row holds several documents. A token sees itself and earlier tokens of its own segment, nothing else, so a
document's loss and gradient are those it would have alone in a row (tests compare both). What depends on the batch
and not on the layer, the bounds of segments and the rotation angles, is computed once per batch in `Layout` and handed
to every layer. Which kernel computes it: kernels.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ptool.models.config import ModelConfig
from ptool.models.execution import Kernel
from ptool.models.kernels import Heads, Spans, attend, spans
from ptool.models.mup import attention_scale


class Layout(NamedTuple):
    """What every layer of one forward pass shares.

    `within` keeps attention inside segments; `cos` and `sin` [rows, 1, S, head_dim] are the rotary factors of each
    position, None where positions are learned.
    """

    within: Spans
    cos: Tensor | None
    sin: Tensor | None


def layout(
    config: ModelConfig,
    positions: Tensor,
    segments: Tensor,
    *,
    kernel: Kernel = "auto",
    dtype: torch.dtype = torch.float32,
) -> Layout:
    """The layout of a batch from its positions and segments, both integer [rows, S]; segment -1 is padding.

    `dtype` is that of the attention scores. Raises UsageError where `kernel` cannot run.
    """
    heads = Heads(config.heads, config.num_kv_heads, config.head_dim, attention_scale(config))
    within = spans(segments, kernel, heads, dtype)
    if config.positions == "learned":
        return Layout(within, None, None)
    return Layout(within, *rotation(config, positions))


def rotation(config: ModelConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles, fp32 [rows, 1, S, head_dim].

    Pair i of a head turns by position * theta^(-2i/head_dim) (Su et al. 2021, arXiv:2104.09864, eq. 15). Pairs are
    the numbers i and i + head_dim/2, as in the Hugging Face layout of Llama weights.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=positions.device) / config.head_dim
    angles = positions[:, None, :, None].float() * config.rope_theta**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn `vectors` [rows, heads, S, head_dim] by the factors of `rotation`; computed in fp32."""
    first, second = vectors.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (vectors.float() * cos + turned * sin).type_as(vectors)


class Attention(nn.Module):
    """Multi-head attention; `kv_heads` < `heads` shares each key and value between several queries (GQA, MQA)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.scale = attention_scale(config)
        kv_hidden = config.num_kv_heads * config.head_dim
        self.query = nn.Linear(config.hidden, config.hidden, bias=False)
        self.key = nn.Linear(config.hidden, kv_hidden, bias=False)
        self.value = nn.Linear(config.hidden, kv_hidden, bias=False)
        self.output = nn.Linear(config.hidden, config.hidden, bias=False)
        self.query_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.key_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None

    def forward(self, hidden: Tensor, where: Layout) -> Tensor:
        """[rows, S, hidden] to [rows, S, hidden]."""
        query, key, value = (self._heads(project(hidden)) for project in (self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            exact = self.query_norm.weight.dtype  # under autocast the gains are fp32 and the vectors bf16
            query, key = self.query_norm(query.to(exact)), self.key_norm(key.to(exact))
            query, key = query.type_as(value), key.type_as(value)
        if where.cos is not None and where.sin is not None:
            query, key = rotate(query, where.cos, where.sin), rotate(key, where.cos, where.sin)
        mixed = attend(query, key, value, where.within, self.scale)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(self, projected: Tensor) -> Tensor:
        """[rows, S, heads * head_dim] to [rows, heads, S, head_dim]."""
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
