"""The packed folders of a run, read as one: rows by (folder, row), and where the next samples stand.

Rows of one step all have the same length, though folders of different phases may differ. Everything is memory-mapped;
a step reads the pages of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ptool.errors import InputError
from ptool.formats.mixture import Samples as Places
from ptool.formats.packed import PackedDataset, PackedRows
from ptool.training.config import RunConfig
from ptool.training.course import Course
from ptool.training.data import Range, SampleOrder, Samples


class Corpus:
    """The training rows of all packed folders of a run, in its data order."""

    def __init__(self, config: RunConfig, datasets: Sequence[PackedDataset]) -> None:
        self.datasets = list(datasets)
        self.course = Course(config.phase)
        self._seed = config.run.seed
        self._ordered = lru_cache(maxsize=2)(self._order)

    def places(self, samples: Samples, skipped: Sequence[Range]) -> Places:
        """Folder, row and epoch of each sample, when `skipped` are left out of the order."""
        return self._ordered(tuple(skipped)).places(samples)

    def rows(self, places: Places) -> PackedRows:
        """The rows themselves, in the order of `places`; all of one length."""
        folders: list[int] = np.unique(places.folders).tolist()
        if len(folders) == 1:
            return self.datasets[folders[0]].train.rows(places.rows)
        parts = [self.datasets[folder].train.rows(places.rows[places.folders == folder]) for folder in folders]
        back = np.argsort(np.concatenate([np.flatnonzero(places.folders == folder) for folder in folders]))
        return PackedRows(*(np.concatenate(columns)[back] for columns in zip(*parts, strict=True)))

    def first_row(self) -> PackedRows:
        """The first row of the first folder: what probes are computed on, whatever was trained."""
        return self.datasets[0].train.rows([0])

    def _order(self, skipped: tuple[Range, ...]) -> SampleOrder:
        splits = [dataset.train for dataset in self.datasets]
        weights = [phase.weights for phase in self.course.phases]
        weights = [(*given, *[0.0] * (len(splits) - len(given))) for given in weights]
        return SampleOrder(
            list(zip(self.course.first_samples(skipped), weights, strict=True)),
            [split.num_rows for split in splits],
            [split.num_tokens for split in splits],
            seed=self._seed,
            fingerprint=self.datasets[0].fingerprint,
        )


def open_corpus(config: RunConfig) -> Corpus:
    """The data of a run. Raises InputError where a folder is gone or is not the same any more."""
    datasets = []
    for packed, fingerprint in zip(config.data.packed, config.data.fingerprints, strict=True):
        if not Path(packed).is_dir():
            raise InputError("the packed data of this run is gone", where=packed, hint="bring it back to that place")
        dataset = PackedDataset.open(Path(packed))
        if dataset.fingerprint != fingerprint:
            message = f"the packed data changed: {dataset.fingerprint}, and the run was started on {fingerprint}"
            hint = "pack the same data again, or --allow-data-change goes on with what is there and records it"
            raise InputError(message, where=packed, hint=hint)
        datasets.append(dataset)
    return Corpus(config, datasets)
