"""Write the manual pages and the completion scripts: `python -m ptool.cli.manual` in a checkout, `--check` in a test.

The files are committed, so that a package or a cluster's module file can install them without running anything. They
are a function of the commands, of pages.py and of the version: no clock, no host, so a difference is a stale file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

from ptool import __version__
from ptool.cli.completions import bash_script, fish_script, zsh_script
from ptool.cli.pages import manifest_page, overview_page, stream_page
from ptool.cli.reference import Description, Parameter, describe_all
from ptool.cli.roff import body, bold, definition, italic, page

DATE = "2026-11-22"  # shown in the pages' footer; changes with the version, not with the clock
_FOLDERS = ("man", "completions")


def generate(descriptions: Sequence[Description]) -> dict[str, str]:
    """Every file by its path in the checkout."""
    files = {
        "man/ptool.1": _page("ptool", 1, body(_overview(descriptions))),
        "man/ptool-stream.5": _page("ptool-stream", 5, body(stream_page())),
        "man/ptool-manifest.5": _page("ptool-manifest", 5, body(manifest_page())),
        "completions/ptool.bash": bash_script(descriptions),
        "completions/_ptool": zsh_script(descriptions),
        "completions/ptool.fish": fish_script(descriptions),
    }
    for description in descriptions:
        name = f"ptool-{description.command.name}"
        files[f"man/{name}.1"] = _page(name, 1, _command_lines(description))
    return files


def stale(root: Path, files: dict[str, str]) -> list[str]:
    """Paths that are missing, differ, or are left over from a command that is gone."""
    changed = [path for path, text in files.items() if _read(root / path) != text]
    present = (path for folder in _FOLDERS for path in (root / folder).glob("*") if path.is_file())
    left_over = [name for path in present if (name := path.relative_to(root).as_posix()) not in files]
    return sorted([*changed, *left_over])


def main(arguments: list[str]) -> int:
    """Write into the checkout that holds this module, or with `--check` only compare."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m ptool.cli.manual [--check]\n")
        return 2
    root = Path(__file__).resolve().parents[2]
    files = generate(describe_all())
    differing = stale(root, files)
    if arguments:
        for path in differing:
            sys.stderr.write(f"ptool: stale: {path} (run python -m ptool.cli.manual)\n")
        return 1 if differing else 0
    for path in differing:
        target = root / path
        if path not in files:
            target.unlink()
            continue
        target.parent.mkdir(exist_ok=True)
        target.write_text(files[path], encoding="utf-8")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _page(name: str, section: int, lines: Iterable[str]) -> str:
    return page(name, section, date=DATE, version=__version__, lines=lines)


def _overview(descriptions: Sequence[Description]) -> str:
    """The text of ptool(1): what all commands share is read from the first of them."""
    common = descriptions[0].common
    shared = [f"{', '.join(option.names)} {option.metavar}".strip() + f" :: {_meaning(option)}" for option in common]
    own = {
        option.variable: f"{option.variable} :: The value of `{option.names[0]}`."
        for description in descriptions
        for option in (*description.options, *description.common)
        if option.variable
    }
    return overview_page(common="\n".join(shared), variables="\n".join(own[name] for name in sorted(own)))


def _command_lines(description: Description) -> list[str]:
    command = description.command
    summary = command.summary[:1].lower() + command.summary[1:].rstrip(".")
    lines = [
        *body(f"NAME\n\nptool-{command.name} - {summary}\n\nSYNOPSIS"),
        _synopsis(description),
        *body(f"DESCRIPTION\n\n{_description(description)}"),
    ]
    if description.arguments:
        lines += body("ARGUMENTS")
        for argument in description.arguments:
            lines += definition(italic(argument.metavar), _meaning(argument))
    lines += body("OPTIONS")
    for option in description.options:
        lines += definition(_heading(option), _meaning(option))
    lines += body(
        "The options that every command takes (`--json`, `-q`, `-v`, `--no-progress`, `--color`) are in ptool(1).",
        after_heading=not description.options,
    )
    more = getattr(import_module(command.module), "manual", None)  # a command's own sections, such as its settings
    if more is not None:
        lines += body(more())
    examples = "\n".join(f"    {example}" for example in description.examples)
    return lines + body(
        f"EXAMPLES\n\n{examples}\n\nEXIT STATUS\n\n0 done, 1 failed, 2 usage; the others are in ptool(1).\n\n"
        "SEE ALSO\n\nptool(1), ptool-stream(5), ptool-manifest(5)"
    )


def _description(description: Description) -> str:
    """The docstring without its first line, which NAME has said."""
    _, _, rest = description.paragraphs.partition("\n\n")
    return rest or description.paragraphs


def _synopsis(description: Description) -> str:
    parts = [bold(f"ptool {description.command.name}")]
    parts += [italic(argument.metavar) for argument in description.arguments]
    parts += [_heading(option) for option in description.options if option.required]
    return " ".join([*parts, "[" + italic("OPTION") + "]..."])


def _heading(option: Parameter) -> str:
    names = ", ".join(bold(name) for name in option.names)
    return f"{names} {italic(option.metavar)}".strip()


def _meaning(parameter: Parameter) -> str:
    """The help, and what the declaration adds to it."""
    added = []
    if parameter.repeated and not parameter.is_argument:
        added.append("May be given several times.")
    if parameter.required and not parameter.is_argument:
        added.append("Required.")
    if parameter.default:
        added.append(f"Default: `{parameter.default}`.")
    if parameter.variable:
        added.append(f"Environment: `{parameter.variable}`.")
    return " ".join([parameter.help, *added])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
