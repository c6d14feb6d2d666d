"""What a library function may say while it works; nothing in ptool but `cli/output.py` prints.

A function that takes long takes a `reporter`. The command line passes one that writes to stderr,
a notebook may pass its own, and `SILENT` is the default.
"""

from __future__ import annotations

from typing import Protocol

GOING_ON = "going on"
"""The detail of a first progress call with what earlier processes did."""


class Reporter(Protocol):
    """Receives notices and progress."""

    def notice(self, text: str) -> None:
        """One line for the person running the command."""

    def progress(self, done: int, total: int | None, *, unit: str, detail: str = "") -> None:
        """Work done so far and in all (None where unknown), in `unit` ("bytes", "documents", "steps").

        Speed and time left count from the start, or from a call whose detail is `GOING_ON`: what an earlier process did
        says nothing about this one's speed.
        """


class _Silent:
    def notice(self, text: str) -> None:
        pass

    def progress(self, done: int, total: int | None, *, unit: str, detail: str = "") -> None:
        pass


SILENT: Reporter = _Silent()
