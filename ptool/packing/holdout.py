"""Which documents are set apart for evaluation: decided by a hash of the text alone.

A document is held out when a keyed hash of its text, as a share of the largest hash, is below the fraction. So the
choice is the same whatever the order of the documents, their ids, or what else is in the corpus, and equal texts are
never on both sides. Documents without text are never held out: there is nothing to evaluate.

A small corpus may have no hash below the fraction. Then the text with the smallest hash is held out, so that a run can
be evaluated; likewise the text with the largest hash always stays for training. Where all documents have one and the
same text, none is held out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


def choose_holdout(text_hashes: Any, has_text: npt.NDArray[np.bool_], fraction: float, seed: int) -> Any:
    """bool[num_documents]: True for documents held out. `text_hashes` are uint64."""
    held = np.zeros(len(text_hashes), dtype=bool)
    keys = mix(text_hashes.astype(np.uint64), seed)
    candidates = keys[has_text]
    if fraction <= 0 or not len(candidates) or candidates.min() == candidates.max():
        return held
    held = has_text & (keys < np.uint64(min(int(fraction * 2.0**64), 2**64 - 1)))
    if not held.any():
        held = has_text & (keys == candidates.min())
    return held & (keys != candidates.max())


def mix(hashes: Hashes, seed: int) -> Hashes:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014), keyed by `seed`: a bijection that scrambles 64 bits."""
    with np.errstate(over="ignore"):
        mixed = hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
