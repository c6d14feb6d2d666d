"""Three kernels for attention inside segments, equal in result, and the choice between them.

`sdpa` is torch's scaled dot-product attention: with causality alone where each row is one segment (the fused kernel,
flash attention on a GPU), with an added mask where rows hold several. The mask costs rows * S * S * 4 bytes, and the
scores of other segments are computed only to be discarded. It works everywhere and in every precision.

`varlen` lays all rows behind one another and gives flash attention the places where segments begin, so nothing is
computed between segments: its cost is the sum of the squared segment lengths. GPU, bf16 and fp16 only.

`flex` is torch's flex_attention with a block mask: blocks that hold no pair of one segment are skipped. It is compiled
on a GPU; on the CPU torch has its forward pass only.

`auto` is `sdpa` on the CPU. On a GPU it is `varlen` for rows of several segments, after a check: the first time, for
each shape of head and type, the kernel's result and gradients on a small packed batch are held against the masked
ones (a few milliseconds); where it fails or differs, a warning says so and `sdpa` is used. The check is there because
kernels differ between GPUs and versions, and the machines this code was tested on have none: the choice, the layout of
rows and segments, and the check itself are tested with a stand-in for the kernel; the kernel itself is not.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ptool.errors import UsageError
from ptool.models.execution import Kernel

MAX_FLASH_HEAD_DIM = 256  # flash attention 2
TOLERANCE = 0.03  # relative norm of the difference between bf16 results of two kernels; about eight roundings


class Heads(NamedTuple):
    """What a kernel must know of a layer."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float | None


class Spans(NamedTuple):
    """What keeps attention inside segments, in the form of one kernel; all None: causality alone does.

    `mask` [rows, 1, S, S] is added to the scores (0 or -inf); `starts` int32 [segments + 1] are the places where
    segments begin in the rows laid behind one another, and the end; `blocks` is flex attention's mask.
    """

    mask: Tensor | None = None
    starts: Tensor | None = None
    blocks: Any = None


def spans(segments: Tensor, kernel: Kernel, heads: Heads, dtype: torch.dtype) -> Spans:
    """How `kernel` is told of `segments` [rows, S], for scores of `dtype`. Raises UsageError where it cannot run."""
    if kernel == "varlen":
        require_varlen(segments.device, dtype, heads)
    elif kernel == "flex":
        if segments.device.type == "cpu" and torch.is_grad_enabled():
            raise UsageError("flex attention has no backward pass on the CPU", hint="attention = auto")
        return Spans(blocks=_block_mask(segments))
    if is_causal_alone(segments):
        return Spans()
    if kernel == "varlen" or (kernel == "auto" and _varlen_is_right(segments.device, dtype, heads)):
        return Spans(starts=segment_starts(segments))
    return Spans(mask=segment_mask(segments))


def attend(query: Tensor, key: Tensor, value: Tensor, within: Spans, scale: float | None) -> Tensor:
    """Causal attention inside segments.

    `query` [rows, heads, S, head_dim], `key` and `value` [rows, kv_heads, S, head_dim]; [rows, heads, S, head_dim].
    """
    if within.starts is not None:
        return _varlen(query, key, value, within.starts, scale)
    if within.blocks is not None:
        return _flex(query, key, value, within.blocks, scale)
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key = key.repeat_interleave(shared, dim=1)
        value = value.repeat_interleave(shared, dim=1)
    mask = None if within.mask is None else within.mask.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale)


def is_causal_alone(segments: Tensor) -> bool:
    """Whether every row is one segment, or one segment followed by padding: causality then hides all that it must."""
    padding = segments < 0
    one_segment = (segments == segments[:, :1]) | padding
    padding_last = padding[:, 1:] | ~padding[:, :-1]
    return bool(one_segment.all() & padding_last.all())


def segment_mask(segments: Tensor) -> Tensor:
    """0 where a token may look (itself and earlier, same segment), -inf elsewhere: fp32 [rows, 1, S, S].

    Padding is a segment like any other, so no row of scores is all -inf, which would make NaN.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = (segments[:, :, None] == segments[:, None, :]) & causal
    mask = torch.zeros(allowed.shape, dtype=torch.float32, device=segments.device)
    return mask.masked_fill_(~allowed, float("-inf"))[:, None]


def segment_starts(segments: Tensor) -> Tensor:
    """Where each run of equal numbers begins in the rows laid behind one another, and the end: int32 [runs + 1].

    A row begins a run. Segments are contiguous in packed rows, so runs are segments; padding is one.
    """
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    starts = begins.flatten().nonzero()[:, 0]
    return F.pad(starts, (0, 1), value=segments.numel()).int()


def require_varlen(device: torch.device, dtype: torch.dtype, heads: Heads) -> None:
    """Raise UsageError, with the reason, where flash attention over segments cannot run."""
    problem = _varlen_problem(device, dtype, heads)
    if problem is not None:
        raise UsageError(f"attention = varlen {problem}", hint="attention = auto")


def _varlen_problem(device: torch.device, dtype: torch.dtype, heads: Heads) -> str | None:
    if device.type != "cuda":
        return f"needs a GPU, and this is a {device.type}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"needs bf16 or fp16, not {dtype}"
    if heads.head_dim % 8 or heads.head_dim > MAX_FLASH_HEAD_DIM:
        return f"needs heads of a multiple of 8 numbers, at most {MAX_FLASH_HEAD_DIM}, not {heads.head_dim}"
    return None


def _varlen_is_right(device: torch.device, dtype: torch.dtype, heads: Heads) -> bool:
    return _varlen_problem(device, dtype, heads) is None and agrees(device, dtype, heads)


@cache
def agrees(device: torch.device, dtype: torch.dtype, heads: Heads) -> bool:
    """Whether `varlen` gives the results and gradients of the mask here; tried once for each argument."""
    try:
        difference = _difference(device, dtype, heads)
    except Exception as error:  # noqa: BLE001  whatever a kernel throws, the other one is there
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(f"variable-length attention does not run here: {reason}; masked attention it is", stacklevel=2)
        return False
    if not difference <= TOLERANCE:
        message = f"variable-length attention is off by {difference:.3g} here; masked attention it is"
        warnings.warn(message, stacklevel=2)
        return False
    return True


@torch.enable_grad()
def _difference(device: torch.device, dtype: torch.dtype, heads: Heads) -> float:
    """The largest relative difference among result and gradients of the two kernels, on two packed rows."""
    length = 96
    segments = (torch.arange(length) * torch.tensor([[3], [5]]) // length).to(device)
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> Tensor:
        return torch.randn(2, count, length, heads.head_dim, generator=generator).to(device, dtype).requires_grad_()

    query, key, value = inputs = draw(heads.heads), draw(heads.kv_heads), draw(heads.kv_heads)
    toward = torch.randn(query.shape, generator=generator).to(device, dtype)
    with torch.autocast(device.type, enabled=False):
        found = _varlen(query, key, value, segment_starts(segments), heads.scale)
        q, k, v = exact = tuple(vectors.detach().float().requires_grad_() for vectors in inputs)
        expected = attend(q, k, v, Spans(mask=segment_mask(segments)), heads.scale)
        pairs = [(found, expected)]
        pairs += zip(
            torch.autograd.grad(found, inputs, toward),
            torch.autograd.grad(expected, exact, toward.float()),
            strict=True,
        )
    return max(float((mine.detach().float() - true.detach()).norm() / true.detach().norm()) for mine, true in pairs)


def _varlen(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scale: float | None) -> Tensor:
    rows, _, length, _ = query.shape
    q, k, v = (vectors.transpose(1, 2).flatten(0, 1) for vectors in (query, key, value))
    mixed = _flash_over_segments(q, k, v, starts, length, scale)
    return mixed.unflatten(0, (rows, length)).transpose(1, 2)


def _flash_over_segments(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float | None
) -> Tensor:
    """`query` [tokens, heads, head_dim], `key` and `value` [tokens, kv_heads, head_dim]; causal in each segment."""
    from torch.nn.attention.varlen import varlen_attn

    shared = query.shape[1] != key.shape[1]
    mixed: Tensor = varlen_attn(
        query, key, value, starts, starts, longest, longest, scale=scale, window_size=(-1, 0), enable_gqa=shared
    )
    return mixed


def _block_mask(segments: Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def allowed(row: Tensor, _head: Tensor, here: Tensor, there: Tensor) -> Tensor:
        return (there <= here) & (segments[row, here] == segments[row, there])

    rows, length = segments.shape
    return create_block_mask(allowed, rows, None, length, length, device=segments.device)


def _flex(query: Tensor, key: Tensor, value: Tensor, blocks: Any, scale: float | None) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    run = _compiled_flex() if query.is_cuda else flex_attention
    mixed: Tensor = run(query, key, value, block_mask=blocks, scale=scale, enable_gqa=query.shape[1] != key.shape[1])
    return mixed


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
