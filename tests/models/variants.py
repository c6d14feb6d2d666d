"""Decoders of every variant, small enough to compare with plain arithmetic."""

from hypothesis import strategies as st

from ptool.models.config import ModelConfig

EVERYTHING = {
    "norm": "layer",
    "norm_position": "post",
    "positions": "learned",
    "feed_forward": "gelu",
    "qk_norm": True,
    "z_loss": 1e-3,
    "embedding_scale": 3.0,
    "init": "width",
    "mup_base_hidden": 12,
    "document_mask": False,
    "tie_embeddings": False,
}
"""Every variant at another value than its default."""


def configs(**fixed) -> st.SearchStrategy[ModelConfig]:
    """Small configurations over all combinations of variants."""

    @st.composite
    def build(draw):
        kv_heads = draw(st.sampled_from([1, 2, 3]))
        heads = kv_heads * draw(st.sampled_from([1, 2]))
        choices = {
            "vocab_size": draw(st.integers(2, 40)),
            "layers": draw(st.integers(1, 3)),
            "hidden": heads * 2 * draw(st.integers(1, 5)),
            "heads": heads,
            "kv_heads": draw(st.sampled_from([None, 1, kv_heads])),
            "ffn_hidden": draw(st.none() | st.integers(1, 40)),
            "max_seq_len": draw(st.integers(16, 24)),
            "tie_embeddings": draw(st.booleans()),
            "norm": draw(st.sampled_from(["rms", "layer"])),
            "norm_position": draw(st.sampled_from(["pre", "post"])),
            "positions": draw(st.sampled_from(["rope", "learned"])),
            "feed_forward": draw(st.sampled_from(["swiglu", "gelu"])),
            "qk_norm": draw(st.booleans()),
            "z_loss": draw(st.sampled_from([0.0, 1e-3])),
            "embedding_scale": draw(st.sampled_from([1.0, 4.0])),
            "init": draw(st.sampled_from(["fixed", "width"])),
            "mup_base_hidden": draw(st.sampled_from([None, 4, 16])),
            "document_mask": draw(st.booleans()),
        }
        return ModelConfig(**{**choices, **fixed})

    return build()
