"""How much of a device's peak a step used: model FLOPs utilisation by the convention of PaLM.

Operations per token are 6N + 12 L H Q T (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): N parameters, L layers,
H heads of Q numbers, rows of T tokens. Counted are a forward and a backward pass; work done again (recomputation) is
not, and attention counts as if it saw the whole row, though it is causal and stops at documents. So the figure can be
compared with published ones of the same convention; `estimate-cost` calls it "full". N leaves out tables that are only
looked up (an untied input embedding, learned positions), as PaLM, whose embeddings are tied, had none.

The peak is the dense one, of the setting `metrics.peak_tflops`; where it is not known there is no MFU. Torch-free.
"""

from __future__ import annotations

from ptool.models.config import ModelConfig

CONVENTION = "PaLM"


def flops_per_token(model: ModelConfig, seq_len: int) -> float:
    """Model operations of training on one token, of a row of `seq_len`."""
    multiplied = model.num_non_embedding_parameters() + model.vocab_size * model.hidden
    return 6.0 * multiplied + 12.0 * model.layers * model.heads * model.head_dim * seq_len
