"""A model's shape from a file: `[model]` of a ptool TOML, the same as JSON, or a Hugging Face `config.json`.

Families differ in key names, in biases and in what a mixture's widths are called. Known ones are counted to the last
parameter; a file of another family that has Llama's keys is counted like Llama, and a warning says so.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ptool.costing.shapes import Latent, Shape, from_table
from ptool.errors import InputError, UsageError

Table = dict[str, Any]


class Read(NamedTuple):
    """A shape and what is uncertain about it (None: nothing)."""

    shape: Shape
    doubt: str | None


def read_config(path: Path) -> Read:
    """The shape in a file. Raises InputError for a file that cannot be read, UsageError for one without a shape."""
    where = str(path)
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" or text.lstrip().startswith("{") else tomllib.loads(text)
    except OSError as error:
        raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", where=where) from error
    except (UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"neither JSON nor TOML: {error}", where=where) from error
    if not isinstance(table, dict):
        raise UsageError("a table of keys is needed", where=where)
    if isinstance(table.get("model"), dict):
        return Read(from_table(table["model"], where=where), None)
    if isinstance(table.get("text_config"), dict):  # a multimodal model: its decoder
        table = {**table["text_config"], "architectures": table.get("architectures")}
    if {"hidden_size", "n_embd"} & table.keys():
        try:
            return _hugging_face(table)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            message = f"not a Hugging Face decoder's configuration: {type(error).__name__} {error}"
            raise UsageError(message, where=where, hint="give --arch layers=,hidden=,heads=,...") from error
    return Read(from_table(table, where=where), None)


def _hugging_face(table: Table) -> Read:
    family = str(table.get("model_type", ""))
    reader = _FAMILIES.get(family)
    doubt = None
    if reader is None:
        reader = _llama
        doubt = f"model_type {family!r} is not known: counted like Llama, without special parts"
    return Read(reader(table), doubt)


def _llama(table: Table) -> Shape:
    heads, hidden = int(table["num_attention_heads"]), int(table["hidden_size"])
    head_dim = int(table.get("head_dim") or hidden // heads)
    return Shape(
        vocab_size=int(table["vocab_size"]),
        layers=int(table["num_hidden_layers"]),
        hidden=hidden,
        heads=heads,
        kv_heads=int(table.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        ffn_hidden=int(table["intermediate_size"]),
        max_seq_len=int(table.get("max_position_embeddings") or 4096),
        tie_embeddings=bool(table.get("tie_word_embeddings", False)),
        attention_bias=4 if table.get("attention_bias") else 0,
        ffn_bias=bool(table.get("mlp_bias", False)),
    )


def _qwen2(table: Table) -> Shape:
    return _llama(table)._replace(attention_bias=3)


def _qwen3(table: Table) -> Shape:
    shape = _llama(table)
    return shape._replace(query_key_norms=2 * shape.head_dim)


def _mixtral(table: Table) -> Shape:
    shape = _llama(table)
    return shape._replace(
        experts=int(table["num_local_experts"]),
        active_experts=int(table["num_experts_per_tok"]),
        expert_hidden=shape.ffn_hidden,
    )


def _qwen3_moe(table: Table) -> Shape:
    return _qwen3(table)._replace(
        experts=int(table["num_experts"]),
        active_experts=int(table["num_experts_per_tok"]),
        expert_hidden=int(table["moe_intermediate_size"]),
        dense_layers=len(table.get("mlp_only_layers") or ()),
    )


def _olmoe(table: Table) -> Shape:
    """OLMoE norms whole queries and keys, not heads."""
    shape = _llama(table)
    return shape._replace(
        query_key_norms=shape.head_dim * (shape.heads + shape.kv_heads),
        experts=int(table["num_experts"]),
        active_experts=int(table["num_experts_per_tok"]),
        expert_hidden=shape.ffn_hidden,
    )


def _deepseek(table: Table) -> Shape:
    width = int(table["moe_intermediate_size"])
    return Shape(
        vocab_size=int(table["vocab_size"]),
        layers=int(table["num_hidden_layers"]),
        hidden=int(table["hidden_size"]),
        heads=int(table["num_attention_heads"]),
        kv_heads=int(table["num_attention_heads"]),
        head_dim=int(table["v_head_dim"]),
        ffn_hidden=int(table["intermediate_size"]),
        max_seq_len=int(table.get("max_position_embeddings") or 4096),
        tie_embeddings=bool(table.get("tie_word_embeddings", False)),
        latent=Latent(
            int(table["q_lora_rank"]) if table.get("q_lora_rank") else None,
            int(table["kv_lora_rank"]),
            int(table["qk_nope_head_dim"]),
            int(table["qk_rope_head_dim"]),
            int(table["v_head_dim"]),
        ),
        experts=int(table["n_routed_experts"]),
        active_experts=int(table["num_experts_per_tok"]),
        expert_hidden=width,
        shared_hidden=width * int(table.get("n_shared_experts") or 0),
        dense_layers=int(table.get("first_k_dense_replace", 0)),
        router_bias=table.get("topk_method") == "noaux_tc",
    )


def _gpt2(table: Table) -> Shape:
    hidden, heads = int(table["n_embd"]), int(table["n_head"])
    return Shape(
        vocab_size=int(table["vocab_size"]),
        layers=int(table["n_layer"]),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn_hidden=int(table.get("n_inner") or 4 * hidden),
        max_seq_len=int(table["n_positions"]),
        tie_embeddings=True,
        gated=False,
        attention_bias=4,
        ffn_bias=True,
        norm_vectors=2,
        learned_positions=True,
    )


def _gpt_neox(table: Table) -> Shape:
    return _llama(table)._replace(gated=False, attention_bias=4, ffn_bias=True, norm_vectors=2)


_FAMILIES: dict[str, Callable[[Table], Shape]] = {
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "mixtral": _mixtral,
    "olmoe": _olmoe,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
}
