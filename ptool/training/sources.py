"""Which source a target belongs to, and losses summed by it.

A packed row holds pieces of several documents. A target belongs to the document it is a token of: the first token of a
document is predicted from the end of the one before, and counts for its own source. Torch-free; a few microseconds per
piece of a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ptool.formats.documents import NO_SOURCE
from ptool.formats.packed import PackedDataset

Integers = npt.NDArray[np.int64]


def source_names(datasets: Sequence[PackedDataset]) -> list[str]:
    """The sources of all folders, sorted, and `NO_SOURCE` first, for documents that have none."""
    return [NO_SOURCE, *sorted({name for dataset in datasets for name in dataset.layout.sources})]


def target_sources(split: Any, row: int, seq_len: int, names: Sequence[str]) -> Integers:
    """The number in `names` of each target's source, int64 [seq_len]; 0 where there is nothing."""
    of_token = np.zeros(seq_len + 1, dtype=np.int64)
    end = 0
    for piece in split.pieces_in(row):
        end = piece.start + piece.length
        of_token[piece.start : end] = 0 if piece.source is None else names.index(piece.source)
    if end == seq_len and seq_len:
        of_token[end] = of_token[end - 1]  # the target of the last column is of the document that is cut there
    return of_token[1:]


def sums_by_source(
    losses: npt.NDArray[np.float64], targets: Integers, sources: Integers, num_sources: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Summed loss and number of targets of each source, fp64 [num_sources] both; the three are [rows, seq_len]."""
    real = targets >= 0
    loss = np.bincount(sources[real], weights=losses[real].astype(np.float64), minlength=num_sources)
    count = np.bincount(sources[real], minlength=num_sources)
    return loss.astype(np.float64), count.astype(np.float64)
