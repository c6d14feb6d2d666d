"""Everything a person or a script gets to see: stdout is the product, stderr is for people.

The only module that imports rich, and only when stderr is a terminal and there is something to draw. Without a
terminal, progress is one line a minute and one at the end. `NO_COLOR`, `TERM=dumb` and `--color never` mean that not
one escape byte is written.

What cannot be written to stdout is a failure. What cannot be written to stderr is none: the terminal of a run that was
left to itself (`disown`, `setsid`) is gone one day, and the run goes on.
"""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptool.cli.descriptors import MISSING
from ptool.errors import PtoolError, UsageError
from ptool.reporting import GOING_ON
from ptool.units import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from ptool.formats.manifests import Manifest

_SECONDS_BETWEEN_LINES = 60.0


class Out:
    """Where a command's words go. It is a `Reporter` for the library."""

    def __init__(
        self,
        *,
        json_mode: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        progress: bool = True,
        color: str = "auto",
    ) -> None:
        self.json_mode = json_mode
        self.quiet = quiet
        self.verbose = verbose
        self.color = color
        self._progress = _Progress(enabled=progress and not quiet, color=self.colored(2))

    @property
    def reporter(self) -> Out:
        """What a library function reports to."""
        return self

    def colored(self, descriptor: int) -> bool:
        """Whether escape bytes belong on this descriptor."""
        if self.color != "auto":
            return self.color == "always"
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM", "") in ("", "dumb")
        return not plain and os.isatty(descriptor)

    def notice(self, text: str) -> None:
        """One line for people, on stderr."""
        if not self.quiet:
            self._to_stderr(f"ptool: {text}\n")

    def aside(self, text: str) -> None:
        """Text for people as it is, on stderr."""
        if not self.quiet:
            self._to_stderr(text + "\n")

    def detail(self, text: str) -> None:
        """A line for people who asked for more (`-v`)."""
        if self.verbose:
            self._to_stderr(f"ptool: {text}\n")

    def progress(self, done: int, total: int | None, *, unit: str, detail: str = "") -> None:
        """Work done so far; shown on a terminal, or once a minute."""
        self._progress.update(done, total, unit, detail)

    def show_progress(self) -> None:
        """Print where the work is, now (SIGUSR1).

        Past Python's buffers: the signal may come while one of them is being written, which allows no second writer.
        """
        with suppress(OSError):
            os.write(2, f"ptool: {self._progress.line()}\n".encode("utf-8", "backslashreplace"))

    def summary(self, rows: Sequence[tuple[str, str]], *, title: str = "") -> None:
        """A short table of names and values for people, on stderr."""
        if self.quiet or not rows:
            return
        width = max(len(name) for name, _ in rows)
        head = f"{title}\n" if title else ""
        self._to_stderr(head + "".join(f"  {name:<{width}}  {value}\n" for name, value in rows))

    def text(self, text: str) -> None:
        """Text that is the product, on stdout."""
        self._progress.clear()
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()

    def json(self, value: Any) -> None:
        """One JSON object, on stdout."""
        import msgspec

        self._progress.clear()
        _write_json(msgspec.json.encode(value) + b"\n")

    def artefact(self, folder: Path, manifest: Manifest, rows: Sequence[tuple[str, str]] = ()) -> None:
        """The line that the next command reads, on stdout; `rows` for people.

        Where the caller has closed stdout (`>&-`) no command reads it, and the folder is there.
        """
        from ptool.formats.artefacts import artefact_line

        self.finish_progress()
        self.summary(rows)
        if 1 not in MISSING:
            _write_json(artefact_line(folder, manifest))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], *, descriptor: int = 2) -> None:
        """Aligned columns for people: the first to the left, the others to the right."""
        if descriptor == 2 and self.quiet:
            return
        text = plain_table(header, rows)
        if self.colored(descriptor):
            head, _, rest = text.partition("\n")
            text = f"\x1b[1m{head}\x1b[0m\n{rest}"
        if descriptor == 2:
            self._to_stderr(text)
        else:
            self.text(text)

    def error(self, error: PtoolError) -> None:
        """One failure, on stderr: a line for people, or an object with `--json`."""
        if self.json_mode:
            import msgspec

            body = {"code": error.exit_code, "message": error.message, "where": error.where, "hint": error.hint}
            # A name that is no UTF-8 arrives with surrogates, which JSON must not have.
            shown = {key: _without_surrogates(value) for key, value in body.items()}
            self._to_stderr(msgspec.json.encode({"error": shown}).decode() + "\n")
            return
        where = f"{error.where}: " if error.where else ""
        hint = f"\n  hint: {error.hint}" if error.hint else ""
        self._to_stderr(f"ptool: {where}{error.message}{hint}\n")

    def finish_progress(self) -> None:
        """The last progress line."""
        self._progress.finish()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.clear()

    def _to_stderr(self, text: str) -> None:
        self._progress.clear()
        _say(text)


class _Progress:
    """Progress of one piece of work: a bar on a terminal, a line a minute elsewhere."""

    def __init__(self, *, enabled: bool, color: bool) -> None:
        self._enabled = enabled
        self._terminal = enabled and os.isatty(2) and os.environ.get("TERM", "") not in ("", "dumb")
        self._color = color
        self._bar: Any = None
        self._task: Any = None
        self._started = self._printed = self._drawn = time.monotonic()
        self._base = (self._started, 0)
        self._state: tuple[int, int | None, str, str] | None = None

    def update(self, done: int, total: int | None, unit: str, detail: str) -> None:
        self._state = (done, total, unit, detail)
        now = time.monotonic()
        if detail == GOING_ON:
            self._base = (now, done)
        if self._terminal:
            if now - self._drawn > 0.1:
                self._drawn = now
                try:
                    self._draw()
                except OSError:  # the terminal is gone
                    self._terminal = self._enabled = False
        elif self._enabled and now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            self.print_line()

    def finish(self) -> None:
        if self._terminal:
            self.clear()
        elif self._enabled and self._state is not None and time.monotonic() - self._started >= 1.0:
            self.print_line()
        self._state = None

    def print_line(self) -> None:
        _say(f"ptool: {self.line()}\n")

    def clear(self) -> None:
        if self._bar is not None:
            bar, self._bar = self._bar, None
            with suppress(OSError):
                bar.stop()

    def line(self) -> str:
        """Where the work is, in words."""
        if self._state is None:
            return "nothing done yet"
        done, total, unit, detail = self._state
        since, before = self._base
        seconds, new = max(time.monotonic() - since, 1e-9), done - before
        show = format_bytes if unit == "bytes" else format_count
        text = show(done) + (f" of {show(total)}" if total else "")
        if unit != "bytes":
            text += f" {unit}"
        if new > 0 or not before:
            rate = new / seconds
            text += f", {show(int(rate)) if rate >= 10 or unit == 'bytes' else f'{rate:.2g}'}/s"
        if total and new > 0 and done < total:
            text += f", {format_duration(seconds / new * (total - done))} left"
        return f"{text}, {detail}" if detail else text

    def _draw(self) -> None:
        if self._state is None:
            return
        done, total, _, _ = self._state
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            console = Console(stderr=True, no_color=not self._color, highlight=False)
            columns = [BarColumn(bar_width=20), TextColumn("{task.description}", markup=False)]
            self._bar = Progress(
                *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._task = self._bar.add_task("", total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, description=self.line())


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in plain text, two spaces apart; numbers end below one another, words begin so."""
    lines = [[_printable(cell) for cell in line] for line in (header, *rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(header))]
    are_numbers = [_are_numbers([row[column] for row in rows]) for column in range(len(header))]
    text = ""
    for line in lines:
        cells = []
        for cell, width, is_number in zip(line, widths, are_numbers, strict=True):
            gap = " " * (width - _width(cell))
            cells.append(gap + cell if is_number else cell + gap)
        text += "  ".join(cells).rstrip() + "\n"
    return text


def _printable(cell: str) -> str:
    """A cell on one line: names come from documents, and may hold what a terminal obeys."""
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter
        for letter in cell
    )


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: an ideograph takes two, a mark on the letter before it none."""
    return sum(
        0
        if unicodedata.category(letter) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(letter) in "WF"
        else 1
        for letter in text
    )


def _are_numbers(cells: Sequence[str]) -> bool:
    """Whether a column holds quantities: every cell that says something begins like one."""
    said = [cell for cell in cells if cell.strip() and cell != "-"]
    return bool(said) and all(cell.lstrip(" -+~<>$")[:1].isdigit() for cell in said)


def _say(text: str) -> None:
    """To stderr, where somebody is listening."""
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _write_json(line: bytes) -> None:
    """To stdout, UTF-8 whatever the locale: another program reads it."""
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:  # a stand-in for text alone
        sys.stdout.write(line.decode())
    else:
        buffer.write(line)
    sys.stdout.flush()


def _without_surrogates(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


_current = Out()


def configure(*, json_mode: bool, quiet: bool, verbose: bool, no_progress: bool, color: str) -> None:
    """Set how this process speaks; called once, before the command."""
    global _current  # noqa: PLW0603 (one process has one terminal)
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other")
    _current = Out(json_mode=json_mode, quiet=quiet, verbose=verbose, progress=not no_progress, color=color)


def current() -> Out:
    """How this process speaks."""
    return _current
