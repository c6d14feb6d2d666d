"""How long one optimiser step takes in one layout: products, what is sent and not hidden, and the pipeline's bubble.

    collectives   ring: all-gather = reduce-scatter = (n-1) (alpha + S / (n B)), all-reduce twice that
    tensor        4 all-reduces of 2sbh bytes a layer and micro-batch (2 forward, 2 backward), 6 where everything is
                  recomputed; nothing hides them, so they stay inside the node
    pipeline      2sbh/t bytes a boundary and direction; hidden behind other micro-batches but for the first
    data          reduce-scatter of gradients and all-gather of weights once a step (ZeRO-0, 1), gradients every
                  micro-batch (ZeRO-2), weights twice a micro-batch (ZeRO-3); hidden behind the backward pass but for
                  the last bucket
    expert        4 all-to-alls of 2sbh bytes per chosen expert a layer and micro-batch
    bubble        (p-1) / m of the work, with m micro-batches

It ranks layouts; it does not promise a speed. The products' rate is one constant, set so that Megatron-LM's 175B on
H100s comes out near its published 47 %. Not here: congestion, stragglers, a shared network.
"""

from __future__ import annotations

from typing import NamedTuple

from ptool.costing.flops import count_flops
from ptool.costing.memory import Layout, Setting, state_bytes
from ptool.costing.shapes import Shape
from ptool.costing.tables import Gpu

ALPHA = 10e-6  # seconds to start one message (judgement; NCCL over NVLink and InfiniBand take 5 to 20 us)
LINK_EFFICIENCY = 0.8  # of a link's rated bytes per second, large messages (nccl-tests on DGX: 0.75 to 0.9)
KERNELS = 0.52  # of the dense peak, where the best matrix product is not known; else 0.65 of that (judgement)
_LAST_BUCKET = 0.05  # of data-parallel traffic, with nothing left to hide behind


class Cluster(NamedTuple):
    """What the GPUs are and how they are joined; bytes per second one way."""

    gpu: Gpu
    gpus: int
    gpus_per_node: int
    link: float
    network: float

    @property
    def rate(self) -> float:
        """Operations per second that products reach on one GPU."""
        return self.gpu.peak_flops * (0.65 * self.gpu.achievable if self.gpu.achievable else KERNELS)


class StepTime(NamedTuple):
    """Seconds of one step on every GPU. `mfu`: 6ND per second over the peak of the GPUs at work."""

    compute: float
    bubble: float
    tensor: float
    pipeline: float
    data: float  # not hidden
    expert: float
    bubble_share: float
    tokens_per_second: float
    mfu: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.compute + self.bubble + self.communication

    @property
    def communication(self) -> float:
        """Seconds of sending that nothing hides."""
        return self.tensor + self.pipeline + self.data + self.expert


def all_gather(size: float, ranks: int, bandwidth: float) -> float:
    """Seconds for `size` bytes in all to reach every rank; a reduce-scatter takes as long."""
    if ranks < 2:
        return 0.0
    return (ranks - 1) * (ALPHA + size / (ranks * bandwidth * LINK_EFFICIENCY))


def step_time(shape: Shape, layout: Layout, setting: Setting, cluster: Cluster, rows: int) -> StepTime:
    """One step of `rows` rows. The layout must divide them."""
    t, p, d = layout.tensor, layout.pipeline, layout.data
    micro_batches = rows // (d * setting.micro_rows)
    tokens = rows * setting.seq_len
    counted = count_flops(shape, tokens, mean_span=setting.seq_len, recompute=setting.recompute)
    compute = (counted.by("causal") + counted.recompute) / (layout.gpus * cluster.rate)
    bubble_share = (p - 1) / (micro_batches * layout.interleave)
    layers = shape.layers / p
    message = 2.0 * setting.seq_len * setting.micro_rows * shape.hidden
    reduces = 6 if setting.recompute == "full" else 4
    tensor = reduces * layers * micro_batches * 2 * all_gather(message, t, cluster.link)
    stages_apart = cluster.network if t * p > cluster.gpus_per_node else cluster.link
    pipeline = 2 * (p - 1) * (ALPHA + message / t / (stages_apart * LINK_EFFICIENCY)) if p > 1 else 0.0
    experts = 0.0
    if layout.expert > 1:
        chosen = message * shape.active_experts * (layout.expert - 1) / layout.expert
        apart = cluster.network if t * layout.expert > cluster.gpus_per_node else cluster.link
        experts = 4 * shape.mixture_layers / p * micro_batches * (ALPHA + chosen / (apart * LINK_EFFICIENCY))
    data = _exposed(shape, layout, setting, cluster, micro_batches, compute)
    bubble = compute * bubble_share
    total = compute + bubble + tensor + pipeline + data + experts
    speed = tokens / total
    mfu = 6 * shape.num_parameters(active=True) * speed / (layout.gpus * cluster.gpu.peak_flops)
    return StepTime(compute, bubble, tensor, pipeline, data, experts, bubble_share, speed, mfu)


def _exposed(
    shape: Shape, layout: Layout, setting: Setting, cluster: Cluster, micro_batches: int, compute: float
) -> float:
    """Data-parallel seconds that the backward pass does not hide."""
    d = layout.data
    if d < 2:
        return 0.0
    unsharded = layout._replace(zero=0, data=1)
    weights, gradients, _ = state_bytes(shape.num_parameters(), unsharded, setting)
    # Ranks of one group in the same node first reduce among themselves, so that each sends its share alone.
    local = max(1, min(d, cluster.gpus_per_node // (layout.tensor * layout.pipeline)))
    inside = local == d
    bandwidth = cluster.link if inside else min(cluster.link, cluster.network * local)
    gather, scatter = all_gather(weights, d, bandwidth), all_gather(gradients, d, bandwidth)
    one_backward = compute / micro_batches * 2 / 3
    if layout.zero == 3:
        sent, behind = 2 * gather * micro_batches + scatter * micro_batches, compute
    elif layout.zero == 2:
        sent, behind = gather + scatter * micro_batches, compute * 2 / 3
    else:
        sent, behind = gather + scatter, one_backward
    return max(_LAST_BUCKET * sent, sent - behind)
