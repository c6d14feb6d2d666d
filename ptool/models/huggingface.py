"""A decoder's shape and names as Hugging Face Llama folders write them, and back. Torch-free.

The plain decoder is a Llama: pre-norm RMSNorm, rotary positions in the same order of pairs, SwiGLU, no biases. Names
differ, weights do not. With `qk_norm` it is a Qwen 3. `transformers`, vLLM and llama.cpp load both.

Read are `llama`, `mistral` (without a sliding window) and `qwen3`. What the decoder does not compute is refused by
name: scaled rotary positions (Llama 3.1 and later), biases, other activations, heads that do not divide the width.
Of variants, those that only multiply (embedding scale, muP) are folded into weights by `fold_factors`; LayerNorm,
post-norm, learned positions and GELU have no Llama to be written as.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from ptool.errors import InputError, UsageError
from ptool.models.config import ModelConfig
from ptool.models.mup import attention_scale, width_ratio

Dtype = Literal["float32", "bfloat16", "float16"]

_LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
_QK_NORMS = ("attention.query_norm", "attention.key_norm")

_FIELDS = {
    "vocab_size": "vocab_size",
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn_hidden": "intermediate_size",
    "max_seq_len": "max_position_embeddings",
}
_KINDS = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def names(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """(our name, their name) of every weight, in the order of the layers."""
    yield "embedding.weight", "model.embed_tokens.weight"
    for layer in range(config.layers):
        for ours, theirs in _LAYER_NAMES.items():
            if config.qk_norm or ours not in _QK_NORMS:
                yield f"layers.{layer}.{ours}.weight", f"model.layers.{layer}.{theirs}.weight"
    yield "norm.weight", "model.norm.weight"
    if not config.tie_embeddings:
        yield "head.weight", "lm_head.weight"


def config_json(config: ModelConfig, *, eos_id: int | None, dtype: Dtype) -> dict[str, Any]:
    """The `config.json` of a decoder. Raises UsageError for a variant that no Llama has.

    `eos_id`, the end-of-document token, is named as the beginning too: rows begin with it, so prompts should.
    """
    _refuse_foreign_variants(config)
    kind = "qwen3" if config.qk_norm else "llama"
    return {
        "architectures": [_KINDS[kind]],
        "model_type": kind,
        **{theirs: config.as_table()[ours] for ours, theirs in _FIELDS.items()},
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,  # transformers 4; 5 reads the next one
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
        "pad_token_id": None,
        "use_cache": True,
        "torch_dtype": dtype,
    }


def fold_factors(config: ModelConfig) -> dict[str, float]:
    """What weights are multiplied by, by our names, so that a Llama computes what the decoder computes.

    An embedding scale s goes into the embedding; where the head is the same matrix, 1/s into the last norm's gains,
    and muP's division of the logits too. muP's score scale goes into the queries, or their norm's gains.
    """
    scale = config.embedding_scale
    score = attention_scale(config)
    factors = {
        "embedding.weight": scale,
        "norm.weight": 1 / width_ratio(config) / (scale if config.tie_embeddings else 1.0),
    }
    query = "query_norm" if config.qk_norm else "query"
    for layer in range(config.layers):
        name = f"layers.{layer}.attention.{query}.weight"
        factors[name] = 1.0 if score is None else score * math.sqrt(config.head_dim)
    return {name: factor for name, factor in factors.items() if factor != 1.0}


def read_config(table: Mapping[str, Any], *, where: str) -> ModelConfig:
    """The shape in a `config.json`. Raises InputError for another architecture, or a Llama with parts we lack."""
    kind = table.get("model_type")
    if kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise InputError(f"a model of type {kind}, which is not read", where=where, hint=f"read are: {known}")
    missing = [theirs for theirs in _FIELDS.values() if not isinstance(table.get(theirs), int)]
    if missing:
        raise InputError(f"the configuration lacks {', '.join(missing)}", where=where)
    problem = _foreign_part(table)
    if problem is not None:
        raise InputError(f"the model has {problem}, which this decoder does not compute", where=where)
    heads = table["num_attention_heads"]
    try:
        return ModelConfig.from_table(
            {
                **{ours: table[theirs] for ours, theirs in _FIELDS.items()},
                "kv_heads": table.get("num_key_value_heads") or heads,
                "norm_eps": float(table.get("rms_norm_eps", 1e-6)),
                "rope_theta": _rope_theta(table),
                "tie_embeddings": bool(table.get("tie_word_embeddings", False)),
                "init_std": float(table.get("initializer_range", 0.02)),
                "qk_norm": kind == "qwen3",
            }
        )
    except (UsageError, TypeError, ValueError) as error:
        raise InputError(f"the configuration does not fit together: {error}", where=where) from error


def _rope(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rotary settings in every spelling that is there: transformers 5, 4, and 4 before."""
    found = [value for key in ("rope_parameters", "rope_scaling") if isinstance(value := table.get(key), dict)]
    return [
        *found,
        {"rope_theta": table.get("rope_theta"), "partial_rotary_factor": table.get("partial_rotary_factor")},
    ]


def _rope_theta(table: Mapping[str, Any]) -> float:
    return next((float(rope["rope_theta"]) for rope in _rope(table) if rope.get("rope_theta")), 10_000.0)


def _foreign_part(table: Mapping[str, Any]) -> str | None:
    size = table.get("head_dim") or 0
    for rope in _rope(table):
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in (None, "default"):
            return f"rotary positions scaled by {kind}"
        if rope.get("partial_rotary_factor") not in (None, 1.0):
            return "rotary positions on a part of each head"
    if table.get("hidden_act", "silu") not in ("silu", "swish"):
        return f"the activation {table['hidden_act']}"
    for key, name in (("attention_bias", "biases in attention"), ("mlp_bias", "biases in the feed-forward block")):
        if table.get(key):
            return name
    if size and size * table["num_attention_heads"] != table["hidden_size"]:
        return f"heads of {size} numbers, which do not divide the width evenly"
    window = table.get("sliding_window")
    if window and table["model_type"] != "llama" and table.get("use_sliding_window", True):
        return f"a sliding window of {window} tokens"
    if table.get("quantization_config"):
        return "quantised weights"
    return None


def _refuse_foreign_variants(config: ModelConfig) -> None:
    plain = {"norm": "rms", "norm_position": "pre", "positions": "rope", "feed_forward": "swiglu"}
    for field, needed in plain.items():
        value = getattr(config, field)
        if value != needed:
            raise UsageError(
                f'no Hugging Face Llama has {field} = "{value}"',
                hint=f'only models with {field} = "{needed}" can be exported; ptool eval reads this one',
            )
