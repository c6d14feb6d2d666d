"""Which texts a vocabulary is trained on: a part of each source and language, chosen by a hash of the text.

The choice depends on the texts, the seed and the shares alone, not on the order of the inputs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

import xxhash

from ptool.errors import InputError
from ptool.formats.documents import NO_SOURCE

_ANY = ""  # stands for every source, or every language, where those have no weights


class WeightedSample:
    """Samples of sources and languages side by side, each with its share of `limit` bytes of UTF-8.

    A dimension without weights is not looked at; what has no weight in one that has them is left out. With both, the
    share of a source in a language is the product: every source has the languages in the same proportions.
    """

    def __init__(
        self, limit: int, seed: int, sources: Mapping[str, float], languages: Mapping[str, float] | None = None
    ) -> None:
        self._weighted = (bool(sources), bool(languages))
        self._unseen = (set(sources), set(languages or ()))
        self._parts = {
            (source, language): Sample(max(1, int(limit * source_share * language_share)), seed)
            for source, source_share in _shares(sources).items()
            for language, language_share in _shares(languages or {}).items()
        }

    def add(self, text: bytes, source: str | None, language: str | None = None) -> None:
        """Offer a text, UTF-8."""
        found = (source, language)
        first, second = (
            (NO_SOURCE if value is None else value) if weighted else _ANY
            for value, weighted in zip(found, self._weighted, strict=True)
        )
        if not text:
            return
        for names, name in zip(self._unseen, (first, second), strict=True):
            names.discard(name)
        part = self._parts.get((first, second))
        if part is not None:
            part.add(text)

    def check(self) -> None:
        """Raise InputError for a source or a language with a weight and no text at all."""
        for option, unseen in zip(("--source-key", "--language-key"), self._unseen, strict=True):
            if unseen:
                message = f"no text of {', '.join(sorted(unseen))}, which has a weight"
                raise InputError(message, hint=f"{option} names the field that the weights are by")

    @property
    def empty_pairs(self) -> list[tuple[str, str]]:
        """The (source, language) that both have a weight and no text together: that part of the sample stays empty."""
        return [key for key in sorted(self._parts) if all(self._weighted) and not self._parts[key].num_bytes]

    @property
    def num_bytes(self) -> int:
        """Text in the sample."""
        return sum(part.num_bytes for part in self._parts.values())

    @property
    def bytes_by_source(self) -> dict[str, int]:
        """What each weighted source gives; less than its share where there is too little of it."""
        return self._bytes_by(0)

    @property
    def bytes_by_language(self) -> dict[str, int]:
        """The same of each weighted language."""
        return self._bytes_by(1)

    def __len__(self) -> int:
        return sum(map(len, self._parts.values()))

    def texts(self) -> Iterator[bytes]:
        """The texts taken, source by source and there language by language."""
        for key in sorted(self._parts):
            yield from self._parts[key].texts()

    def _bytes_by(self, dimension: int) -> dict[str, int]:
        if not self._weighted[dimension]:
            return {}
        table: dict[str, int] = {}
        for key in sorted(self._parts):
            table[key[dimension]] = table.get(key[dimension], 0) + self._parts[key].num_bytes
        return table


class Sample:
    """The texts with the smallest keyed hashes, as many as fit into `limit` bytes, in the order they came.

    Which texts are taken depends on the texts and the seed alone, not on their order.
    """

    def __init__(self, limit: int, seed: int) -> None:
        self._limit = limit
        self._seed = seed
        self._heap: list[tuple[int, int, bytes]] = []
        self._bar = 1 << 64
        self._added = 0
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, text: bytes) -> None:
        """Offer a text, UTF-8."""
        key = xxhash.xxh3_64_intdigest(text, seed=self._seed)
        self._added += 1
        if key >= self._bar or not text:
            return
        heapq.heappush(self._heap, (-key, self._added, text))
        self.num_bytes += len(text)
        while self.num_bytes > self._limit and len(self._heap) > 1:
            dropped, _, gone = heapq.heappop(self._heap)
            self.num_bytes -= len(gone)
            self._bar = -dropped  # nothing at or above it can come back, or the order of the inputs would matter

    def texts(self) -> Iterator[bytes]:
        """The texts taken."""
        for _, _, text in sorted(self._heap, key=lambda entry: entry[1]):
            yield text


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()} or {_ANY: 1.0}
