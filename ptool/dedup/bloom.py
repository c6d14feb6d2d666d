"""A Bloom filter: which of very many hashes were seen before, in a few bits each, with a known rate of false alarms.

Sized by the textbook (Bloom 1970; Mitzenmacher and Upfal, 5.5.3): for n items and a rate p, m = -n ln p / (ln 2)^2 bits
and k = m/n ln 2 probes: 9.6 bits and 7 probes at one per cent. Probe i looks at h1 + i h2 (Kirsch and Mitzenmacher
2006), both made from the 64-bit hash and the seed, so the same input and seed give the same answers anywhere; m is no
power of two and positions are taken by multiplication, so all bits are in use. The filter reports how full it really
is: with a share f of its bits set, a new item is taken for a seen one with probability f^k.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ptool.errors import PtoolError, UsageError
from ptool.text.compiled import kernel
from ptool.text.hashing import Hashes, Offsets, mix_64

_u64 = np.uint64
_LOW = _u64(0xFFFFFFFF)
_GOLDEN = _u64(0x9E3779B97F4A7C15)


class BloomFilter:
    """Room for `expected_items` at `error_rate` false alarms. Raises UsageError for numbers that make no sense."""

    def __init__(self, expected_items: int, error_rate: float, seed: int) -> None:
        if expected_items < 1:
            raise UsageError("--expected-items 0: at least one is needed", hint="--expected-items 1e9")
        if not 0.0 < error_rate < 1.0:
            raise UsageError(f"--bloom {error_rate} is no rate of false alarms", hint="between 0 and 1, as 0.001")
        num_bits = max(64, math.ceil(-expected_items * math.log(error_rate) / math.log(2) ** 2))
        self.num_probes = max(1, round(num_bits / expected_items * math.log(2)))
        self._seed = _u64(seed)
        try:
            self.words: Hashes = np.zeros(-(-num_bits // 64), dtype=np.uint64)
        except MemoryError as error:
            raise PtoolError(
                f"a filter of {num_bits / 8e9:.1f} GB finds no memory", hint="fewer --expected-items, or more errors"
            ) from error

    def see(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """bool[n]: which were seen before, one after another; all are seen afterwards."""
        seen = np.zeros(len(hashes), dtype=np.bool_)
        _see(self.words, hashes, self._seed, self.num_probes, seen)
        return seen

    def drop_seen(self, hashes: Hashes, doc_offsets: Offsets, most: float) -> npt.NDArray[np.float64]:
        """float64[n]: the share of each document's hashes that were seen; those of documents at or below `most` are
        seen afterwards. Document i has `hashes[doc_offsets[i]:doc_offsets[i + 1]]`; one without any has share 0.
        """
        shares = np.zeros(len(doc_offsets) - 1, dtype=np.float64)
        _drop_seen(self.words, hashes, doc_offsets, self._seed, self.num_probes, most, shares)
        return shares

    def report(self) -> dict[str, float | int]:
        """Bits, probes, the share of bits that are set, and the rate of false alarms that follows from it."""
        fill = float(np.bitwise_count(self.words).sum()) / (64 * len(self.words))
        return {
            "bloom_bits": 64 * len(self.words),
            "bloom_probes": self.num_probes,
            "bloom_fill": fill,
            "bloom_error_rate": fill**self.num_probes,
        }


@kernel
def _see(words: Hashes, hashes: Hashes, seed: np.uint64, num_probes: int, seen: npt.NDArray[np.bool_]) -> None:
    for i in range(len(hashes)):
        seen[i] = _probe(words, hashes[i], seed, num_probes, True)


@kernel
def _drop_seen(
    words: Hashes,
    hashes: Hashes,
    doc_offsets: Offsets,
    seed: np.uint64,
    num_probes: int,
    most: float,
    shares: npt.NDArray[np.float64],
) -> None:
    for doc in range(len(shares)):
        first, last = doc_offsets[doc], doc_offsets[doc + 1]
        if first == last:
            continue
        found = 0
        for i in range(first, last):
            found += _probe(words, hashes[i], seed, num_probes, False)
        shares[doc] = found / (last - first)
        if shares[doc] <= most:
            for i in range(first, last):
                _probe(words, hashes[i], seed, num_probes, True)


@kernel
def word_of(value: np.uint64, num_words: np.uint64) -> int:
    """Which word a probe looks at, by multiplication: value * num_words / 2^64, the lowest bits left to say which bit.

    In parts of 32 bits: beyond 2^32 words (34 GB) the product of the upper half and their number has no room in 64.
    """
    high, low = value >> _u64(32), value & _LOW
    many, rest = num_words >> _u64(32), num_words & _LOW
    return np.int64(high * many + ((high * rest) >> _u64(32)) + ((low * many) >> _u64(32)))  # type: ignore[return-value]


@kernel
def _probe(words: Hashes, value: np.uint64, seed: np.uint64, num_probes: int, add: bool) -> bool:
    """Whether all bits of `value` are set; sets them if asked to."""
    first = mix_64(value ^ mix_64(seed + _GOLDEN))
    step = mix_64(first + _GOLDEN) | _u64(1)
    num_words = _u64(len(words))
    found = True
    for _ in range(num_probes):
        word = word_of(first, num_words)
        bit = _u64(1) << (first & _u64(63))
        if words[word] & bit == _u64(0):
            found = False
            if not add:
                break
            words[word] |= bit
        first += step
    return found
