"""Causal self-attention that stops at segment boundaries, with rotary positions and grouped keys.

A packed row holds several documents. A token sees itself and earlier tokens of its own segment, nothing else, so a
document's loss and gradient are those it would have alone in a row (tests compare both). What depends on the batch
and not on the layer, the mask and the rotation angles, is computed once per batch in `Layout` and handed to every
layer. Where no row holds two segments the mask is plain causality and the fused causal kernel runs without a mask.

The general mask costs rows * S * S * 4 bytes and computes the scores of other segments only to discard them. On CPU
at S <= 2048 that is a small part of a step; it is not a variable-length kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptool.models.config import ModelConfig


class Layout(NamedTuple):
    """What every layer of one forward pass shares.

    `mask` [rows, 1, S, S] is added to the scores (0 or -inf), None where causality alone is right; `cos` and `sin`
    [rows, 1, S, head_dim] are the rotary factors of each position.
    """

    mask: Tensor | None
    cos: Tensor
    sin: Tensor


def layout(config: ModelConfig, positions: Tensor, segments: Tensor) -> Layout:
    """The layout of a batch from its positions and segments, both integer [rows, S]; segment -1 is padding."""
    return Layout(None if _is_causal_alone(segments) else _segment_mask(segments), *rotation(config, positions))


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
    """Multi-head attention; `kv_heads` < `heads` shares each key and value between several queries (GQA)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.queries_per_key = config.heads // config.num_kv_heads
        kv_hidden = config.num_kv_heads * config.head_dim
        self.query = nn.Linear(config.hidden, config.hidden, bias=False)
        self.key = nn.Linear(config.hidden, kv_hidden, bias=False)
        self.value = nn.Linear(config.hidden, kv_hidden, bias=False)
        self.output = nn.Linear(config.hidden, config.hidden, bias=False)

    def forward(self, hidden: Tensor, where: Layout) -> Tensor:
        """[rows, S, hidden] to [rows, S, hidden]."""
        query = rotate(self._heads(self.query(hidden)), where.cos, where.sin)
        key = rotate(self._heads(self.key(hidden)), where.cos, where.sin)
        value = self._heads(self.value(hidden))
        if self.queries_per_key > 1:
            key = key.repeat_interleave(self.queries_per_key, dim=1)
            value = value.repeat_interleave(self.queries_per_key, dim=1)
        mask = None if where.mask is None else where.mask.to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(self, projected: Tensor) -> Tensor:
        """[rows, S, heads * head_dim] to [rows, heads, S, head_dim]."""
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def _is_causal_alone(segments: Tensor) -> bool:
    """Whether every row is one segment, or one segment followed by padding: causality then hides all that it must."""
    padding = segments < 0
    one_segment = (segments == segments[:, :1]) | padding
    padding_last = padding[:, 1:] | ~padding[:, :-1]
    return bool(one_segment.all() & padding_last.all())


def _segment_mask(segments: Tensor) -> Tensor:
    """0 where a token may look (itself and earlier, same segment), -inf elsewhere: fp32 [rows, 1, S, S].

    Padding is a segment like any other, so no row of scores is all -inf, which would make NaN.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = (segments[:, :, None] == segments[:, None, :]) & causal
    mask = torch.zeros(allowed.shape, dtype=torch.float32, device=segments.device)
    return mask.masked_fill_(~allowed, float("-inf"))[:, None]
