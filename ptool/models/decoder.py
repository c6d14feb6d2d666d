"""The decoder that `train` trains and `eval` reads; its variants are those of `ModelConfig`.

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

from ptool.errors import UsageError
from ptool.models.attention import Attention, Layout, layout
from ptool.models.config import ModelConfig
from ptool.models.execution import Execution, Recomputation
from ptool.models.init import initialise
from ptool.models.loss import cross_entropy_per_token, cross_entropy_sum
from ptool.models.mup import width_ratio
from ptool.models.recompute import run

COMPILE_BACKEND = "inductor"


class Decoder(nn.Module):
    """A causal language model over packed rows.

    Built with the weights of `seed` (see init.py); on the meta device (`with torch.device("meta")`) it has shapes only.
    `execution` says how it is computed, and changes no weight's name.
    """

    def __init__(self, config: ModelConfig, *, seed: int = 0, execution: Execution | None = None) -> None:
        super().__init__()
        self.config = config
        self.execution = execution or Execution()
        self.embedding = Vocabulary(config)
        learned = config.positions == "learned"
        self.position_embedding = nn.Embedding(config.max_seq_len, config.hidden) if learned else None
        self.layers = nn.ModuleList(Layer(config, self.execution.recompute) for _ in range(config.layers))
        # After the last layer of a post-norm decoder the stream has just been normalised.
        self.norm = make_norm(config) if config.norm_position == "pre" else None
        self.head = None if config.tie_embeddings else Vocabulary(config)
        if not self.embedding.weight.is_meta:
            initialise(self, config, seed=seed)
        if self.execution.compile:
            for layer in self.layers:
                layer.compile(backend=COMPILE_BACKEND)

    def forward(
        self, tokens: Tensor, positions: Tensor, segments: Tensor, targets: Tensor, *, per_token: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Loss of a packed batch; the four tensors are integer [rows, S].

        `positions` count from 0 in each segment; attention stays inside a segment; segment -1 is padding; a negative
        target is no target. Returns the summed loss in nats (fp32 scalar) and the number of targets (int64 scalar).
        In training mode the loss holds the z-loss term too; after `eval()` it is the cross-entropy alone. `per_token`:
        `token_losses` in place of the sum, for callers whose hooks stand at this module's call (DeepSpeed's engine).
        """
        if per_token:
            return self.token_losses(tokens, positions, segments, targets), (targets >= 0).sum()
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
        config = self.config
        if self.execution.compile and hasattr(self.embedding.weight, "ds_id"):  # how ZeRO-3 marks what it partitions
            raise UsageError("a compiled model does not work under ZeRO-3", hint="compile = false, or --zero 2")
        if not config.document_mask:
            positions, segments = as_one_text(segments)
        where = layout(config, positions, segments, kernel=self.execution.attention, dtype=self._score_dtype(tokens))
        hidden = self.embedding(tokens)
        if config.embedding_scale != 1.0:
            hidden = hidden * config.embedding_scale
        if self.position_embedding is not None:
            hidden = hidden + self.position_embedding(positions)
        for layer in self.layers:
            hidden = layer(hidden, where)
        if self.norm is not None:
            hidden = self.norm(hidden)
        return hidden if config.mup_base_hidden is None else hidden / width_ratio(config)

    def _score_dtype(self, tokens: Tensor) -> torch.dtype:
        device = tokens.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.embedding.weight.dtype

    def _vocabulary(self) -> Vocabulary:
        return self.embedding if self.head is None else self.head


class Vocabulary(nn.Module):
    """One vector per token id, used to embed ids, to score hidden vectors, or both."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden))
        self.z_loss = config.z_loss

    def forward(self, given: Tensor, targets: Tensor | None = None, *, per_token: bool = False) -> Tensor:
        """Integer ids: their vectors. Hidden vectors alone: logits. With `targets`: the summed or per-token loss."""
        if not given.is_floating_point():
            return F.embedding(given, self.weight)
        if targets is None:
            return F.linear(given, self.weight)
        if per_token:
            return cross_entropy_per_token(given.flatten(0, 1), self.weight, targets.flatten()).view(targets.shape)
        z_loss = self.z_loss if self.training else 0.0
        return cross_entropy_sum(given.flatten(0, 1), self.weight, targets.flatten(), z_loss=z_loss)


class Layer(nn.Module):
    """Attention and a feed-forward block, each with a norm before it or after its sum with the residual stream."""

    def __init__(self, config: ModelConfig, recompute: Recomputation = "none") -> None:
        super().__init__()
        self.recompute: Recomputation = recompute
        self.normalises_first = config.norm_position == "pre"
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = make_norm(config)
        self.feed_forward: nn.Module = (
            GatedFeedForward(config) if config.feed_forward == "swiglu" else FeedForward(config)
        )

    def forward(self, hidden: Tensor, where: Layout) -> Tensor:
        """[rows, S, hidden] to [rows, S, hidden]."""
        return run(self._both, hidden, where, how=self.recompute)

    def _both(self, hidden: Tensor, where: Layout) -> Tensor:
        if self.normalises_first:
            hidden = hidden + self.attention(self.attention_norm(hidden), where)
            return hidden + self.feed_forward(self.feed_forward_norm(hidden))
        hidden = self.attention_norm(hidden + self.attention(hidden, where))
        return self.feed_forward_norm(hidden + self.feed_forward(hidden))


class GatedFeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden, config.ffn_size, bias=False)
        self.up = nn.Linear(config.hidden, config.ffn_size, bias=False)
        self.down = nn.Linear(config.ffn_size, config.hidden, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden] to [..., hidden]."""
        return self.down(F.silu(self.gate(hidden)) * self.up(hidden))


class FeedForward(nn.Module):
    """Two matrices around a GELU: down(gelu(up(x))), in the tanh form of GPT-2 (arXiv:1606.08415)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden, config.ffn_size, bias=False)
        self.down = nn.Linear(config.ffn_size, config.hidden, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden] to [..., hidden]."""
        return self.down(F.gelu(self.up(hidden), approximate="tanh"))


def make_norm(config: ModelConfig) -> nn.Module:
    """The norm over the residual stream."""
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    norm: nn.Module = kind(config.hidden, eps=config.norm_eps)
    return norm


def as_one_text(segments: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and segments of rows read as one text each, as if there were no document boundaries; padding stays."""
    positions = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    return positions, segments.clamp(max=0)
