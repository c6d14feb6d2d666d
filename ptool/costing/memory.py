"""Bytes on one GPU: weights, gradients, optimiser, activations, logits, buffers, and what the driver takes.

    states        per parameter w + g + o: bf16 2 + 2 + 12 (fp32 master, two moments) = 16; 18 with fp32 gradients
                  (Megatron); fp32 4 + 4 + 8 = 16. ZeRO-1 divides o, ZeRO-2 g and o, ZeRO-3 all by the data ranks
                  (Rajbhandari et al. 2020, arXiv 1910.02054, section 5)
    activations   Korthikanti et al. 2022 (arXiv 2205.05198): s*b*h*(34 + 5*a*s/h) a layer for a GPT block, without the
                  5as/h for flash attention or selective recomputation, 2sbh for full recomputation plus one live layer;
                  SwiGLU blocks by the same count over their own tensors
    pipeline      the first stage holds min(m, p) micro-batches of its layers, so as much as without a pipeline
    logits        10 bytes each where the loss is plain (bf16, fp32 and gradient), a constant where it is chunked

The first stage (embedding, most activations) and the last (head, logits) are both computed; the larger one counts.
`--engine deepspeed` is ptool's own engine on DeepSpeed 0.19, with the copies that it makes: see deepspeed.py.
Fragmentation is the reserve that `usable_bytes` keeps, not a term.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ptool.costing.deepspeed import engine_states
from ptool.costing.flops import Recompute
from ptool.costing.shapes import Shape

Precision = Literal["bf16", "fp8", "fp32"]
Engine = Literal["megatron", "deepspeed"]
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp8", "fp32")
ENGINES: tuple[Engine, ...] = ("megatron", "deepspeed")

USABLE = 0.92  # of the capacity: fragmentation takes 3 to 8 % (judgement; ml-engineering, performance)
CUDA_CONTEXT = 2**30  # 0.5 to 2 GiB by driver and libraries (ml-engineering, performance)
NCCL = 3 * 2**29  # 1.5 GiB at the first barrier (measured there)
_CHUNKED_LOGITS = 2 * 4 * 2**23  # models/loss.py: 2^23 logits in fp32 and as much for their softmax


class Layout(NamedTuple):
    """How a model is spread. `data` counts ranks of data parallelism, `expert` divides among them."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    zero: int = 0
    sequence_parallel: bool = True
    interleave: int = 1

    @property
    def gpus(self) -> int:
        """GPUs at work."""
        return self.tensor * self.pipeline * self.data


class Setting(NamedTuple):
    """What else decides the bytes."""

    precision: Precision = "bf16"
    engine: Engine = "megatron"
    fp32_gradients: bool = False
    recompute: Recompute = "none"
    flash: bool = True
    chunked_loss: bool = False
    seq_len: int = 4096
    micro_rows: int = 1
    micro_batches: int = 10**9  # of one rank in one step: a pipeline with few holds few

    @property
    def bytes_per_state(self) -> tuple[int, int, int]:
        """Bytes per parameter of weights, gradients and optimiser."""
        if self.precision == "fp32":
            return 4, 4, 8
        return 2, 4 if self.fp32_gradients else 2, 12  # fp8 keeps bf16 weights beside the fp8 operands


class Memory(NamedTuple):
    """Bytes of the most loaded GPU, by use."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    fixed: int

    @property
    def states(self) -> int:
        """Weights, gradients and optimiser."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def state_bytes(params: float, layout: Layout, setting: Setting) -> tuple[float, float, float]:
    """Weights, gradients and optimiser of one GPU, for `params` parameters spread evenly.

    ZeRO-0: w + g + o, 1: w + g + o/d, 2: w + (g+o)/d, 3: (w+g+o)/d, over P / (t*p). With a pipeline ZeRO-2 keeps all
    gradients until the step ends, so it counts as ZeRO-1.
    """
    own = params / (layout.tensor * layout.pipeline)
    w, g, o = setting.bytes_per_state
    d = layout.data
    zero = 1 if layout.zero == 2 and layout.pipeline > 1 else layout.zero
    return own * w / (d if zero >= 3 else 1), own * g / (d if zero >= 2 else 1), own * o / (d if zero >= 1 else 1)


def layer_activations(shape: Shape, layout: Layout, setting: Setting) -> float:
    """Bytes that one layer keeps for its backward pass, for one micro-batch, on one GPU of a tensor group."""
    s, b, t = setting.seq_len, setting.micro_rows, layout.tensor
    h, a = shape.hidden, shape.heads
    split = t if layout.sequence_parallel else 1  # what tensor parallelism alone leaves whole on every GPU
    if setting.recompute == "full":
        return 2.0 * s * b * h / split * _width(setting)
    scores = 0.0 if setting.flash or setting.recompute == "selective" else 5.0 * a * s * s * b / t
    if not shape.gated:  # Korthikanti's 34 with the feed-forward width left open: 10 outside, 8 + 4 f/h inside
        whole, inside = 10.0 * h, 8.0 * h + 4.0 * shape.ffn_hidden
    else:
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        whole = 8.0 * h  # inputs and outputs of two norms
        if setting.engine == "deepspeed" and setting.precision == "fp32":
            whole += 4.0 * h  # ptool's fp32 runs are on CPUs, whose norms are not fused: what they scaled is kept too
        widths = [shape.ffn_hidden] * (shape.layers - shape.mixture_layers)
        mixed = shape.active_experts * shape.expert_hidden + shape.shared_hidden
        widths += [mixed] * shape.mixture_layers
        inside = 4.0 * queries + 4.0 * keys + 8.0 * sum(widths) / len(widths)
        inside += 4.0 * a if setting.flash else 0.0  # the softmax denominators of flash attention
    return (s * b * (whole / split + inside / t) + scores) * _width(setting)


def estimate_memory(shape: Shape, layout: Layout, setting: Setting, *, num_params: int | None = None) -> Memory:
    """The most loaded GPU. `num_params` replaces the shape's own count where the caller knows better."""
    stages = [_stage(shape, layout, setting, first=True)]
    if layout.pipeline > 1:
        stages.append(_stage(shape, layout, setting, first=False))
    largest = max(stages, key=lambda memory: memory.total)
    if num_params and num_params != shape.num_parameters():
        scale = num_params / shape.num_parameters()
        largest = largest._replace(
            **{name: round(getattr(largest, name) * scale) for name in ("weights", "gradients", "optimizer")}
        )
    return largest


def usable_bytes(capacity: int) -> int:
    """What a run can count on."""
    return int(capacity * USABLE)


def _stage(shape: Shape, layout: Layout, setting: Setting, *, first: bool) -> Memory:
    t, p, d = layout.tensor, layout.pipeline, layout.data
    layers = -(-shape.layers // p)
    ends_here = p == 1
    tables = shape.embedding_parameters()
    own = shape.layer_parameters() * layers / shape.layers
    experts = shape.expert_parameters() * layers / shape.layers
    num_tables = (1 if shape.tie_embeddings else 2) if ends_here else 1
    dense = own - experts + num_tables * tables + (shape.hidden * shape.norm_vectors if ends_here or not first else 0)
    if setting.engine == "deepspeed" and t == p == layout.expert == 1 and not experts:
        states = engine_states(shape, zero=layout.zero, ranks=d, precision=setting.precision)
        weights, gradients, optimizer, buffers = states
    else:
        weights, gradients, optimizer = _sharded(dense, experts, layout, setting)
        buffers = _gathered(shape, layout, setting)
    held = 1 if ends_here else min(setting.micro_batches, p if first else 1)
    interleaved = 1 + (p - 1) / (p * layout.interleave) if layout.interleave > 1 and first else 1.0
    per_layer = layer_activations(shape, layout, setting)
    activations = per_layer * layers * held * interleaved
    if setting.recompute == "full":  # the layer that is being recomputed is there in full
        activations += layer_activations(shape, layout, setting._replace(recompute="none"))
    has_head = ends_here or not first
    return Memory(
        round(weights),
        round(gradients),
        round(optimizer),
        round(activations),
        round(_logits(shape, layout, setting)) if has_head else 0,
        round(buffers),
        CUDA_CONTEXT + (NCCL if layout.gpus > 1 else 0),
    )


def _sharded(dense: float, experts: float, layout: Layout, setting: Setting) -> tuple[float, ...]:
    """Experts shard over their own ranks, and their optimiser over the data ranks that hold the same expert."""
    stage = layout._replace(pipeline=1)
    if layout.pipeline > 1 and layout.zero == 2:
        stage = stage._replace(zero=1)
    even = state_bytes(dense, stage, setting)
    apart = state_bytes(experts / layout.expert, stage._replace(data=max(1, layout.data // layout.expert)), setting)
    return tuple(left + right for left, right in zip(even, apart, strict=True))


def _gathered(shape: Shape, layout: Layout, setting: Setting) -> float:
    """ZeRO-3 holds the layer at work and the one being fetched."""
    if layout.zero < 3:
        return 0.0
    dense = (shape.layer_parameters() - shape.expert_parameters()) / shape.layers
    layer = dense + shape.expert_parameters() / max(1, shape.layers) / layout.expert
    unit = max(layer, float(shape.embedding_parameters()))
    return 2 * unit * setting.bytes_per_state[0] / layout.tensor


def _logits(shape: Shape, layout: Layout, setting: Setting) -> float:
    if setting.chunked_loss:
        return float(_CHUNKED_LOGITS + 4 * shape.embedding_parameters() / layout.tensor)
    per_logit = 12 if setting.precision == "fp32" else 10  # the scores, their fp32 copy, their gradient
    return float(per_logit) * setting.seq_len * setting.micro_rows * shape.vocab_size / layout.tensor


def _width(setting: Setting) -> float:
    return 2.0 if setting.precision == "fp32" else 1.0
