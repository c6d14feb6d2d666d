"""What a packed dataset is like, in a few lines for people; all of it is in the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ptool.formats.manifests import Manifest
from ptool.formats.packed import PackedLayout, SplitCounts
from ptool.packing.locating import Piece


def rows_for_people(manifest: Manifest) -> list[tuple[str, str]]:
    """Names and values to print."""
    layout = msgspec.convert(manifest.details["layout"], PackedLayout)
    cut = sum(manifest.details["documents_in_pieces"].values())
    later = sum(manifest.details["tokens_in_later_pieces"].values())
    left_out = manifest.details["tokens_left_out"]
    return [
        *split_rows(layout.splits, layout.seq_len),
        *mix_rows(manifest.details["mix"]),
        *balance_rows(manifest.details["balance"]),
        *([("left out", f"{left_out:,} tokens of documents with too many pieces")] if left_out else []),
        ("cut", f"{cut:,} documents, {later / max(manifest.num_tokens or 0, 1):.1%} of tokens after a cut"),
    ]


def row_for_people(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """What a row says, piece by piece: columns, document and where in it the piece begins, and the text."""
    return [
        (
            f"{piece.start}-{piece.start + piece.length - 1} of {piece.id}"
            + (f" from token {piece.offset:,}" if piece.offset else ""),
            repr(piece.text or ""),
        )
        for piece in pieces
    ]


def balance_rows(balance: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of each source, and how far a batch is off their shares."""
    if not balance:
        return []
    total = max(sum(balance["tokens"].values()), 1)
    shares = ", ".join(f"{name} {tokens / total:.2%}" for name, tokens in balance["tokens"].items())
    return [
        ("balance", f"{shares}; any {balance['window']:,} rows are at most {balance['largest_deviation']:.2f} rows off")
    ]


def mix_rows(mix: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Every source before and after mixing."""
    rows = []
    for name, one in mix.items():
        shares = f"{one['share_before']:.2%} before, {one['share']:.2%} after ({one['share_asked']:.2%} asked for)"
        rows.append(
            (name, f"{shares}, {one['tokens']:,} tokens, {one['epochs']:.2f} epochs of {one['tokens_before']:,}")
        )
    return rows


def split_rows(splits: dict[str, SplitCounts], seq_len: int) -> list[tuple[str, str]]:
    """The splits and their padding."""
    cells = max(sum(split.rows for split in splits.values()) * seq_len, 1)
    padding = sum(split.padding for split in splits.values())
    return [
        *(
            (name, f"{split.rows:,} rows, {split.documents:,} documents, {split.tokens:,} tokens")
            for name, split in splits.items()
        ),
        ("padding", f"{padding / cells:.4%}"),
    ]
