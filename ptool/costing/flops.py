"""Floating-point operations of training, and the utilisation that measured hours imply.

6ND: each parameter of a matrix multiplication costs 2 operations per token forward and 4 backward (Kaplan et al. 2020,
arXiv 2001.08361, section 2.1). Attention's own products and recomputation are left out; at sequence 4k and 70B
parameters attention adds 4 %. "MFU" is used with three conventions (6ND, causal attention, full attention), which
differ by a factor of three at sequence 65k: every figure that ptool prints is 6ND, and says so.
"""

from __future__ import annotations

SECONDS_PER_HOUR = 3600


def training_flops(active_params: float, num_tokens: float) -> float:
    """6ND operations. For a mixture of experts, `active_params` are those that one token passes through."""
    return 6.0 * active_params * num_tokens


def gpu_hours(flops: float, *, peak_flops: float, utilisation: float) -> float:
    """Hours of one GPU with `peak_flops` per second (dense), of which `utilisation` does useful work."""
    return flops / (peak_flops * utilisation * SECONDS_PER_HOUR)


def implied_mfu(flops: float, *, peak_flops: float, hours: float) -> float:
    """The share of the peak that `hours` of GPU time turned into useful operations, losses included."""
    return flops / (peak_flops * hours * SECONDS_PER_HOUR)
