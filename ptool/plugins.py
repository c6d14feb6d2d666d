"""Names a person types, found by convention: the module's name is the thing's name.

`line_repetition.py` in a package of rules is the rule `line-repetition`; there is no table to keep. Packages of others
add to the same names through an entry-point group (`ptool.<package>`).
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from types import ModuleType

from ptool.errors import UsageError


def names(package: str) -> list[str]:
    """Names of the things in `package` (`ptool.filtering.rules`), sorted; imports the package, not its modules."""
    found = {
        info.name.replace("_", "-")
        for info in pkgutil.iter_modules(import_module(package).__path__)
        if not info.name.startswith("_")
    }
    return sorted(found | set(_entry_points(package)))


def load(package: str, name: str, *, kind: str) -> ModuleType:
    """The module of the thing called `name`. Raises UsageError with the nearest name and the valid ones."""
    valid = names(package)
    if name not in valid:
        raise unknown(kind, name, valid)
    if name in (outside := _entry_points(package)):
        return import_module(outside[name])
    return import_module(f"{package}.{name.replace('-', '_')}")


def unknown(kind: str, name: str, valid: Iterable[str]) -> UsageError:
    """The error for a name that does not exist: nearest match and valid list."""
    choices = list(valid)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}", hint=f"{hint}valid: {', '.join(choices)}")


@cache
def _entry_points(package: str) -> dict[str, str]:
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=package)}
