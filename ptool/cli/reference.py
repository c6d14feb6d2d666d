"""Commands as plain records: what the manual and the completion scripts are written from.

The table gives the names, typer gives the parameters. Typer carries a private Click, so only attributes of the objects
that `typer.main.get_command` returns are read, and no class of theirs is named here.

What a value is, for completion, follows from the declaration: choices complete as themselves, whether typer knows them
or the metavar lists them (`0|1|2|3`), `FILE` or `FOLDER` in the metavar as paths, and the options in `_NAMED` as names
that `ptool --complete KIND` lists.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, NamedTuple

from ptool.cli.app import build
from ptool.cli.commands import COMMANDS, Command
from ptool.cli.options import COMMON

_NAMED = {"--preset": "presets", "--rule": "rules", "--model": "models", "--gpu": "gpus"}
_CHOICES = re.compile(r"[a-z0-9-]+(?:\|[a-z0-9-]+)+")
_FILE_WORDS = ("INPUT", "FILE", "PATH", "STREAM")
_FOLDER_WORDS = ("FOLDER", "RUN")
_TYPE_NAMES = {"integer": "N", "float": "X", "path": "PATH", "text": "TEXT", "str": "TEXT"}


class Parameter(NamedTuple):
    """An option or an argument."""

    names: tuple[str, ...]  # ("--output", "-o"); none for an argument
    metavar: str  # "FILE", "fail|reject", "[INPUT]..."; empty for a flag
    help: str
    values: str  # "" flag, "choice", "file", "folder", "free", or a kind of `ptool --complete`
    choices: tuple[str, ...]
    default: str
    variable: str  # an environment variable of its own
    required: bool
    repeated: bool

    @property
    def is_argument(self) -> bool:
        """Whether it is given by position."""
        return not self.names


class Description(NamedTuple):
    """A command: its row of the table, its documentation, and its parameters; the common options apart."""

    command: Command
    paragraphs: str
    examples: tuple[str, ...]
    arguments: tuple[Parameter, ...]
    options: tuple[Parameter, ...]
    common: tuple[Parameter, ...]


def describe(command: Command) -> Description:
    """Import the command and read what it declares."""
    parsed = build(command)
    text = inspect.cleandoc(parsed.help or "").replace("\b\n", "")
    paragraphs, _, examples = text.partition("\nExamples:\n")
    parameters = [(parameter.name in COMMON, read_parameter(parameter)) for parameter in parsed.params]
    return Description(
        command,
        paragraphs.strip(),
        tuple(line.strip() for line in examples.splitlines() if line.strip()),
        tuple(parameter for _, parameter in parameters if parameter.is_argument),
        tuple(parameter for common, parameter in parameters if not common and not parameter.is_argument),
        tuple(parameter for common, parameter in parameters if common),
    )


def describe_all() -> list[Description]:
    """Every command of the table."""
    return [describe(command) for command in COMMANDS.values()]


def read_parameter(parameter: Any) -> Parameter:
    """What typer made of one parameter of a command's signature."""
    is_argument = parameter.param_type_name == "argument"
    names = () if is_argument else tuple(name for name in (*parameter.opts, *parameter.secondary_opts) if name.strip())
    choices = tuple(getattr(parameter.type, "choices", None) or ())
    if not choices and _CHOICES.fullmatch(parameter.metavar or ""):
        choices = tuple(parameter.metavar.split("|"))
    is_flag = bool(getattr(parameter, "is_flag", False))
    metavar = "" if is_flag else parameter.metavar or "|".join(choices) or _TYPE_NAMES.get(parameter.type.name, "VALUE")
    return Parameter(
        names=tuple(sorted(names, key=lambda name: not name.startswith("--"))),
        metavar=metavar,
        help=(parameter.help or "").strip(),
        values="" if is_flag else _values(names, metavar, choices),
        choices=choices,
        default=_default(parameter, is_flag=is_flag),
        variable=parameter.envvar or "",
        required=bool(parameter.required),
        repeated=bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1,
    )


def _values(names: tuple[str, ...], metavar: str, choices: tuple[str, ...]) -> str:
    if choices:
        return "choice"
    for name in names:
        if name in _NAMED:
            return _NAMED[name]
    if any(word in metavar for word in _FILE_WORDS):
        return "file"
    return "folder" if any(word in metavar for word in _FOLDER_WORDS) else "free"


def _default(parameter: Any, *, is_flag: bool) -> str:
    value = parameter.default
    if is_flag or value is None or callable(value) or parameter.show_default is False:
        return ""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
