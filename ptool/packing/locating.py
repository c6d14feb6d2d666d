"""Which documents are in a packed row, and what they say there."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from ptool.errors import UsageError
from ptool.formats.packed import PackedDataset
from ptool.tokenizers.loading import load_tokenizer


class Piece(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An unbroken piece of a document in a row: its first column, its length, and where in the document it begins."""

    id: str
    source: str | None
    start: int
    length: int
    offset: int
    text: str | None = None


def locate_row(
    folder: Path, row: int, *, split: Literal["train", "holdout"] = "train", text: bool = False
) -> list[Piece]:
    """The pieces of a row, left to right. Raises UsageError for a row that is not there."""
    packed = PackedDataset.open(folder)
    rows = packed.train if split == "train" else packed.holdout
    if not 0 <= row < rows.num_rows:
        there = f"rows 0 to {rows.num_rows - 1:,}" if rows.num_rows else f"{split} has no rows"
        raise UsageError(f"there is no row {row:,} in {split}", where=str(folder), hint=there)
    tokens = rows.rows([row]).tokens[0]
    tokenizer = load_tokenizer(packed.tokenizer_file) if text else None
    return [
        Piece(
            id=one.id,
            source=one.source,
            start=one.start,
            length=one.length,
            offset=one.offset,
            text=tokenizer.decode(tokens[one.start : one.start + one.length]) if tokenizer else None,
        )
        for one in rows.pieces_in(row)
    ]
