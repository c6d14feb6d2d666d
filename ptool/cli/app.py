"""The way in: answers the quick questions, runs one command, and is the only place where errors and signals end.

`--help`, `--version` and completion are answered from the command table before typer is imported (a thousand array
tasks start on a shared file system, and TAB should not wait). A command is a plain function; typer reads its signature,
and the options every command has (`-q`, `-v`, `--json`, `--no-progress`, `--color`) are added to that signature here.

Errors: a `PtoolError` becomes one line on stderr and its exit code; a closed pipe ends the process by SIGPIPE, so that
no shell takes half a stream for a whole one; SIGINT, SIGTERM and SIGHUP are announced at once, unwind the command
(temporary files are removed on the way), and are raised again so that the caller sees what happened. A second signal
ends the process on the spot.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from ptool.cli.commands import COMMANDS, Command, names_of, overview
from ptool.cli.descriptors import fill_missing, let_go
from ptool.errors import PtoolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


_YES = ("1", "true", "t", "yes", "y", "on")
"""What typer takes for true in a variable."""


class Interrupted(BaseException):
    """A signal asked the process to stop; unwinds everything on its way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def entry() -> None:
    """The process: run the command and end with its code.

    Where torch was loaded the interpreter is not torn down: threads of gloo and OpenMP are still there, and at times
    C++ aborts a process whose work is done and published (seen under srun, after the last step of a finished run).
    """
    fill_missing()
    # A letter that the locale does not have is spelled, and does not end the work.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    code = main()
    for stream in (sys.stdout, sys.stderr):
        let_go(stream)
    if "torch" in sys.modules:
        os._exit(code)
    sys.exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Run ptool with `arguments` (default: the process's) and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if not arguments or arguments[0] in ("--help", "-h", "help"):
            if len(arguments) > 1 and arguments[0] == "help":
                return main([arguments[1], "--help"])
            sys.stdout.write(overview())
            sys.stdout.flush()
            return 0 if arguments else 2
        if arguments[0] in ("--version", "-V"):
            from ptool import __version__

            sys.stdout.write(f"ptool {__version__}\n")
            sys.stdout.flush()
            return 0
        if arguments[0] == "--complete":
            sys.stdout.write("".join(f"{name}\n" for name in names_of(arguments[1] if len(arguments) > 1 else "")))
            sys.stdout.flush()
            return 0
        return _run(arguments)
    except BrokenPipeError:
        return _end_by(signal.SIGPIPE)
    except Interrupted as interrupted:
        return _end_by(interrupted.number)
    except OSError as error:  # of the answers above
        sys.stderr.write(f"ptool: stdout: {(error.strerror or str(error)).lower()}\n")
        return 1


def _run(arguments: list[str]) -> int:
    from ptool.cli.output import current

    name = arguments[0]
    # Also for an error that stops the parsing of it.
    current().json_mode = "--json" in arguments or os.environ.get("PTOOL_JSON", "").lower() in _YES
    try:
        if name not in COMMANDS:
            from ptool.plugins import unknown

            raise unknown("option" if name.startswith("-") else "command", name, COMMANDS)
        _listen()
        return _call(COMMANDS[name], arguments[1:])
    except PtoolError as error:
        current().error(error)
        return error.exit_code
    except MemoryError:
        current().error(PtoolError("out of memory", hint="try fewer --jobs"))
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        where = None if error.filename is None else str(error.filename)
        current().error(PtoolError((error.strerror or str(error)).lower(), where=where))
        return 1
    finally:
        current().close()


def _call(command: Command, arguments: list[str]) -> int:
    import typer

    from ptool.cli.options import NoInput
    from ptool.cli.output import current

    parser = build(command)
    try:
        # Not parser.main(): it turns a closed pipe into exit code 1, which no shell can tell from a failure.
        prefix = f"PTOOL_{command.name.replace('-', '_').upper()}"
        with parser.make_context(f"ptool {command.name}", arguments, auto_envvar_prefix=prefix) as context:
            try:
                result = parser.invoke(context)
            except NoInput:
                current().aside(_short_help(parser.get_usage(context), parser.help))
                raise
        sys.stdout.flush()
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        return _end_by(signal.SIGINT)
    except typer.TyperException as error:
        raise _usage_error(command, parser, error) from error
    return result if isinstance(result, int) else 0


def build(command: Command) -> Any:
    """The parser of one command: what typer makes of its function. Also read by the manual generator."""
    from importlib import import_module

    import typer

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    function = getattr(import_module(command.module), command.function)
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
    app.command(name=command.name, help=_help(function), context_settings=settings)(_with_common_options(function))
    parser = typer.main.get_command(app)
    for parameter in parser.params:
        if hasattr(parameter, "show_envvar"):
            parameter.show_envvar = False  # ptool(1) says once how the variables are called
        if hasattr(parameter.type, "func"):
            parameter.type.func = _naming(parameter.opts[0], parameter.type.func)
    return parser


def _naming(option: str, parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`parse`, whose complaints name the option that had the bad value."""

    def parse_value(value: Any) -> Any:
        try:
            return parse(value)
        except PtoolError as error:
            error.where = error.where or option
            raise

    return parse_value


def _help(function: Callable[..., Any]) -> str:
    r"""The docstring, with blocks that are indented (examples) kept as they are (`\b` tells typer so)."""
    import inspect

    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(f"\b\n{text}" if "\n    " in text or text.startswith("    ") else text for text in paragraphs)


def _short_help(usage: str, text: str) -> str:
    """Usage, purpose and examples: what fits on a screen that waits for input."""
    _, _, examples = text.partition("Examples:\n")
    return f"{usage}\n\n  {text.splitlines()[0]}\n\nExamples:\n{examples}\n"


def _with_common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with the options of every command added to its signature, and set before it is called."""
    import functools
    import inspect

    from ptool.cli import output
    from ptool.cli.options import COMMON

    signature = inspect.signature(function, eval_str=True)

    @functools.wraps(function)
    def wrapper(**values: Any) -> Any:
        common = {name: values.pop(name) for name in COMMON}
        output.configure(**common)
        return function(**values)

    parameters = [*signature.parameters.values(), *COMMON.values()]
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _usage_error(command: Command, parser: Any, error: Any) -> PtoolError:
    """Typer's complaint as ours: with the nearest option and the valid ones where an option is unknown."""
    from ptool.errors import UsageError
    from ptool.plugins import unknown

    option = getattr(error, "option_name", None)
    options = sorted(name for parameter in parser.params for name in parameter.opts if name.startswith("--"))
    if isinstance(option, str) and option.startswith("-") and option not in options:
        return unknown("option", option, options)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    text = message.strip().rstrip(".")
    return UsageError(text[:1].lower() + text[1:], hint=f"ptool {command.name} --help")


def _listen() -> None:
    """Install the handlers. A signal that the caller made us ignore (`nohup`, `&` in a script) stays ignored.

    `train` and `resume` replace them while ranks run: there a signal means save and stop (training/launch.py).
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    signal.signal(signal.SIGUSR1, _show_progress)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_DFL)  # the next one ends the process at once
    with contextlib.suppress(OSError):  # whoever read it may be gone: that is no reason not to stop
        os.write(2, f"\nptool: {signal.Signals(number).name}: stopping, nothing unfinished is kept\n".encode())
    raise Interrupted(number)


def _show_progress(number: int, frame: FrameType | None) -> None:
    from ptool.cli.output import current

    current().show_progress()


def _end_by(number: int) -> int:
    """End the process by the signal itself, so that the shell sees 128+number and loops stop."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number  # only where the signal is blocked by a tracer
