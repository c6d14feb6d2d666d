"""The kept documents' signatures and the LSH buckets over them, in arrays.

Per band there is an open-addressing table of 4-byte document numbers. A slot names the newest document of a bucket, and
`links[document, band]` names the next older one, so a bucket is a chain. No key is stored anywhere: the band of a
stored signature is the key, compared value by value, so two bands in one bucket are equal, not merely of equal hash.

A bucket remembers its first `max_bucket` kept documents. Without that bound a boilerplate that 100,000 kept documents
share would be compared 100,000 times for each new one. What is left out is counted: the last link of a full bucket has
its highest bit set and holds the number of documents that came too late.

Memory per kept document at 112 permutations in 14 bands: 448 bytes of signature, 56 of links, 4 of stamps and 75 to 105
of tables. Tables grow one band at a time inside one block, so growing needs a copy of one band only.
"""

from __future__ import annotations

import numpy as np

from ptool.dedup.config import Bands
from ptool.dedup.exact import MAX_LOAD, Column, grown
from ptool.dedup.kernels import Tables, spread_tables


class NearIndex:
    """Signatures of the kept documents and their buckets."""

    def __init__(self, num_perm: int, layout: Bands) -> None:
        self.layout = layout
        self.signatures = Column(num_perm, np.uint32)
        self.links = Column(layout.bands, np.uint32)
        self.stamps = Column(1, np.uint32)
        self.tables: Tables = np.zeros((layout.bands, 1024), dtype=np.uint32)

    def reserve(self, num_documents: int) -> None:
        """Make room for this many documents in all."""
        self.signatures.reserve(num_documents)
        self.links.reserve(num_documents)
        self.stamps.reserve(num_documents)
        num_bands, num_slots = self.tables.shape
        if num_documents > MAX_LOAD * num_slots:
            new_slots = grown(num_slots, num_documents)
            self.tables.resize((num_bands, new_slots), refcheck=False)
            spread_tables(self.tables, num_slots, self.signatures.array, self.layout.rows)
