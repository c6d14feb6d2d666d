"""The shape of a decoder and what follows from it by counting: parameters, active parameters, matrix products.

A shape comes from the table of named sizes that `train --model` reads, from a configuration file (ours, a run's, or a
Hugging Face `config.json`), or from `layers=32,hidden=4096,...`. Counts are sums over matrices and exact: the tests
compare them with the module of `ptool.models` for every named size and with published counts of other families
(Llama, Qwen, Mixtral, GPT-2, GPT-NeoX, DeepSeek-V3). Standard library only; the table is read as TOML, because the
typed reader beside it costs a third of this command's time.

Not counted: rotary tables and other buffers, multi-token-prediction heads, vision towers.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ptool.errors import UsageError
from ptool.plugins import unknown

FFN_MULTIPLE = 64  # as models/config.py rounds 8/3 of the width


class Latent(NamedTuple):
    """DeepSeek's multi-head latent attention: ranks and head widths (arXiv 2405.04434, section 2.1)."""

    query_rank: int | None
    key_value_rank: int
    plain_head: int
    rotary_head: int
    value_head: int


class Shape(NamedTuple):
    """One decoder. Sizes in numbers, not bytes; `kv_heads`, `ffn_hidden` and `head_dim` are resolved."""

    vocab_size: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_hidden: int
    max_seq_len: int = 4096
    tie_embeddings: bool = False
    gated: bool = True  # SwiGLU has three matrices, a plain block two
    attention_bias: int = 0  # biased projections of query, key, value (3) and output (4)
    ffn_bias: bool = False
    norm_vectors: int = 1  # LayerNorm has a weight and a bias, RMSNorm a weight
    query_key_norms: int = 0  # numbers in the norms of queries and keys of one layer (Qwen 3, OLMo)
    learned_positions: bool = False
    latent: Latent | None = None
    experts: int = 0
    active_experts: int = 0
    expert_hidden: int = 0
    shared_hidden: int = 0  # width of the experts that every token passes
    dense_layers: int = 0  # the first layers of a mixture that are not one
    router_bias: bool = False

    @property
    def is_mixture(self) -> bool:
        """Whether a token passes through only some of the parameters."""
        return self.experts > 0

    @property
    def attention_width(self) -> int:
        """Mean width of what the scores are made of and what they mix: the width of 2 * 2 * s * width products."""
        if self.latent is None:
            return self.heads * self.head_dim
        return self.heads * (self.latent.plain_head + self.latent.rotary_head + self.latent.value_head) // 2

    @property
    def mixture_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers if self.experts else 0

    def attention_matrices(self) -> int:
        """Elements of the matrices of one layer's attention."""
        if self.latent is None:
            return self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        mla = self.latent
        query_head = mla.plain_head + mla.rotary_head
        if mla.query_rank:
            query = self.hidden * mla.query_rank + mla.query_rank * self.heads * query_head
        else:
            query = self.hidden * self.heads * query_head
        down = self.hidden * (mla.key_value_rank + mla.rotary_head)
        up = mla.key_value_rank * self.heads * (mla.plain_head + mla.value_head)
        return query + down + up + self.heads * mla.value_head * self.hidden

    def ffn_matrices(self, width: int) -> int:
        """Elements of the matrices of a feed-forward block of this width."""
        return (3 if self.gated else 2) * self.hidden * width

    def expert_parameters(self) -> int:
        """Parameters of all experts that a router chooses between: they shard over expert parallelism."""
        return self.mixture_layers * self.experts * self.ffn_matrices(self.expert_hidden)

    def vectors_per_layer(self) -> int:
        """Norms and biases of one layer."""
        vectors = 2 * self.norm_vectors * self.hidden
        if self.attention_bias:
            vectors += self.head_dim * (self.heads + 2 * self.kv_heads)
        if self.attention_bias > 3:
            vectors += self.hidden
        if self.ffn_bias:
            vectors += self.ffn_hidden * (2 if self.gated else 1) + self.hidden
        vectors += self.query_key_norms
        if self.latent:
            vectors += (self.latent.query_rank or 0) + self.latent.key_value_rank
        return vectors

    def embedding_parameters(self) -> int:
        """The token table."""
        return self.vocab_size * self.hidden

    def layer_parameters(self, *, active: bool = False) -> int:
        """Parameters of all layers; `active`: those that one token passes."""
        experts = self.active_experts if active else self.experts
        dense = self.ffn_matrices(self.ffn_hidden)
        router = self.hidden * self.experts + (self.experts if self.router_bias else 0)
        mixed = experts * self.ffn_matrices(self.expert_hidden) + self.ffn_matrices(self.shared_hidden) + router
        blocks = (self.layers - self.mixture_layers) * dense + self.mixture_layers * mixed
        return self.layers * (self.attention_matrices() + self.vectors_per_layer()) + blocks

    def num_parameters(self, *, active: bool = False) -> int:
        """All parameters, or those that one token passes; a tied embedding counts once."""
        tables = self.embedding_parameters() * (1 if self.tie_embeddings else 2)
        positions = self.max_seq_len * self.hidden if self.learned_positions else 0
        return tables + positions + self.layer_parameters(active=active) + self.norm_vectors * self.hidden

    def matmul_parameters(self) -> int:
        """Elements of the matrices that one token is multiplied with: active layers and the head, tied or not."""
        vectors = self.layers * self.vectors_per_layer()
        return self.layer_parameters(active=True) - vectors + self.embedding_parameters()

    def layer_matrices(self) -> list[int]:
        """Sizes of one dense layer's matrices, in the order in which `ptool.models` holds them."""
        query, key = self.hidden * self.heads * self.head_dim, self.hidden * self.kv_heads * self.head_dim
        ffn = self.hidden * self.ffn_hidden
        return [query, key, key, query, *([ffn] * (3 if self.gated else 2))]


def named_shape(name: str) -> Shape:
    """The named size of models/sizes.toml. Raises UsageError with the nearest name and the valid ones."""
    if name.lower() not in sizes():
        raise unknown("model size", name, sizes())
    return from_table(sizes()[name.lower()], where=f"sizes.toml [{name}]")


def step_tokens(name: str | None) -> int:
    """Tokens of one optimiser step: what the named size was published with, else Llama 2's 4M."""
    table = sizes().get((name or "").lower(), {})
    return int(table.get("training", {}).get("batch_tokens", 4_194_304))


def from_table(table: dict[str, Any], *, where: str | None = None) -> Shape:
    """A shape from the keys of `[model]` in a TOML table. Raises UsageError for a missing, unknown or bad value."""
    kept = {key: value for key, value in table.items() if key not in _NOT_SHAPE}
    name = table.get("size")
    if name is not None:
        base = {key: value for key, value in _named_table(name).items() if key not in _NOT_SHAPE}
        kept = {**base, **kept}
    for key, value in kept.items():
        if key not in _KEYS:
            error = unknown("key of a model", key, _KEYS)
            error.where = where
            raise error
        if type(value) is not (bool if key == "tie_embeddings" else int):
            raise UsageError(f"{key} is {value!r}; a whole number is needed", where=where)
    missing = [key for key in ("layers", "hidden", "heads") if key not in kept]
    if missing:
        raise UsageError(f"the model lacks {', '.join(missing)}", where=where, hint=f"known keys: {', '.join(_KEYS)}")
    hidden, heads = kept["hidden"], kept["heads"]
    for key, value in kept.items():
        if key != "tie_embeddings" and value < 1:
            raise UsageError(f"{key} is {value}; it must be at least 1", where=where)
    kv_heads = kept.get("kv_heads", heads)
    if heads % kv_heads or ("head_dim" not in kept and hidden % heads):
        raise UsageError(f"hidden {hidden}, heads {heads} and kv_heads {kv_heads} do not divide evenly", where=where)
    return Shape(
        vocab_size=kept.get("vocab_size", 32_000),
        layers=kept["layers"],
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=kept.get("head_dim", hidden // heads),
        ffn_hidden=kept.get("ffn_hidden", -(-8 * hidden // (3 * FFN_MULTIPLE)) * FFN_MULTIPLE),
        max_seq_len=kept.get("max_seq_len", 4096),
        tie_embeddings=kept.get("tie_embeddings", True),
        experts=kept.get("experts", 0),
        active_experts=_active_experts(kept, where),
        expert_hidden=kept.get("expert_hidden", kept.get("ffn_hidden", 0)),
        shared_hidden=kept.get("shared_hidden", 0),
        dense_layers=min(kept.get("dense_layers", 0), kept["layers"]),
    )


def parse_shape(text: str) -> Shape:
    """`layers=32,hidden=4096,heads=32` and further keys of a model; values are counts, `tie_embeddings` true or false.

    Without `vocab_size` the vocabulary is 32,000, without `kv_heads` every head has its own, and `ffn_hidden` is 8/3
    of the width. Mixtures add `experts`, `active_experts`, `expert_hidden`, `shared_hidden`, `dense_layers`.
    """
    from ptool.units import parse_count

    table: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"'{part}' is no KEY=VALUE", hint="for example layers=32,hidden=4096,heads=32")
        if key.strip() == "tie_embeddings":
            if value not in ("true", "false"):
                raise UsageError(f"tie_embeddings is '{value}'", hint="true or false")
            table["tie_embeddings"] = value == "true"
        else:
            table[key.strip()] = parse_count(value)
    return from_table(table)


@cache
def sizes() -> dict[str, Any]:
    """The table of named sizes, as `train --model` reads it."""
    path = Path(__file__).parents[1] / "models" / "sizes.toml"  # importlib.resources would cost 10 ms
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _named_table(name: object) -> dict[str, Any]:
    if not isinstance(name, str) or name.lower() not in sizes():
        raise unknown("model size", str(name), sizes())
    found: dict[str, Any] = sizes()[name.lower()]
    return found


def _active_experts(kept: dict[str, Any], where: str | None) -> int:
    experts, active = kept.get("experts", 0), kept.get("active_experts", 2 if "experts" in kept else 0)
    if active > experts:
        raise UsageError(f"active_experts {active} of {experts} experts", where=where)
    return int(active)


_KEYS = (
    "layers", "hidden", "heads", "kv_heads", "ffn_hidden", "head_dim", "vocab_size", "max_seq_len", "tie_embeddings",
    "experts", "active_experts", "expert_hidden", "shared_hidden", "dense_layers",
)  # fmt: skip
_NOT_SHAPE = {"training", "size", "rope_theta", "norm_eps", "init_std"}  # keys of a model that move no count
