"""`--fail-if 'cost.high>3e6'`: conditions on an estimate's JSON, for a job script that must not start what is too dear.

A condition is a path of keys, one of < <= > >= == !=, and a number in any form that ptool reads (`3M`, `40GiB`, `30d`,
`5%`), `true` or `false`. `cost`, `hours`, `days` and `fits` are short for the keys people mean.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ptool.errors import CheckFailed, UsageError
from ptool.plugins import unknown
from ptool.units import parse_bytes, parse_count, parse_duration, parse_fraction, parse_number

_SHORT = {
    "cost": ("cost_usd",),
    "hours": ("gpu_hours",),
    "wall": ("wall_seconds",),
    "energy": ("energy_kwh",),
    "fits": ("memory", "fits"),
    "mfu": ("efficiency", "mfu"),
}
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*([A-Za-z_0-9.]+)\s*(<=|>=|==|!=|<|>)\s*(\S+)\s*")


class Condition(NamedTuple):
    """One parsed condition."""

    text: str
    path: tuple[str, ...]
    operator: str
    value: float

    def holds(self, estimate: dict[str, Any]) -> bool:
        """Whether it is true of this JSON. Raises UsageError for a path that is not there or is no number."""
        found: Any = estimate
        for key in self.path:
            if found is None:
                raise UsageError(f"--fail-if {self.text}: {key} is not known here", hint="give a shape or a price")
            if not isinstance(found, dict) or key not in found:
                valid = found if isinstance(found, dict) else ()
                raise unknown(f"key in --fail-if {self.text}:", key, [*valid, *(_SHORT if found is estimate else ())])
            found = found[key]
        if found is None:
            raise UsageError(f"--fail-if {self.text}: it is not known here", hint="give a shape or a price")
        if isinstance(found, dict) and "mid" in found:
            found = found["mid"]
        if not isinstance(found, bool | int | float):
            raise UsageError(f"--fail-if {self.text} compares {'.'.join(self.path)}, which is no number")
        return _OPERATORS[self.operator](float(found), self.value)


def parse_condition(text: str) -> Condition:
    """`cost.high>3e6`. Raises UsageError with the form."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(f"'{text}' is no condition", hint="KEY OPERATOR NUMBER, for example --fail-if 'cost.high>3e6'")
    first, *rest = match[1].split(".")
    return Condition(text, (*_SHORT.get(first, (first,)), *rest), match[2], _number(match[3]))


def failed_check(conditions: Sequence[str], estimate: dict[str, Any]) -> CheckFailed | None:
    """The error (exit 4) that names the conditions that are true, to be raised when the estimate has been printed."""
    true = [text for text in conditions if parse_condition(text).holds(estimate)]
    return CheckFailed(f"--fail-if {', '.join(true)}: true for this estimate") if true else None


def _number(text: str) -> float:
    if text in ("true", "false"):
        return float(text == "true")
    if text.endswith("%"):
        return parse_fraction(text)
    for parse in (parse_number, parse_count, parse_bytes, parse_duration):
        try:
            return float(parse(text))
        except UsageError:
            continue
    raise UsageError(f"'{text}' is not a number", hint="3e6, 3M, 40GiB, 30d, 5%, true, false")
