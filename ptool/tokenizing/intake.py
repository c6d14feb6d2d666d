"""Reading a document stream for a stage whose product is no stream: the input side of its promises.

Every document read is kept or rejected, and counted; lines that are no documents go where the policy says; the digest
of what was read and the manifests of the stages before it are known at the end, so that an output that is there can be
told to be this work's or another's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ptool.errors import UsageError
from ptool.formats.ledger import ErrorPolicy, Ledger, check_distinct
from ptool.formats.manifests import Counts, Documents, Manifest
from ptool.formats.stages import read_manifest
from ptool.formats.streams import Lines, StreamReader
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import BadLine, Keys


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How documents are read; but for `keys`, nothing here changes what comes out."""

    keys: Keys = Keys()
    policy: ErrorPolicy = ErrorPolicy()
    allow_empty: bool = False


class Intake:
    """The documents of some inputs (paths, "-", or none for stdin) for one run of a stage."""

    def __init__(
        self,
        stage: str,
        config: dict[str, Any],
        inputs: Sequence[str | Path],
        output: Path,
        *,
        reading: Reading,
        force: bool,
        reporter: Reporter = SILENT,
    ) -> None:
        """Raises UsageError where an output is also an input, or the rejects file is something else's."""
        names = [str(source) for source in inputs]
        check_distinct({"-o": output, "--rejects": reading.policy.rejects}, names)
        rejects = reading.policy.rejects
        if rejects is not None and rejects.exists() and not force:
            found = read_manifest(rejects)
            if found is None or found.stage != stage or found.details.get("stream") != "rejects":
                message = f"the output is there and is no rejects stream of ptool {stage}"
                raise UsageError(message, where=str(rejects), hint="--force replaces it")
        self._stage = stage
        self._config = config
        self._policy = reading.policy
        self._reader = StreamReader(names, reporter=reporter, allow_empty=reading.allow_empty)
        self._ledger: Ledger | None = None

    def is_of(self, manifest: Manifest) -> bool:
        """Whether a finished output was made from this input: reads all of it, and comes instead of `opened`."""
        rejects = self._policy.rejects
        if rejects is not None and not rejects.exists():
            return False
        for _ in self._reader:
            pass
        return manifest.documents_in is not None and manifest.documents_in.digest == self._reader.digest

    @contextmanager
    def opened(self) -> Iterator[Intake]:
        """The run: leaving it by an exception leaves no rejects file."""
        self._ledger = Ledger(self._stage, self._policy)
        try:
            yield self
        except BaseException:
            self._ledger.discard()
            raise

    def lines(self) -> Iterator[Lines]:
        """The input, batch by batch."""
        yield from self._reader

    def go_on(self) -> None:
        """From here on the documents are new: speed and time left count from here."""
        self._reader.is_going_on = True

    def count(self, num_documents: int, bad: Iterable[BadLine], path: str) -> None:
        """Count the documents of a batch, and treat its bad lines as the policy says."""
        self._open.kept += num_documents
        for line in bad:
            self._open.reject(line.raw + b"\n", path=path, number=line.number, message=line.message)

    @property
    def counts(self) -> Counts:
        """What became of the documents so far."""
        return self._open.counts

    @property
    def documents(self) -> Documents:
        """What was read, once everything was."""
        return self._reader.documents(self._open.counts.read)

    @property
    def upstream(self) -> list[Manifest]:
        """The manifests that came with the input."""
        return self._reader.upstream

    def publish_rejects(self) -> None:
        """Give the rejects stream its name."""
        self._open.seal(self._config)
        self._open.publish()

    def check(self) -> None:
        """After everything is published: raise TooManyRejected (exit 3) where more was rejected than allowed."""
        self._open.check()

    @property
    def _open(self) -> Ledger:
        if self._ledger is None:
            raise RuntimeError("an Intake is used inside its `opened` block")
        return self._ledger
