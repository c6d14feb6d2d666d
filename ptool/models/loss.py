"""Cross-entropy over a large vocabulary without ever holding all logits.

Logits of a whole batch are the largest tensor of a small model (16,384 tokens x 32,000 words x 4 bytes = 2 GiB).
Here they exist for one chunk of tokens at a time. While a chunk's logits are there, its gradients with respect to the
hidden vectors and the weight are computed too, because softmax minus one-hot is all they need; the backward pass only
scales them. So each logit is computed once (recomputing in the backward pass would cost a fourth matrix product to
these three), and the backward pass reads no parameter, which ZeRO-3 may have taken away by then. The price is one
gradient the size of the weight, held from the forward to the backward pass.
The idea is that of fused linear cross-entropy (Hsu et al. 2024, Liger kernels, arXiv:2410.10989).

Chunks follow from shapes alone and are summed in order: the same batch gives the same bits. The derivative of the
gradient is not defined (`once_differentiable`).

The z-loss (PaLM, arXiv:2204.02311, section 5) adds z * log(Z)^2 for each target, Z the softmax's denominator, which
keeps the logits from drifting; its gradient with respect to the logits is 2 z log(Z) softmax.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK_ELEMENTS = 2**23  # logits held at a time: 32 MiB in fp32, and as much again for their softmax


def chunk_tokens(vocab_size: int) -> int:
    """Tokens per chunk: as many as keep the chunk's logits within `CHUNK_ELEMENTS`, at least 16."""
    return max(16, CHUNK_ELEMENTS // vocab_size)


def cross_entropy_sum(hidden: Tensor, weight: Tensor, targets: Tensor, *, z_loss: float = 0.0) -> Tensor:
    """Sum over tokens of -log softmax(hidden @ weight.T)[target], in nats, and `z_loss` times log(Z)^2.

    `hidden` [tokens, width] and `weight` [vocabulary, width] floating point, `targets` [tokens] integer; a negative
    target is no target. Returns an fp32 scalar, differentiable with respect to `hidden` and `weight`.
    """
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, targets, z_loss, torch.is_grad_enabled())
    return loss


@torch.no_grad()
def cross_entropy_per_token(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The terms of `cross_entropy_sum`, fp32 [tokens]; 0 where there is no target. No gradient."""
    losses = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
    size = chunk_tokens(weight.shape[0])
    for x, y, out in zip(hidden.split(size), targets.split(size), losses.split(size), strict=True):
        out.copy_(_losses(F.linear(x, weight).float(), y)[0])
    return losses


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the loss and, where gradients are recorded, its two gradients chunk by chunk in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float, recording: bool) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        # The weight's gradient is a sum over chunks; fp32 keeps it exact when the weight is bf16.
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if recording else None
        grad_hidden = torch.empty_like(hidden) if recording else None
        size = chunk_tokens(weight.shape[0])
        for first in range(0, hidden.shape[0], size):
            x, y = hidden[first : first + size], targets[first : first + size]
            scores = F.linear(x, weight)  # bf16 under autocast, whatever the weight's type: the products below follow
            losses, log_sum, exponentials, sums = _losses(scores.float(), y)
            total += losses.sum()
            if z_loss:
                total += z_loss * torch.where(y >= 0, log_sum.square(), 0.0).sum()
            if grad_weight is None or grad_hidden is None:
                continue
            scored = (y >= 0).float()
            factors = scored * (1 + 2 * z_loss * log_sum) / sums if z_loss else scored / sums
            error = exponentials.mul_(factors[:, None])  # softmax, in the place of the logits
            error[torch.arange(len(y), device=y.device), y.clamp(min=0)] -= scored
            if scores.dtype == torch.float32:
                torch.mm(error, weight, out=grad_hidden[first : first + size])
                grad_weight.addmm_(error.t(), x)
            else:
                error = error.to(scores.dtype)
                grad_hidden[first : first + size] = torch.mm(error, weight.to(scores.dtype))
                grad_weight += torch.mm(error.t(), x.to(scores.dtype))
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        return (
            (grad_hidden * grad_total).to(hidden_dtype),
            (grad_weight * grad_total).to(weight_dtype),
            None,
            None,
            None,
        )


def _losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per-token losses (0 without a target), log of the softmax's denominator; its numerators and their sums.

    The numerators, exp(logit - the row's largest), take the place of the fp32 `logits`: torch.logsumexp would make
    them too, and throw them away, and exponentials are the dearest thing here next to the products.
    """
    picked = logits.gather(1, targets.clamp(min=0)[:, None].long())[:, 0]
    largest = logits.amax(dim=-1, keepdim=True)
    exponentials = logits.sub_(largest).exp_()
    sums = exponentials.sum(dim=-1)
    log_sum = sums.log() + largest[:, 0]
    return torch.where(targets >= 0, log_sum - picked, 0.0), log_sum, exponentials, sums
