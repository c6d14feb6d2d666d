"""A rule as people type it: `--rule NAME[:PARAMETER=VALUE,...]`.

Numbers may be written `0.3`, `30%`, `100_000` or `100k`. Only the form is read here: whether there is such a rule and
such a parameter, and what type its value has, recipe.py knows.
"""

from __future__ import annotations

from typing import Any

from ptool.errors import UsageError
from ptool.units import parse_count, parse_fraction, parse_number

BOUNDS = ("min", "max")
NO_BOUND = "none"
"""The value that lifts a bound."""
FIELD = "field:"
"""What the name of a rule begins with that measures a field of the documents."""


def parse_rule(text: str) -> tuple[str, dict[str, Any]]:
    """Name and values of `NAME[:PARAMETER=VALUE,...]`; the rule of a field is `field:NAME`."""
    is_field = text.startswith(FIELD)
    name, _, rest = text.removeprefix(FIELD).partition(":")
    if is_field:
        if not name or not all(name.split(".")):
            raise UsageError(f"--rule {text} names no field", hint="for example --rule field:toxicity:max=0.5")
        name = FIELD + name
    values: dict[str, Any] = {}
    for pair in rest.split(",") if rest else []:
        key, equals, value = pair.partition("=")
        key = key.replace("-", "_")
        if not equals or not value:
            raise UsageError(f"'{pair}' is not PARAMETER=VALUE", hint=f"for example --rule {name}:min=0.5,max=10")
        if key in values:
            raise UsageError(f"'{key}' is given twice in --rule {text}", hint="give it once")
        if key == "keep_fraction":
            values[key] = parse_fraction(value)
        else:
            values[key] = _parse_bound(value, signed=is_field) if key in BOUNDS else value
    return name, values


def _parse_bound(text: str, *, signed: bool) -> float | str:
    """A bound as people type it: `0.3`, `30%`, `100_000`, `100k`, or `none`; a field's may be negative."""
    if text == NO_BOUND:
        return text
    if signed and text.startswith("-"):
        return -_parse_number(text[1:])
    return _parse_number(text)


def _parse_number(text: str) -> float:
    if text.endswith("%"):
        return parse_fraction(text)
    if text[-1:] in tuple("KMBTkmbt"):
        return float(parse_count(text))
    return parse_number(text)
