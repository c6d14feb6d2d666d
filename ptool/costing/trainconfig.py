"""A layout as settings of `ptool train`, where train can run it: data parallel, a dense decoder.

Its engine is DeepSpeed with its own copies and a loss in chunks, so the fit is checked again by that count. Launched by
torchrun or srun every process is one rank; `parallel.ranks` is what it expects to find.
"""

from __future__ import annotations

from typing import NamedTuple

from ptool.costing.layouts import Candidate, Wanted
from ptool.costing.memory import estimate_memory, usable_bytes
from ptool.costing.shapes import Shape
from ptool.units import format_bytes


class TrainConfig(NamedTuple):
    """The text of a TOML file, or None and why not."""

    text: str | None
    reason: str


def train_config(wanted: Wanted, candidate: Candidate, *, size: str | None = None) -> TrainConfig:
    """Settings for `ptool train --config`; `size` names the model where it is one of the table."""
    layout, setting, shape = candidate.layout, candidate.setting, wanted.shape
    if layout.tensor > 1 or layout.pipeline > 1 or layout.expert > 1:
        return TrainConfig(None, "ptool train has no tensor, pipeline or expert parallelism: Megatron-LM has")
    if setting.precision == "fp8":
        return TrainConfig(None, "ptool train has no fp8")
    if not _is_ours(shape):
        return TrainConfig(None, "ptool train builds dense decoders with RMSNorm and SwiGLU only")
    own = setting._replace(engine="deepspeed", chunked_loss=True, fp32_gradients=False)
    usable = usable_bytes(wanted.cluster.gpu.memory_bytes)
    needed = estimate_memory(shape, layout, own).total
    if needed > usable:
        text = f"with the copies of ptool's engine it takes {format_bytes(needed)} of {format_bytes(usable)}"
        return TrainConfig(None, f"{text}: --engine deepspeed plans for it")
    batch = candidate.rows * setting.seq_len
    lines = [
        f"# ptool plan: {layout.gpus} GPUs, ZeRO-{layout.zero}, {candidate.rows} rows of {setting.seq_len} a step",
        "[model]",
        *_model(shape, size),
        "",
        "[batch]",
        f"tokens = {batch}",
        f"micro_rows = {setting.micro_rows}",
        "",
        "[parallel]",
        f"zero = {layout.zero}",
        f"ranks = {layout.gpus}",
        'device = "cuda"',
        f'precision = "{setting.precision}"',
    ]
    if setting.recompute != "none":
        lines += ["", "[execution]", f'recompute = "{setting.recompute}"']
    return TrainConfig("\n".join(lines) + "\n", f"fits: {format_bytes(needed)} of {format_bytes(usable)}")


def _is_ours(shape: Shape) -> bool:
    plain = (shape.attention_bias, shape.ffn_bias, shape.query_key_norms, shape.learned_positions, shape.experts)
    own_width = shape.head_dim * shape.heads == shape.hidden and shape.norm_vectors == 1 and shape.latent is None
    return shape.gated and own_width and not any(plain)


def _model(shape: Shape, size: str | None) -> list[str]:
    """The vocabulary is left out: train takes the data's."""
    if size:
        return [f'size = "{size.lower()}"']
    return [
        f"layers = {shape.layers}",
        f"hidden = {shape.hidden}",
        f"heads = {shape.heads}",
        f"kv_heads = {shape.kv_heads}",
        f"ffn_hidden = {shape.ffn_hidden}",
        f"tie_embeddings = {'true' if shape.tie_embeddings else 'false'}",
    ]
