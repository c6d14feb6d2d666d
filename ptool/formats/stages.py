"""A stage that turns a document stream into a document stream: everything around its decisions.

`filter` and `dedup` decide; this module reads, writes, counts, and keeps the promises that are the same for both: the
header is written before anything is read, an output that is there is either up to date or refused, nothing stands under
its name after a failure, every document read is kept, dropped or rejected, and the manifest that goes out names what
came in. A run has one output, or one for each input when the output is a folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from ptool.errors import UsageError
from ptool.formats.atomic import PendingFile, describing_os_errors, write_bytes
from ptool.formats.ledger import ErrorPolicy, Ledger, check_distinct, check_writable, is_plain
from ptool.formats.manifests import (
    Counts,
    DocumentsDigest,
    Manifest,
    decode_manifest,
    encode_manifest,
    new_manifest,
)
from ptool.formats.runs import RunRecord
from ptool.formats.streams import STDIN, Lines, StreamReader, StreamWriter, read_trailer
from ptool.reporting import SILENT, Reporter


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a stage reads and writes; nothing here changes which documents are kept."""

    policy: ErrorPolicy = ErrorPolicy()
    allow_empty: bool = False
    force: bool = False
    compress: bool = True
    """False: plain JSON lines, whatever the output is called."""
    manifest_beside: bool = False
    """Also write `NAME.manifest.json` beside a compressed output, as folders of outputs have it."""


DEFAULTS = StreamOptions()


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a run: its manifest, where it went (None: stdout), and whether nothing had to be done."""

    manifest: Manifest
    output: Path | None
    up_to_date: bool = False


class TransformRun:
    """One run of a stream stage, used as a context: leave it by an exception and no output stands.

        with TransformRun("filter", config, inputs, output) as run:
            if not run.up_to_date:
                for lines in run.lines():
                    run.keep(kept_lines, num_kept)
        report = run.finish()

    `inputs` are paths or "-", none means stdin; `output` is a file, None for stdout, or a list with one file for each
    input. `config` is what determines the bytes. `labels` replaces the inputs' labels in ids. `beside` are the
    files that the stage itself writes when all is done, by option: they are refused before anything is read.
    """

    def __init__(
        self,
        stage: str,
        config: dict[str, Any],
        inputs: Sequence[str | Path],
        output: Path | Sequence[Path] | None = None,
        *,
        options: StreamOptions = DEFAULTS,
        reporter: Reporter = SILENT,
        labels: Sequence[str] | None = None,
        beside: Mapping[str, Path | None] | None = None,
    ) -> None:
        self._stage = stage
        self._config = config
        self._inputs = [str(source) for source in inputs] or [STDIN]
        self._outputs = [output] if output is None or isinstance(output, Path) else list(output)
        self._options = options
        self._reporter = reporter
        named = {f"-o {number}" if number else "-o": path for number, path in enumerate(self._outputs)}
        check_distinct({**named, "--rejects": options.policy.rejects, **(beside or {})}, self._inputs)
        check_writable(beside or {})
        self._reader = StreamReader(
            self._inputs, reporter=reporter, allow_empty=options.allow_empty, input_labels=labels
        )
        self._parts: list[_Part] = []
        self._ledger: Ledger | None = None
        self._source = 0
        self._record = RunRecord()
        self.up_to_date = False

    def __enter__(self) -> Self:
        existing = [read_manifest(path) for path in self._outputs if path is not None and path.exists()]
        if existing and not self._options.force:
            self._compare(existing)
        if self.up_to_date:
            return self
        try:
            rejects = self._options.policy.rejects
            if rejects is not None and rejects.exists() and not self._options.force:
                found = read_manifest(rejects)
                if found is None or found.stage != self._stage or found.details.get("stream") != "rejects":
                    raise _exists(rejects, f"is no rejects stream of ptool {self._stage}")
            self._ledger = Ledger(self._stage, self._options.policy, compress=self._options.compress)
            for path in self._outputs:
                self._parts.append(_Part(path, self._stage, self._options))
                if len(self._outputs) > 1:
                    self._parts[-1].rest()  # a process may have 1024 files open, and a crawl has 90,000
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._discard()

    def lines(self) -> Iterator[Lines]:
        """The input, batch by batch. `keep`, `drop` and `reject` belong to the batch last seen."""
        yield from self._reader

    def at(self, lines: Lines) -> None:
        """Say which input the following `keep` calls belong to; needed where work runs ahead of writing."""
        if len(self._parts) > 1 and lines.source != self._source:
            self._parts[self._source].rest()
        self._source = lines.source

    def keep(self, data: bytes | memoryview, num_documents: int) -> None:
        """Write whole kept lines, in order."""
        self._open_ledger.kept += num_documents
        self._parts[self._source if len(self._parts) > 1 else 0].keep(data, num_documents)

    def drop(self, line: bytes, reason: dict[str, Any]) -> None:
        """Count a dropped document; `reason["rule"]` is what it is counted under."""
        self._open_ledger.drop(line, reason)

    def reject(self, line: bytes, *, path: str, number: int, message: str) -> None:
        """Handle a line that is not a document as the policy says."""
        self._open_ledger.reject(line, path=path, number=number, message=message)

    @property
    def counts(self) -> Counts:
        """What became of the documents so far."""
        return self._open_ledger.counts

    def finish(self, details: dict[str, Any] | None = None) -> StageReport:
        """Write trailers, publish all outputs, and return the manifest of the whole run.

        Raises TooManyRejected after everything is published, as exit code 3 means "finished".
        """
        if self.up_to_date:
            return StageReport(manifest=self._existing, output=self._outputs[0], up_to_date=True)
        ledger = self._open_ledger
        counts = ledger.counts
        manifest = new_manifest(
            self._stage,
            self._config,
            counts=counts,
            documents_in=self._reader.documents(counts.read),
            details=details or {},
            upstream=self._reader.upstream,
        )
        try:
            ledger.seal(self._config)
            for part in self._parts:
                part.seal(manifest)
            ledger.publish()
            for part in self._parts:
                part.publish(manifest, self._record)
        except BaseException:
            self._discard()
            raise
        whole = _with_documents(manifest, self._parts[0]) if len(self._parts) == 1 else manifest
        ledger.check()
        return StageReport(manifest=whole, output=self._outputs[0])

    def _compare(self, existing: list[Manifest | None]) -> None:
        """Decide from what is there, before reading where that is possible, whether anything is left to do."""
        expected = new_manifest(self._stage, self._config)
        for path, found in zip((path for path in self._outputs if path is not None), existing, strict=False):
            if found is None:
                raise _exists(path, "is no finished output of ptool")
            if (found.stage, found.version, found.config) != (expected.stage, expected.version, self._config):
                raise _exists(path, f"was made otherwise, by {found.stage} {found.version}")
        if len(existing) < len(self._outputs) or _missing(self._options.policy.rejects):
            return  # same work, not all of it there: made again, with the same bytes
        for _ in self._reader:
            pass
        found = existing[0]
        if found is None or found.documents_in is None or found.documents_in.digest != self._reader.digest:
            raise _exists(self._outputs[0], "was made from other input")
        self._existing = found
        self.up_to_date = True
        self._reporter.notice(f"up to date: {self._outputs[0]}")

    @property
    def _open_ledger(self) -> Ledger:
        if self._ledger is None:
            raise RuntimeError("a TransformRun is used inside its `with` block")
        return self._ledger

    def _discard(self) -> None:
        for part in self._parts:
            part.discard()
        if self._ledger is not None:
            self._ledger.discard()


class _Part:
    """One output of a run."""

    def __init__(self, path: Path | None, stage: str, options: StreamOptions) -> None:
        compress = options.compress and not is_plain(path)
        self._path = path
        self._plain = not compress  # no trailer to carry the manifest
        self._beside = options.manifest_beside or self._plain
        self._pending = PendingFile(path) if path is not None else None
        self.digest = DocumentsDigest()
        sink = self._pending.file if self._pending else stdout()
        try:
            with self._describing_errors():
                self.writer = StreamWriter(sink, stage=stage, compress=compress)
        except BaseException:
            self.discard()
            raise

    def keep(self, data: bytes | memoryview, num_documents: int) -> None:
        self.digest.update(data, num_documents)
        self._go_on()
        with self._describing_errors():
            self.writer.write(data)

    def rest(self) -> None:
        """Close the file until the next lines come, or the trailer."""
        if self._pending is not None and not self._pending.file.closed:
            with self._describing_errors():
                self.writer.rest()
            self._pending.close()

    def _go_on(self) -> None:
        if self._pending is not None and self._pending.file.closed:
            self._pending.reopen()
            self.writer.go_on(self._pending.file)

    def seal(self, manifest: Manifest) -> None:
        self._go_on()
        with self._describing_errors():
            self.writer.finish(_with_documents(manifest, self))
        if self._pending is not None:
            self._pending.seal()

    def _describing_errors(self) -> AbstractContextManager[None]:
        return describing_os_errors(self._path or Path("stdout"))

    def publish(self, manifest: Manifest, record: RunRecord) -> None:
        if self._path is None or self._pending is None:
            return
        beside = manifest_beside(self._path)
        if self._plain:  # its lines come last: with no manifest they would be taken for somebody else's
            self._path.unlink(missing_ok=True)  # which the new manifest does not describe
        beside.unlink(missing_ok=True)  # that of an output being replaced
        if not self._plain:
            self._pending.publish()
        if self._beside:
            write_bytes(beside, encode_manifest(_with_documents(manifest, self)) + b"\n")
        if self._plain:
            self._pending.publish()
        record.write(self._path)

    def discard(self) -> None:
        if self._pending is not None:
            self._pending.discard()


def stdout() -> BinaryIO:
    """The process's stdout as a sink of document lines."""
    return sys.stdout.buffer


def refuse_terminal(compress: bool) -> None:
    """Refuse to write compressed frames to a person's screen."""
    if compress and os.isatty(1):
        raise UsageError(
            "the output is a Zstandard stream and stdout is a terminal",
            hint="-o FILE writes a file; --compress none shows the lines; or pipe it into the next command",
        )


def manifest_beside(path: Path) -> Path:
    """Where the manifest of a plain output stands."""
    return path.with_name(path.name + ".manifest.json")


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of a finished stream file, from its trailer or beside it; None where there is none."""
    if not path.is_file():
        return None
    beside = manifest_beside(path)
    if beside.is_file():
        return decode_manifest(beside.read_bytes(), where=str(beside))
    return read_trailer(path)


def _with_documents(manifest: Manifest, part: _Part) -> Manifest:
    return msgspec.structs.replace(manifest, documents_out=part.digest.documents)


def _exists(path: Path | None, why: str) -> UsageError:
    return UsageError(f"the output is there and {why}", where=str(path), hint="--force replaces it")


def _missing(path: Path | None) -> bool:
    return path is not None and not path.exists()
