"""The shape of a decoder, and the arithmetic that follows from it; no torch.

`train` builds the module from a `ModelConfig`, `estimate-cost` multiplies with one, so both read one table of named
sizes (`sizes.toml`) and agree on the number of parameters to the last one: `num_parameters` is a sum over shapes,
and a test compares it with the module on the meta device for every named size and for every mixture of variants.

The variants (norms, positions, feed-forward block, muP, …) are fields with the plain Llama choice as their default. A
table leaves out variants at their default, so that tables written before a variant existed mean, and are, the same.
How a shape is computed (kernels, recomputation, compilation) is no part of it: execution.py.

A configuration says nothing about data: `vocab_size` in the table is what the size was published with; `train`
replaces it by the vocabulary of the packed data (`msgspec.structs.replace(config, vocab_size=...)`).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ptool.errors import UsageError

FFN_MULTIPLE = 64  # a width that every matrix unit divides evenly; Llama rounds to 256, too coarse for the small sizes

_SHAPE = ("vocab_size", "layers", "hidden", "heads", "max_seq_len", "kv_heads", "ffn_hidden")
_COUNTS = (*_SHAPE, "mup_base_hidden", "mup_base_head_dim")
_FIRST_VARIANT = "norm"  # the fields from here on came later, and have the earlier behaviour as their default


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of one decoder: by default pre-norm RMSNorm, RoPE, SwiGLU, causal attention with optional grouped keys.

    `kv_heads` defaults to `heads` (multi-head attention); 1 is multi-query attention, anything between grouped.
    `ffn_hidden` defaults to 8/3 of `hidden`, rounded up to a multiple of 64, which keeps a SwiGLU block as large as a
    GELU block of 4 times `hidden`, the default there (Shazeer 2020, arXiv:2002.05202).
    Raises `UsageError` where the numbers do not fit together.
    """

    vocab_size: Annotated[int, Meta(description="tokens that are embedded; by default as many as the data has")]
    layers: Annotated[int, Meta(description="attention and feed-forward blocks")]
    hidden: Annotated[int, Meta(description="numbers per token between the layers")]
    heads: Annotated[int, Meta(description="attention heads")]
    max_seq_len: Annotated[int, Meta(description="longest row; by default that of the data")]
    kv_heads: Annotated[int | None, Meta(description="heads of keys and values; none: as many as heads")] = None
    ffn_hidden: Annotated[int | None, Meta(description="feed-forward width; none: 8/3 of hidden, GELU 4 times")] = None
    # Su et al. 2021, arXiv:2104.09864
    rope_theta: Annotated[float, Meta(description="base of the rotary angles")] = 10_000.0
    norm_eps: Annotated[float, Meta(description="added to the mean square (Llama 2)")] = 1e-5
    # Press & Wolf 2017, arXiv:1608.05859
    tie_embeddings: Annotated[bool, Meta(description="one matrix embeds tokens and scores them")] = True
    # GPT-2; residual outputs are scaled down further, see init.py
    init_std: Annotated[float, Meta(description="spread of the initial weights, cut at three of it")] = 0.02

    # Zhang & Sennrich 2019, arXiv:1910.07467; arXiv:1607.06450
    norm: Annotated[
        Literal["rms", "layer"], Meta(description="rms (RMSNorm), or layer (LayerNorm with gain and bias)")
    ] = "rms"
    # Vaswani et al. 2017, arXiv:1706.03762, has the norm after the sum
    norm_position: Annotated[
        Literal["pre", "post"], Meta(description="pre: x + f(norm(x)) and a last norm; post: norm(x + f(x))")
    ] = "pre"
    positions: Annotated[
        Literal["rope", "learned"], Meta(description="rope (rotary), or learned: a vector per position, as GPT-2")
    ] = "rope"
    feed_forward: Annotated[
        Literal["swiglu", "gelu"], Meta(description="swiglu: three matrices with a gate; gelu: two, tanh form")
    ] = "swiglu"
    # Dehghani et al. 2023, arXiv:2302.05442
    qk_norm: Annotated[bool, Meta(description="RMSNorm over each head's queries and keys")] = False
    # PaLM, section 5
    z_loss: Annotated[
        float, Meta(description="coefficient of the squared log of the softmax's denominator; PaLM 1e-4")
    ] = 0.0
    # sqrt(hidden) in Vaswani et al. 2017, section 3.4, and Gemma
    embedding_scale: Annotated[float, Meta(description="embeddings are multiplied by it")] = 1.0
    # OLMo calls the second one normalized
    init: Annotated[
        Literal["fixed", "width"], Meta(description="spread of the initial weights: init_std, or 1/sqrt(hidden)")
    ] = "fixed"
    mup_base_hidden: Annotated[
        int | None, Meta(description="muP: the width at which rates were tuned; none: standard parametrisation")
    ] = None
    mup_base_head_dim: Annotated[
        int | None, Meta(description="muP: the head size at that width; none: the same as here")
    ] = None
    # False is how GPT-3 was trained
    document_mask: Annotated[
        bool, Meta(description="attention stops at document boundaries; false: a row is one text")
    ] = True

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"model.{name} is {value}; it must be at least 1")
        for name in ("rope_theta", "norm_eps", "init_std", "embedding_scale"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UsageError(f"model.{name} is {value}; it must be a positive number")
        if not 0 <= self.z_loss < float("inf"):
            raise UsageError(f"model.z_loss is {self.z_loss}; it must be 0 or a positive number")
        if self.mup_base_head_dim is not None and self.mup_base_hidden is None:
            raise UsageError("model.mup_base_head_dim means nothing without model.mup_base_hidden")
        if self.hidden % self.heads:
            raise UsageError(
                f"model.hidden ({self.hidden}) is not divisible by model.heads ({self.heads})",
                hint=f"heads = {_nearest_divisor(self.hidden, self.heads)} would fit",
            )
        if self.head_dim % 2 and self.positions == "rope":
            raise UsageError(
                f"a head of {self.head_dim} numbers (hidden {self.hidden} / heads {self.heads}) cannot be rotated: "
                "RoPE turns them in pairs",
                hint='choose hidden and heads so that hidden / heads is even, or positions = "learned"',
            )
        if self.heads % self.num_kv_heads:
            raise UsageError(
                f"model.heads ({self.heads}) is not divisible by model.kv_heads ({self.num_kv_heads})",
                hint=f"kv_heads = {_nearest_divisor(self.heads, self.num_kv_heads)} would fit",
            )

    @property
    def head_dim(self) -> int:
        """Numbers per head."""
        return self.hidden // self.heads

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values: `kv_heads`, or `heads` where it is not given."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def ffn_size(self) -> int:
        """Width of the feed-forward block: `ffn_hidden`, or the default of its kind (see the class)."""
        if self.ffn_hidden is not None:
            return self.ffn_hidden
        if self.feed_forward == "gelu":
            return 4 * self.hidden
        return -(-8 * self.hidden // (3 * FFN_MULTIPLE)) * FFN_MULTIPLE

    def num_norm_parameters(self) -> int:
        """Parameters of one norm over `hidden` numbers: gains, and LayerNorm's biases."""
        return self.hidden if self.norm == "rms" else 2 * self.hidden

    def num_layer_parameters(self) -> int:
        """Parameters of one layer: query and output, key and value, the feed-forward matrices, the norms."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.num_kv_heads * self.head_dim
        if self.qk_norm:
            attention += 2 * self.head_dim
        matrices = 3 if self.feed_forward == "swiglu" else 2
        return attention + matrices * self.hidden * self.ffn_size + 2 * self.num_norm_parameters()

    def num_embedding_parameters(self) -> int:
        """Parameters of the input embedding, of learned positions, and of the output head where it is untied."""
        vocabulary = self.vocab_size * self.hidden * (1 if self.tie_embeddings else 2)
        return vocabulary + (self.max_seq_len * self.hidden if self.positions == "learned" else 0)

    def num_non_embedding_parameters(self) -> int:
        """Parameters of all layers and the last norm: what 6ND is usually fitted on (Kaplan et al., section 2.1)."""
        last_norm = self.num_norm_parameters() if self.norm_position == "pre" else 0
        return self.layers * self.num_layer_parameters() + last_norm

    def num_parameters(self) -> int:
        """All parameters; a tied embedding counts once."""
        return self.num_embedding_parameters() + self.num_non_embedding_parameters()

    def as_table(self) -> dict[str, Any]:
        """The fields with their resolved values, as `config.toml` and manifests hold them; `from_table` reads it back.

        Variants at their default are left out.
        """
        table = {**msgspec.structs.asdict(self), "kv_heads": self.num_kv_heads, "ffn_hidden": self.ffn_size}
        return {key: value for key, value in table.items() if key not in VARIANTS or value != VARIANTS[key]}

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, where: str | None = None) -> ModelConfig:
        """The configuration in a TOML table or manifest.

        Raises `UsageError`, with the nearest valid name, for an unknown key, and for a missing or mistyped value.
        """
        for key in table:
            if key not in cls.__struct_fields__:
                raise _unknown(f"key {key} in [model]", key, list(cls.__struct_fields__), where)
        try:
            return msgspec.convert(dict(table), cls)
        except msgspec.ValidationError as error:
            raise UsageError(f"[model] {error}", where=where) from error


VARIANTS: dict[str, Any] = {
    field.name: field.default
    for field in msgspec.structs.fields(ModelConfig)[ModelConfig.__struct_fields__.index(_FIRST_VARIANT) :]
}
"""The fields beside the plain shape, with their defaults."""


class ModelSize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named size: its shape and the training values it was published with."""

    name: str
    model: ModelConfig
    peak_lr: float
    batch_tokens: int  # tokens in one optimiser step
    seq_len: int  # tokens in one row


def size_names() -> list[str]:
    """The named sizes, smallest first."""
    return list(_sizes())


def load_size(name: str) -> ModelSize:
    """The named size of `sizes.toml`; case does not matter ("7B"). Raises `UsageError` with the nearest name."""
    try:
        return _sizes()[name.lower()]
    except KeyError:
        raise _unknown(f"model size {name}", name.lower(), size_names(), None) from None


@cache
def _sizes() -> dict[str, ModelSize]:
    table = tomllib.loads(resources.files(__package__).joinpath("sizes.toml").read_text(encoding="utf-8"))
    sizes = {}
    for name, entry in table.items():
        training = entry.pop("training")
        model = ModelConfig.from_table(entry, where=f"sizes.toml [{name}]")
        sizes[name] = msgspec.convert({"name": name, "model": model, **training}, ModelSize)
    return dict(sorted(sizes.items(), key=lambda item: item[1].model.num_parameters()))


def _unknown(what: str, given: str, valid: list[str], where: str | None) -> UsageError:
    near = difflib.get_close_matches(given, valid, n=1)
    known = "known: " + ", ".join(valid)
    return UsageError(f"unknown {what}", where=where, hint=f"did you mean {near[0]}? {known}" if near else known)


def _nearest_divisor(number: int, wanted: int) -> int:
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - wanted))
