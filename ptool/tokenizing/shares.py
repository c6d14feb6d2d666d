"""Shares that people give and want to know: of sources in a sample, of the embedding in a model."""

from __future__ import annotations

import msgspec

from ptool.errors import UsageError
from ptool.models.config import load_size


def parse_weights(text: str | None) -> dict[str, float]:
    """`web=0.7,code=0.3` as a table. Raises UsageError for anything else; None is no weights."""
    weights: dict[str, float] = {}
    for part in (text or "").split(","):
        name, _, share = part.strip().rpartition("=")
        try:
            value = float(share) if name else 0.0
        except ValueError:
            value = 0.0
        if text is not None and not 0 < value < float("inf"):
            raise UsageError(f"the weight {part.strip()!r} is no NAME=SHARE", hint="for example web=0.7,code=0.3")
        if name in weights:
            raise UsageError(f"two weights for {name!r}", hint="give one")
        if name:
            weights[name] = value
    return weights


def embedding_share(size: str, entries: int) -> str:
    """What part of a named model's parameters a vocabulary takes, in a sentence. Raises UsageError for an unknown name.

    The embedding has entries x hidden parameters, and the output as many again where the two are not tied.
    """
    model = msgspec.structs.replace(load_size(size).model, vocab_size=entries)
    share = model.num_embedding_parameters() / model.num_parameters()
    return f"{entries:,} entries are {share:.1%} of the {model.num_parameters():,} parameters of a {size} model"
