"""Options that several commands share, declared once so that the same flag reads the same everywhere."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ptool import units
from ptool.errors import UsageError

Color = Literal["auto", "always", "never"]

Inputs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[INPUT]...", help="Document streams (.jsonl.zst, .jsonl.gz, .jsonl); none or - is stdin."),
]
Artefact = Annotated[
    str | None,
    typer.Argument(metavar="[FOLDER]", help="A folder or its manifest.json; none or - reads the line on stdin."),
]
StreamOutput = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE|FOLDER/", help="Where to write; default stdout."),
]
FolderOutput = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER/", help="The folder to write.")]
RejectsFile = Annotated[
    Path | None, typer.Option("--rejects", metavar="FILE", help="Write every dropped document here, with the reason.")
]
OnError = Annotated[
    Literal["fail", "reject"],
    typer.Option("--on-error", help="A line that is no document: stop there, or set it aside and count it."),
]
MaxErrors = Annotated[
    int,
    typer.Option(
        "--max-errors",
        parser=units.parse_count,
        metavar="N",
        help="With --on-error reject: more rejected lines than this give exit code 3.",
    ),
]
AllowEmpty = Annotated[bool, typer.Option("--allow-empty", help="Accept an input of 0 bytes.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and touch nothing.")]
Compress = Annotated[
    Literal["zstd", "none"], typer.Option("--compress", help="Output frames: zstd, or none for plain JSON lines.")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        metavar="N",
        parser=units.parse_count,
        envvar="PTOOL_JOBS",
        help="Worker processes; default: what affinity, cgroup and Slurm allow. The output is the same for every N.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="K/N", help="Take every N-th input, from the K-th; `slurm` reads the array task."),
]
Seed = Annotated[int, typer.Option("--seed", parser=units.parse_count, metavar="N", help="Recorded in the manifest.")]
TextKey = Annotated[str, typer.Option("--text-key", metavar="KEY", help="Field that holds the text.")]
IdKey = Annotated[str, typer.Option("--id-key", metavar="KEY", help="Field that holds the id.")]
SourceKey = Annotated[str, typer.Option("--source-key", metavar="KEY", help="Field that names the source.")]

COMMON: dict[str, inspect.Parameter] = {
    name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (
        (
            "json_mode",
            False,
            Annotated[bool, typer.Option("--json", envvar="PTOOL_JSON", help="Report as JSON; errors too, on stderr.")],
        ),
        (
            "quiet",
            False,
            Annotated[bool, typer.Option("--quiet", "-q", envvar="PTOOL_QUIET", help="No notices, no progress.")],
        ),
        ("verbose", False, Annotated[bool, typer.Option("--verbose", "-v", envvar="PTOOL_VERBOSE", help="Say more.")]),
        (
            "no_progress",
            False,
            Annotated[bool, typer.Option("--no-progress", envvar="PTOOL_NO_PROGRESS", help="No progress shown.")],
        ),
        (
            "color",
            "auto",
            Annotated[Color, typer.Option("--color", envvar="PTOOL_COLOR", help="Colour on a terminal.")],
        ),
    )
}
"""The options of every command, by the names that `output.configure` takes them under."""


class NoInput(UsageError):
    """Something is to be read from stdin, and stdin is a terminal or closed: the person needs to know what to type."""


def stream_inputs(inputs: list[str] | None) -> list[str]:
    """The inputs, after refusing to wait for a person to type a stream. Raises UsageError (exit 2)."""
    found = list(inputs or ["-"])
    if "-" in found:
        refuse_terminal_input("a document stream")
    if found.count("-") > 1:
        raise UsageError("stdin can be read once", hint="give - a single time")
    return found


def artefact_input(given: str | None) -> str | None:
    """The folder, after refusing to wait for a person to type an artefact line. Raises UsageError (exit 2)."""
    if given is None or given == "-":
        refuse_terminal_input("a folder, or a pipe from the command before,")
    return given


def artefact_inputs(given: list[str] | None) -> list[str | None]:
    """Several folders, of which at most one is named on stdin."""
    found: list[str | None] = [*given] if given else [None]
    if sum(one in (None, "-") for one in found) > 1:
        raise UsageError("stdin can be read once", hint="give - a single time")
    return [artefact_input(one) for one in found]


def refuse_terminal_input(what: str) -> None:
    """Exit 2 when stdin is a terminal and something is to be read from it."""
    if sys.stdin is None or sys.stdin.closed:
        raise NoInput(f"{what} is expected, and stdin is closed", hint="name a path, or see --help")
    if os.isatty(0):
        raise NoInput(f"{what} is expected, and stdin is a terminal", hint="name a path, or see --help")


def resolve_jobs(jobs: int | None) -> int:
    """The number of workers; at least one."""
    from ptool.executors import default_jobs

    if jobs == 0:
        raise UsageError("--jobs 0: at least one worker is needed", hint="leave it out for the default")
    return default_jobs() if jobs is None else jobs


def as_parameters(values: dict[str, Any]) -> dict[str, Any]:
    """Options that were given, without those left at None."""
    return {name: value for name, value in values.items() if value is not None}
