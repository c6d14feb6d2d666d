"""Every failure ptool reports, each with the exit code of its kind.

    PtoolError                 1   something failed
    ├── UsageError             2   the call itself is wrong: nothing was read or written
    ├── InputError             1   what was read is not what it should be
    │   ├── DamagedInput       1   cut, altered, or from an upstream that died
    │   └── BadDocument        1   a line that is not a document
    ├── OutputError            1   what was to be written could not be
    ├── TooManyRejected        3   finished, with more rejected records than allowed
    ├── CheckFailed            4   a requested check failed
    └── StoppedAndSaved       75   stopped and saved: the same command goes on from there

The exit codes are part of ptool's interface (ptool(1), EXIT STATUS) and do not change.
This module imports nothing of ptool, so that every layer can raise from it.
"""

from __future__ import annotations


class PtoolError(Exception):
    """A failure a person can act on.

    `message` says what happened, `where` names the place (file:line, document id), `hint` says what to type next.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        """One line: `where: message (hint)`."""
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.hint})" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        """Keyword-only fields survive the way back from a worker process."""
        return _rebuild, (type(self), self.message, self.where, self.hint)


def _rebuild(kind: type[PtoolError], message: str, where: str | None, hint: str | None) -> PtoolError:
    return kind(message, where=where, hint=hint)


class UsageError(PtoolError):
    """The call is wrong; nothing was read or written."""

    exit_code = 2


class InputError(PtoolError):
    """What was read is not what it should be."""


class DamagedInput(InputError):
    """A stream or file that is cut, altered, or whose writer died."""


class BadDocument(InputError):
    """A line that is not a document."""


class OutputError(PtoolError):
    """What was to be written could not be: disk full, read-only folder."""


class TooManyRejected(PtoolError):
    """The work is finished, and more records were rejected than `--max-errors` allows."""

    exit_code = 3


class CheckFailed(PtoolError):
    """A check that was asked for failed: `--fail-if`, does not fit."""

    exit_code = 4


class StoppedAndSaved(PtoolError):
    """Stopped by a signal or a time limit after saving; the same command continues."""

    exit_code = 75
