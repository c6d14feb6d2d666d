"""Floating-point operations of training, by parts, and the utilisation that measured hours imply.

6ND: each parameter of a matrix multiplication costs 2 operations per token forward and 4 backward (Kaplan et al. 2020,
arXiv 2001.08361, section 2.1). It needs no shape. With a shape the count is exact:

    linear      6 * (active matrices + output head) per token; an embedding is looked up, not multiplied
    attention   12 * layers * width * s per token over a whole square of s * s scores, half of it where causal
    recompute   the forward pass once more (full), or only its attention part (selective)

"MFU" is used with three conventions, 6ND, causal and full attention, which differ by a factor of three at sequence 65k.
Every figure that ptool prints names its own. Attention stops at the end of a document where rows are packed so: `s` is
then the sum of squared document lengths over the sum of lengths, which `pack` writes into its manifest.

Not counted: norms, activations, softmax, the optimiser: under 1 % from 1B parameters on.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ptool.costing.shapes import Shape

SECONDS_PER_HOUR = 3600

Convention = Literal["6nd", "causal", "full"]
Recompute = Literal["none", "selective", "full"]
CONVENTIONS: tuple[Convention, ...] = ("6nd", "causal", "full")
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")


class Flops(NamedTuple):
    """Operations of a whole training run. `attention_full` counts the masked half too; `recompute` is extra work."""

    linear: float
    attention: float
    attention_full: float
    recompute: float
    mean_span: float  # tokens that a token's scores run over, before the causal half is taken

    def by(self, convention: Convention) -> float:
        """Model operations as this convention counts them; "6nd" is not one of these parts: see `training_flops`."""
        return self.linear + (self.attention_full if convention == "full" else self.attention)


def training_flops(active_params: float, num_tokens: float) -> float:
    """6ND operations. For a mixture of experts, `active_params` are those that one token passes through."""
    return 6.0 * active_params * num_tokens


def count_flops(shape: Shape, num_tokens: float, *, mean_span: float, recompute: Recompute = "none") -> Flops:
    """The exact count for a shape. `mean_span`: row length, or sum of squared lengths over sum of lengths if packed.

    llm-foundry's table is reproduced with full attention, Megatron-LM counts the causal half.
    """
    linear = 6.0 * shape.matmul_parameters() * num_tokens
    square = 12.0 * shape.layers * shape.attention_width * mean_span * num_tokens
    extra = {"none": 0.0, "selective": square / 2 / 3, "full": (linear + square / 2) / 3}[recompute]
    return Flops(linear, square / 2, square, extra, mean_span)


def gpu_hours(flops: float, *, peak_flops: float, utilisation: float) -> float:
    """Hours of one GPU with `peak_flops` per second (dense), of which `utilisation` does useful work."""
    return flops / (peak_flops * utilisation * SECONDS_PER_HOUR)


def implied_mfu(flops: float, *, peak_flops: float, hours: float) -> float:
    """The share of the peak that `hours` of GPU time turned into useful operations, losses included."""
    return flops / (peak_flops * hours * SECONDS_PER_HOUR)
