"""What became of every document of a stage: counted, and written down where that was asked for.

The rejects stream holds each dropped document's line with a `"ptool"` object spliced in after its opening brace, saying
which stage dropped it and why; a line that is no document is wrapped whole:

    {"ptool":{"stage":"filter","rule":"word-count","value":12.0,"accept":[50.0,100000.0]},"id":…,"text":…}
    {"ptool":{"stage":"filter","reason":"invalid JSON …","file":"a.jsonl","line":7},"raw":"…"}

`raw` is text; bytes that are not UTF-8 go to `raw_base64`. So nothing is lost, and `jq 'del(.ptool)'` gives the
documents back.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from ptool.errors import BadDocument, TooManyRejected, UsageError
from ptool.formats.atomic import PendingFile, describing_os_errors
from ptool.formats.manifests import Counts, DocumentsDigest, new_manifest
from ptool.formats.streams import StreamWriter

OnError = Literal["fail", "reject"]


class ErrorPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with a line that is not a document.

    `fail` stops at the first one. `reject` counts it, writes it to `rejects` where that is given, and fails with exit
    code 3 after finishing when there were more than `max_errors`.
    """

    on_error: OnError = "fail"
    max_errors: int = 0
    rejects: Path | None = None


class Ledger:
    """Counts the documents of one stage run and writes its rejects stream."""

    def __init__(self, stage: str, policy: ErrorPolicy, *, compress: bool = True) -> None:
        self._stage = stage
        self._policy = policy
        self.kept = 0
        self.rejected = 0
        self.dropped_by: dict[str, int] = {}
        self._digest = DocumentsDigest()
        self._pending = PendingFile(policy.rejects) if policy.rejects is not None else None
        self._writer: StreamWriter | None = None
        if self._pending is not None:
            try:
                with describing_os_errors(self._pending.path):
                    plain = is_plain(policy.rejects)
                    self._writer = StreamWriter(self._pending.file, stage=stage, compress=compress and not plain)
            except BaseException:
                self.discard()
                raise

    def drop(self, line: bytes, reason: dict[str, Any]) -> None:
        """Count one dropped document under `reason["rule"]`, and keep its line where rejects are kept."""
        rule = reason["rule"]
        self.dropped_by[rule] = self.dropped_by.get(rule, 0) + 1
        if self._writer is not None:
            self._write(splice(line, b'"ptool":' + msgspec.json.encode({"stage": self._stage, **reason})))

    def reject(self, line: bytes, *, path: str, number: int, message: str) -> None:
        """Count a line that is not a document, or raise BadDocument when the policy is to fail."""
        if self._policy.on_error == "fail":
            raise BadDocument(
                message, where=f"{path}:{number}", hint="--on-error reject sets such lines aside and goes on"
            )
        self.rejected += 1
        if self._writer is not None:
            # A name that is no UTF-8 arrives with surrogates, which JSON must not have.
            file = path.encode("utf-8", "backslashreplace").decode()
            why = {"stage": self._stage, "reason": message, "file": file, "line": number}
            body = line.removesuffix(b"\n")
            try:
                raw = {"ptool": why, "raw": body.decode("utf-8")}
            except UnicodeDecodeError:
                raw = {"ptool": why, "raw_base64": base64.b64encode(body).decode("ascii")}
            self._write(msgspec.json.encode(raw) + b"\n")

    @property
    def counts(self) -> Counts:
        """The conservation law, checked as it is built."""
        dropped = sum(self.dropped_by.values())
        return Counts(
            read=self.kept + dropped + self.rejected,
            kept=self.kept,
            dropped=dropped,
            rejected=self.rejected,
            dropped_by=dict(sorted(self.dropped_by.items())),
        )

    def seal(self, config: dict[str, Any]) -> None:
        """Finish the rejects stream on the disk; `publish` gives it its name."""
        if self._writer is not None and self._pending is not None:
            manifest = new_manifest(
                self._stage, config, documents_out=self._digest.documents, details={"stream": "rejects"}
            )
            with describing_os_errors(self._pending.path):
                self._writer.finish(manifest)
            self._pending.seal()

    def publish(self) -> None:
        """Give the rejects their name."""
        if self._pending is not None:
            self._pending.publish()

    def discard(self) -> None:
        """Remove what was written of the rejects."""
        if self._pending is not None:
            self._pending.discard()

    def check(self) -> None:
        """Raise TooManyRejected when more lines were rejected than the policy allows."""
        if self.rejected > self._policy.max_errors:
            kept = f"see {self._policy.rejects}" if self._policy.rejects else "--rejects FILE keeps them"
            raise TooManyRejected(
                f"{self.rejected:,} lines were rejected, {self._policy.max_errors:,} are allowed",
                hint=f"{kept}; --max-errors {self.rejected} accepts as many",
            )

    def _write(self, line: bytes) -> None:
        if self._writer is not None and self._pending is not None:
            self._digest.update(line, 1)
            with describing_os_errors(self._pending.path):
                self._writer.write(line)


def splice(line: bytes, member: bytes) -> bytes:
    """Insert `"key":value` as the first member of the JSON object in `line`, changing nothing else."""
    brace = line.index(b"{") + 1
    comma = b"" if line[brace:].lstrip().startswith(b"}") else b","
    return line[:brace] + member + comma + line[brace:]


def is_plain(path: Path | None) -> bool:
    """Whether an output's name asks for plain JSON lines."""
    return path is not None and path.name.endswith(".jsonl")


def check_writable(outputs: Mapping[str, Path | None]) -> None:
    """Refuse outputs that could not be written, before the work of which they come last."""
    for option, path in outputs.items():
        if path is not None and path.is_dir():
            raise UsageError(f"{option} {path} is a folder, and a file is needed")
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{option} {path}: there is no such folder", hint=f"mkdir -p {path.parent}")


def check_distinct(outputs: Mapping[str, Path | None], inputs: list[str]) -> None:
    """Refuse outputs that are each other or an input: reading would meet what is being written."""
    seen = {Path(source).resolve(): f"input {source}" for source in inputs if source != "-"}
    for option, path in outputs.items():
        if path is None:
            continue
        resolved = path.resolve()
        if resolved in seen:
            raise UsageError(f"{option} {path} is also {seen[resolved]}", hint="give another name")
        seen[resolved] = option
