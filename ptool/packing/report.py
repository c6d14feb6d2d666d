"""What a packed dataset is like, in a few lines for people; all of it is in the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ptool.formats.manifests import Manifest
from ptool.formats.packed import PackedLayout, SplitCounts
from ptool.packing.locating import Piece

_MOST_SOURCES = 6


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
        *length_rows(manifest.details["tokens_by_document_length"]),
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


def length_rows(tokens: dict[str, dict[str, int]]) -> list[tuple[str, str]]:
    """The sources' shares of the training tokens, and of those in documents of each length: long text is skewed."""
    if len(tokens) < 2:
        return []
    bands = list(next(iter(tokens.values())))
    totals = {band: sum(one[band] for one in tokens.values()) for band in bands}
    largest = sorted(tokens, key=lambda name: -sum(tokens[name].values()))
    found = []
    for band in [None, *(band for band in bands if totals[band])]:
        counts = {name: tokens[name][band] if band else sum(tokens[name].values()) for name in largest}
        whole = max(sum(counts.values()), 1)
        shares = [f"{name} {count / whole:.1%}" for name, count in counts.items() if count][:_MOST_SOURCES]
        left = len([count for count in counts.values() if count]) - len(shares)
        found.append(
            (f"in texts {band}" if band else "sources", ", ".join([*shares, *([f"{left} more"] * (left > 0))]))
        )
    return found


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
