"""Settings as text: the TOML files that people write, `config.toml` of a run, and the manual's table.

What the settings are stands in config.py. A file of `--config` is read as it is and checked by resolving.py; what a
run writes holds every value, and is read back to an equal `RunConfig`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo

from ptool.errors import InputError, UsageError
from ptool.models.config import ModelConfig
from ptool.training.config import DEFAULT_SIZE, SECTIONS, RunConfig, Table


def read_config(path: Path) -> Table:
    """The tables of a TOML file, or of a recipe that is shipped, by its name (`annealing`).

    Raises InputError or UsageError naming the file and line.
    """
    shipped = resources.files(__package__).joinpath("recipes", f"{path}.toml")
    try:
        text = shipped.read_text("utf-8") if path.name == str(path) and not path.exists() and shipped.is_file() else ""
        return tomllib.loads(text or path.read_text(encoding="utf-8-sig"))  # some editors put a mark first
    except OSError as error:
        reason = f"cannot read: {(error.strerror or str(error)).lower()}"
        hint = "recipes that are shipped: annealing" if isinstance(error, FileNotFoundError) else None
        raise InputError(reason, where=str(path), hint=hint) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not TOML: {error}", where=str(path)) from error


def settings() -> Iterator[tuple[str, str, str]]:
    """(name, default, meaning) of every setting: the manual's table."""
    yield "model.size", toml_value(DEFAULT_SIZE), "a named size; the other keys of [model] replace parts of it"
    sections: dict[str, type[Struct]] = {"model": ModelConfig, **SECTIONS}
    for section, kind in sections.items():
        for field, meaning in meanings(kind):
            yield f"{section}.{field.name}", _shown(field.default), meaning


def meanings(kind: type[Struct]) -> Iterator[tuple[FieldInfo, str]]:
    """The fields of a table of settings, and what its declaration says of each."""
    hints = get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        meta = next(item for item in get_args(hints[field.name]) if isinstance(item, Meta))
        yield field, meta.description or ""


def _shown(default: object) -> str:
    if default is msgspec.NODEFAULT:
        return "the size's"
    return "none" if default is None else toml_value(default)


def as_tables(config: RunConfig) -> Table:
    """Plain nested tables, as manifests and TOML hold them. Raises UsageError for a name that is not UTF-8."""
    try:
        tables: Table = msgspec.json.decode(msgspec.json.encode(config))
    except UnicodeEncodeError as error:
        raise UsageError(f"a name is not UTF-8: {error.object!r}", hint="rename the folder, or link to it") from error
    return tables


def to_toml(config: RunConfig) -> str:
    """The text of `config.toml`."""
    lines = ["# Written by ptool: every setting of this run, resolved. `ptool resume` reads it; do not edit."]
    for section, values in as_tables(config).items():
        tables = [(f"[{section}]", values)] if isinstance(values, dict) else [(f"[[{section}]]", v) for v in values]
        for header, table in tables:
            lines += ["", header, *(f"{key} = {toml_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def from_toml(path: Path) -> RunConfig:
    """Read what `to_toml` wrote."""
    table = read_config(path)
    try:
        return msgspec.convert(table, RunConfig)
    except msgspec.ValidationError as error:
        raise InputError(f"not a run's configuration: {error}", where=str(path)) from error


def toml_value(value: object) -> str:
    """One value as TOML; strings are JSON strings, whose escapes TOML shares (DEL it wants escaped too)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        pairs = (f"{toml_value(str(key))} = {toml_value(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(toml_value, value))}]"
    return msgspec.json.encode(str(value)).decode().replace("\x7f", "\\u007f")
