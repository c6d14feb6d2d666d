"""What a packed dataset is like, in a few lines for people; all of it is in the manifest."""

from __future__ import annotations

import msgspec

from ptool.formats.manifests import Manifest
from ptool.formats.packed import PackedLayout


def rows_for_people(manifest: Manifest) -> list[tuple[str, str]]:
    """Names and values to print."""
    layout = msgspec.convert(manifest.details["layout"], PackedLayout)
    train, holdout = layout.splits["train"], layout.splits["holdout"]
    cells = max((train.rows + holdout.rows) * layout.seq_len, 1)
    cut = sum(manifest.details["documents_in_pieces"].values())
    later = sum(manifest.details["tokens_in_later_pieces"].values())
    return [
        ("train", f"{train.rows:,} rows, {train.documents:,} documents, {train.tokens:,} tokens"),
        ("holdout", f"{holdout.rows:,} rows, {holdout.documents:,} documents, {holdout.tokens:,} tokens"),
        ("padding", f"{(train.padding + holdout.padding) / cells:.4%}"),
        ("cut", f"{cut:,} documents, {later / max(manifest.num_tokens or 0, 1):.1%} of tokens after a cut"),
    ]
