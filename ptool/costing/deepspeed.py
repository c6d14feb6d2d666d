"""What ptool's engine holds on DeepSpeed 0.19, per rank, when the optimiser is about to step.

Found by listing the live tensors of real runs (tests/soak/memory.py does it again, 2 and 4 ranks, every stage). Per
parameter, with d ranks; parameters form two groups, one with weight decay (layers, head) and one without (embedding,
norms), and the optimiser steps through them in turn:

    fp32  stage 0      16
          stages 1, 2   4 + 12/d, plus the gradients of every parameter that a rank's part touches, whole (a table that
                        lies across four ranks is held by all four), plus the first group's part once more, flattened
          stage 3      20/d, plus one bucket of at most 5e8 elements, plus the first group's part flattened
    bf16  stage 0      16 (autocast over fp32 states)
          stage 1       8 + 12/d: bf16 weights and gradients, whole fp32 gradients
          stage 2       2 + 16/d
          stage 3      18/d, a bucket, and the first group's part flattened

Buckets that stages 1 and 2 fill during the backward pass are gone by then, and are counted against activations, which
are gone too: `buffers` holds what is live beside them. Not here: offload, quantised gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

from ptool.costing.shapes import Shape

MAX_BUCKET_ELEMENTS = 500_000_000  # training/engine.py: DeepSpeed's own default, or the model's size if smaller


def parameter_groups(shape: Shape) -> tuple[list[int], list[int]]:
    """Sizes of the parameters with and without weight decay, in the order of `optimizers/groups.py`."""
    matrices = shape.layer_matrices() * shape.layers
    if not shape.tie_embeddings:
        matrices.append(shape.embedding_parameters())
    norms = [shape.hidden] * (2 * shape.layers + 1)
    return matrices, [shape.embedding_parameters(), *norms]


def engine_states(shape: Shape, *, zero: int, ranks: int, precision: str) -> tuple[float, float, float, float]:
    """Bytes of weights, gradients, optimiser and buffers on the most loaded rank."""
    params, d = float(shape.num_parameters()), ranks
    groups = parameter_groups(shape)
    flattened = 4.0 * sum(groups[0]) / d
    bucket = min(params, MAX_BUCKET_ELEMENTS)
    if zero == 0:
        return 4 * params, 4 * params, 8 * params, 0.0
    if precision == "fp32":
        if zero < 3:
            return 4 * params, 4.0 * held_elements(groups, d), 12 * params / d, flattened
        return 4 * params / d, 4 * params / d, 12 * params / d, 4 * bucket + flattened
    if zero == 1:
        return 2 * params, 6 * params, 12 * params / d, 0.0
    if zero == 2:
        return 2 * params, 4 * params / d, 12 * params / d, 0.0
    return 2 * params / d, 4 * params / d, 12 * params / d, 2 * bucket + flattened


def held_elements(groups: Sequence[Sequence[int]], ranks: int) -> int:
    """Elements of all parameters that one rank's part touches, on the rank where they are most.

    Each group is laid out flat and cut into `ranks` equal parts; a parameter at a cut is held by both sides, whole.
    """
    totals = [0] * ranks
    for group in groups:
        part = -(-sum(group) // ranks)
        start = 0
        for size in group:
            for rank in range(start // part, min(ranks - 1, (start + size - 1) // part) + 1):
                totals[rank] += size
            start += size
    return max(totals)
