"""Edits of whole texts, and which texts an edit has changed: buffers of n texts in and out, one pass.

What is not changed is not copied: an edit that finds nothing to do gives back the arrays it got, and `differ` then has
nothing to compare. Otherwise 1 ns per byte.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptool.text.characters import SPACE, character_flags
from ptool.text.compiled import kernel
from ptool.text.utf8 import character_at

Column = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


def strip_edges(text: Column, offsets: Offsets) -> tuple[Column, Offsets]:
    """`str.strip` of n texts; the same arrays where nothing is to be stripped."""
    spans = _edges(text, offsets, character_flags())
    if np.array_equal(spans[0], offsets[:-1]) and np.array_equal(spans[1], offsets[1:]):
        return text, offsets
    out = np.empty_like(text)
    stripped = np.zeros_like(offsets)
    np.cumsum(spans[1] - spans[0], out=stripped[1:])
    _copy_spans(text, spans, out)
    return out[: stripped[-1]], stripped


def differ(text: Column, offsets: Offsets, other: Column, other_offsets: Offsets) -> npt.NDArray[np.bool_]:
    """bool[n]: which of n texts are not the same bytes in both buffers."""
    if text is other and offsets is other_offsets:
        return np.zeros(len(offsets) - 1, dtype=np.bool_)
    return _differ(text, offsets, other, other_offsets)


@kernel
def _edges(text: Column, offsets: Offsets, table: Column) -> npt.NDArray[np.int64]:
    spans = np.empty((2, len(offsets) - 1), dtype=np.int64)
    for document in range(len(offsets) - 1):
        start = offsets[document]
        stop = offsets[document + 1]
        while start < stop:
            code, size = character_at(text, start)
            if not table[code] & SPACE:
                break
            start += size
        while stop > start:
            last = stop - 1
            while text[last] & 0xC0 == 0x80:
                last -= 1
            code, _ = character_at(text, last)
            if not table[code] & SPACE:
                break
            stop = last
        spans[0, document] = start
        spans[1, document] = stop
    return spans


@kernel
def _copy_spans(text: Column, spans: npt.NDArray[np.int64], out: Column) -> None:
    end = 0
    for span in range(spans.shape[1]):
        for position in range(spans[0, span], spans[1, span]):
            out[end] = text[position]
            end += 1


@kernel
def _differ(text: Column, offsets: Offsets, other: Column, other_offsets: Offsets) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(offsets) - 1, dtype=np.bool_)
    for document in range(len(found)):
        size = offsets[document + 1] - offsets[document]
        if other_offsets[document + 1] - other_offsets[document] != size:
            found[document] = True
            continue
        for index in range(size):
            if text[offsets[document] + index] != other[other_offsets[document] + index]:
                found[document] = True
                break
    return found
