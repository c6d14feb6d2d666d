"""What determines packed rows, beside the tokens: stands in the manifest of what was made."""

from __future__ import annotations

from typing import Literal

import msgspec

from ptool.errors import UsageError
from ptool.packing.mixing import DomainKind
from ptool.packing.plan import Strategy

_MAX_SEQ_LEN = 1 << 30


class PackConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What determines the rows, beside the tokens."""

    seq_len: int
    strategy: Strategy = "concat"
    holdout: float = 0.005
    """The share of documents set apart for evaluation, by hash of the text (holdout.py)."""
    seed: int = 0
    """Keys the choice of held-out documents, of those of a last epoch, and the order of `shuffle`."""
    shuffle: bool = False
    """Documents before they are packed, and rows after, in an order that hashes of the texts give."""
    mix: dict[str, float] = {}
    """The share of each source in the training rows (mixing.py); empty for what there is."""
    mix_by: DomainKind = "source"
    """What the mix, the temperature, `only` and the balance tell apart: sources, or the folders that were given."""
    temperature: float | None = None
    """The same by p_i proportional to n_i^(1/T)."""
    tokens: int | None = None
    """Training tokens of the mix; as many as there are where it is not given."""
    max_epochs: float = 4.0
    only: str | None = None
    """Documents of this source alone ("-" for those without one), or of this folder; None for all."""
    domain_balance: Literal["none", "batch"] = "none"
    """"batch": every row has documents of one source, and every `balance_rows` rows have the ratio (balance.py)."""
    balance_rows: int = 256
    group_by: str | None = None
    """Training documents that have the same value of this field stand side by side (grouping.py)."""
    max_doc_pieces: int | None = None
    """A document is cut off after so many rows; the manifest counts what is left out."""

    def __post_init__(self) -> None:
        if not 2 <= self.seq_len <= _MAX_SEQ_LEN:
            message = f"rows of {self.seq_len:,} tokens"
            raise UsageError(message, hint=f"from 2 to {_MAX_SEQ_LEN:,}; for example --seq-len 2048")
        if self.only is not None and (self.mix or self.temperature is not None or self.domain_balance != "none"):
            raise UsageError("one source alone is no mix", hint="leave --mix and --temperature to the training run")
        if self.mix and self.temperature is not None:
            raise UsageError("a mix and a temperature exclude each other", hint="give one")
        if not 0 < self.max_epochs < float("inf"):
            raise UsageError(f"at most {self.max_epochs} epochs", hint="for example --max-epochs 4")
        if self.tokens is not None and self.tokens < 1:
            raise UsageError("a mix of no tokens", hint="for example --tokens 100B")
        if self.balance_rows < 1:
            raise UsageError("a balance over no rows", hint="for example --balance-rows 256")
        if self.max_doc_pieces is not None and self.max_doc_pieces < 1:
            raise UsageError("documents of no pieces", hint="for example --max-doc-pieces 4")
        if not 0 <= self.holdout < 1:
            raise UsageError(f"a holdout of {self.holdout}", hint="less than 1; for example --holdout 0.5%")
