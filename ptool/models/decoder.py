"""The decoder that `train` trains and `eval` reads: pre-norm RMSNorm, RoPE, SwiGLU, attention within segments.

Its forward pass takes a packed batch (tokens, positions, segments, targets, each [rows, S]) and returns the sum of
the losses and the number of targets, never a mean: rows differ in how many targets they have, so only the caller, who
knows all ranks and accumulation steps, can divide rightly.

Each parameter is used only inside the forward of the module that owns it. ZeRO-3 depends on it: it gathers a
module's parameters when its forward is entered and drops them when it is left. That is why `Vocabulary` embeds tokens
and scores hidden vectors itself: with tied embeddings one module does both jobs with its one weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptool.models.attention import Attention, Layout, layout
from ptool.models.config import ModelConfig
from ptool.models.init import initialise
from ptool.models.loss import cross_entropy_per_token, cross_entropy_sum


class Decoder(nn.Module):
    """A causal language model over packed rows.

    Built with the weights of `seed` (see init.py); on the meta device (`with torch.device("meta")`) it has shapes only.
    """

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = Vocabulary(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden, eps=config.norm_eps)
        self.head = None if config.tie_embeddings else Vocabulary(config)
        if not self.norm.weight.is_meta:
            initialise(self, config, seed=seed)

    def forward(self, tokens: Tensor, positions: Tensor, segments: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of a packed batch; all four arguments are integer [rows, S].

        `positions` count from 0 in each segment; attention stays inside a segment; segment -1 is padding; a negative
        target is no target. Returns the summed loss in nats (fp32 scalar) and the number of targets (int64 scalar).
        """
        loss_sum: Tensor = self._vocabulary()(self._hidden(tokens, positions, segments), targets)
        return loss_sum, (targets >= 0).sum()

    @torch.no_grad()
    def token_losses(self, tokens: Tensor, positions: Tensor, segments: Tensor, targets: Tensor) -> Tensor:
        """The loss of each target in nats, fp32 [rows, S], 0 where there is none; arguments as for `forward`."""
        losses: Tensor = self._vocabulary()(self._hidden(tokens, positions, segments), targets, per_token=True)
        return losses

    def logits(self, tokens: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        """All logits, [rows, S, vocabulary]: for small inputs only; arguments as for `forward`."""
        scores: Tensor = self._vocabulary()(self._hidden(tokens, positions, segments))
        return scores

    def _hidden(self, tokens: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        where = layout(self.config, positions, segments)
        hidden = self.embedding(tokens)
        for layer in self.layers:
            hidden = layer(hidden, where)
        return self.norm(hidden)

    def _vocabulary(self) -> Vocabulary:
        return self.embedding if self.head is None else self.head


class Vocabulary(nn.Module):
    """One vector per token id, used to embed ids, to score hidden vectors, or both."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden))

    def forward(self, given: Tensor, targets: Tensor | None = None, *, per_token: bool = False) -> Tensor:
        """Integer ids: their vectors. Hidden vectors alone: logits. With `targets`: the summed or per-token loss."""
        if not given.is_floating_point():
            return F.embedding(given, self.weight)
        if targets is None:
            return F.linear(given, self.weight)
        if per_token:
            return cross_entropy_per_token(given.flatten(0, 1), self.weight, targets.flatten()).view(targets.shape)
        return cross_entropy_sum(given.flatten(0, 1), self.weight, targets.flatten())


class Layer(nn.Module):
    """Attention and a SwiGLU block, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden, eps=config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.hidden, eps=config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: Tensor, where: Layout) -> Tensor:
        """[rows, S, hidden] to [rows, S, hidden]."""
        hidden = hidden + self.attention(self.attention_norm(hidden), where)
        return hidden + self.feed_forward(self.feed_forward_norm(hidden))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden, config.ffn_size, bias=False)
        self.up = nn.Linear(config.hidden, config.ffn_size, bias=False)
        self.down = nn.Linear(config.ffn_size, config.hidden, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden] to [..., hidden]."""
        return self.down(F.silu(self.gate(hidden)) * self.up(hidden))
