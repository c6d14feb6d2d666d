"""What is remembered of the kept documents to find near duplicates: keys of bands, and the buckets over them.

Per band there is an open-addressing table. A slot names the newest document of a bucket beside the upper half of the
band's 64-bit key, and `links[document, band]` names the next older one, so a bucket is a chain. Slots are in the order
of that half key, which is also what a larger table is filled by: growing walks memory from end to end.

Two bands are the same when their 64-bit keys are. Among ten million documents of 14 bands, two different bands share a
key with probability 4e-5, and then verification refuses the pair.

A bucket remembers its first `max_bucket` kept documents. Without that bound a boilerplate that 100,000 kept documents
share would be compared 100,000 times for each new one. What is left out is counted: the last link of a full bucket has
its highest bit set and holds the number of documents that came too late.

Memory per kept document, 112 permutations in 14 bands: 56 bytes of links, 4 of stamps, 128 to 147 of tables, and for
verification by exact sets 112 of keys (the sets are on disk, spool.py), by signatures 448 of signature, from which the
keys are computed again. Tables grow by 15 % inside one block, one band at a time, so growing needs a copy of one band.
"""

from __future__ import annotations

import numpy as np

from ptool.dedup.config import Bands
from ptool.dedup.exact import MAX_LOAD, Column, grown
from ptool.dedup.tables import Tables, widen_tables


class NearIndex:
    """Buckets of the kept documents. `signed`: signatures of this type are stored, otherwise keys only."""

    def __init__(self, num_perm: int, layout: Bands, signed: type[np.generic] | None) -> None:
        self.layout = layout
        self.keys = Column(0 if signed else layout.bands, np.uint64)
        self.signatures = Column(num_perm if signed else 0, signed or np.uint32)
        self.links = Column(layout.bands, np.uint32)
        self.stamps = Column(1, np.uint32)
        self.tables: Tables = np.zeros((layout.bands, 1024), dtype=np.uint64)

    @property
    def columns(self) -> list[Column]:
        """Everything that has a row for each document."""
        return [self.keys, self.signatures, self.links, self.stamps]

    def reserve(self, num_documents: int) -> None:
        """Make room for this many documents in all."""
        for column in self.columns:
            column.reserve(num_documents)
        num_bands, num_slots = self.tables.shape
        if num_documents > MAX_LOAD * num_slots:
            self.tables.resize((num_bands, grown(num_slots, num_documents)), refcheck=False)
            widen_tables(self.tables, num_slots)
