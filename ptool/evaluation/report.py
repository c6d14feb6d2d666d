"""What an evaluation found, as JSON for programs and as rows for people; keys and units here are stable."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ptool.evaluation.scores import Score

HEADER = ("source", "documents", "tokens", "bytes", "loss", "perplexity", "bits/byte")
UNKNOWN = "-"


class EvalReport(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of one checkpoint.

    `step` and `trained_tokens` name the checkpoint; `data` is what was scored and `digest` that of the packed folder's
    manifest or of the stream's lines; `window` the longest context in tokens; `sources` is sorted by name.
    """

    step: int
    trained_tokens: int
    data: Literal["holdout", "stream"]
    digest: str
    window: int
    total: Score
    sources: dict[str, Score]

    def as_json(self) -> dict[str, Any]:
        """Plain values; what is not defined is None."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def title(self) -> str:
        """What was evaluated, in one line."""
        what = "held-out documents" if self.data == "holdout" else "the stream"
        return f"step {self.step:,} ({self.trained_tokens:,} tokens) on {what}"

    def rows(self) -> list[tuple[str, ...]]:
        """One row per source under `HEADER`, the total last; the total alone where there is one source."""
        rows = [_row(name, score) for name, score in self.sources.items()] if len(self.sources) > 1 else []
        return [*rows, _row("total", self.total)]


def _row(name: str, score: Score) -> tuple[str, ...]:
    counts = (score.num_documents, score.num_tokens, score.num_bytes)
    values = ((score.loss, ".4f"), (score.perplexity, ",.2f"), (score.bits_per_byte, ".4f"))
    return (
        name,
        *(UNKNOWN if count is None else f"{count:,}" for count in counts),
        *(UNKNOWN if value is None else format(value, form) for value, form in values),
    )
