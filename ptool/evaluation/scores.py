"""Sums over scored documents and the averages they give; no torch, so reports can be read and made anywhere."""

from __future__ import annotations

import math

import msgspec


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. `loss` is in nats per token, `bits_per_byte` in bits per UTF-8 byte of the original text.

    A value that is not defined is None: all three without tokens, `bits_per_byte` where the bytes are unknown.
    """

    num_documents: int
    num_tokens: int
    num_bytes: int | None
    loss: float | None
    perplexity: float | None
    bits_per_byte: float | None


class Tally(msgspec.Struct):
    """Sums over documents: `loss_sum` in nats, `num_bytes` None once a document's bytes are unknown."""

    num_documents: int = 0
    num_tokens: int = 0
    num_bytes: int | None = 0
    loss_sum: float = 0.0

    def add(self, other: Tally) -> None:
        """Add another tally to this one."""
        self.num_documents += other.num_documents
        self.num_tokens += other.num_tokens
        self.loss_sum += other.loss_sum
        known = self.num_bytes is not None and other.num_bytes is not None
        self.num_bytes = (self.num_bytes or 0) + (other.num_bytes or 0) if known else None

    def score(self) -> Score:
        """The averages these sums give."""
        loss = self.loss_sum / self.num_tokens if self.num_tokens else None
        return Score(
            num_documents=self.num_documents,
            num_tokens=self.num_tokens,
            num_bytes=self.num_bytes,
            loss=loss,
            perplexity=None if loss is None else _exp(loss),
            bits_per_byte=self.loss_sum / math.log(2) / self.num_bytes if self.num_bytes else None,
        )


def _exp(loss: float) -> float | None:
    """The perplexity of a loss; None where it is past the largest float (a loss above 709 nats per token)."""
    try:
        return math.exp(loss)
    except OverflowError:
        return None
