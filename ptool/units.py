"""Numbers as people type and read them: one parser and one printer for every command.

    counts      70e9  70B  7.5b  2T  1_000_000  1,000,000     K M B T are powers of 1000
    bytes       40GiB  40GB  512MB  100B                      GB = 1000^3, GiB = 1024^3; a unit is required
    durations   90s  2h  3d4h  1.5h  250ms                    a unit is required; result in seconds
    fractions   0.5%  0.005                                   result within [0, 1]
    bands       0.30:0.38:0.45  30%:38%:45%  0.45             low:mid:high, or one value for all three

Mantissa and exponent are kept as integers until the end, so `0.1T` is exactly 10**11 and `1e400` is an overflow
instead of infinity. nan, inf, negative numbers, spaces and decimal commas are refused, and the error shows the
token, the accepted forms and a corrected example. What a printer prints, its parser reads again.

A parser also takes a value that is already a number and hands it back: typer sends defaults through `parser=`.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from ptool.errors import UsageError

LARGEST_COUNT = 2**63 - 1  # what an int64 column, a file offset and every JSON reader in use can hold

_COUNT_SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_BYTE_SCALES = {"b": 1} | {
    f"{prefix}{ending}": base**power
    for power, prefix in enumerate("kmgtp", start=1)
    for ending, base in (("b", 1000), ("ib", 1024))
}
_DURATION_SCALES = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # milliseconds

_DIGITS = r"\d+(?:_\d+)*"
_NUMBER = rf"(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?\d{{1,4}})?"
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|[wdhms])", re.ASCII)


class _Form(NamedTuple):
    """What a kind of number looks like; `endings` are tried on a token that lacks its unit."""

    kind: str
    accepted: str
    example: str
    pattern: re.Pattern[str]
    endings: tuple[str, ...] = ()

    def match(self, text: str) -> re.Match[str]:
        """The match of the whole text; raises UsageError with the nearest token that would match."""
        match = self.pattern.fullmatch(text) if len(text) <= 100 else None  # int() refuses 4,300 digits
        if match is None:
            bare = text.replace(" ", "").lstrip("+-$~")
            repairs = (bare, bare.replace(",", "."), *(bare + ending for ending in self.endings))
            example = next((token for token in repairs if self.pattern.fullmatch(token)), self.example)
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            raise UsageError(f"'{shown}' is not {self.kind}", hint=f"accepted: {self.accepted}; for example {example}")
        return match


def _form(kind: str, accepted: str, example: str, pattern: str, endings: tuple[str, ...] = ()) -> _Form:
    return _Form(kind, accepted, example, re.compile(pattern, re.ASCII), endings)


_COUNT = _form("a count", "70e9, 70B, 7.5b, 2T, 1_000_000", "2T", rf"({_NUMBER}|\d{{1,3}}(?:,\d{{3}})+)([KMBTkmbt]?)")
_BYTES = _form(
    "a size in bytes", "40GiB, 40GB, 512MB, 100B", "40GiB", rf"({_NUMBER})((?:[KMGTPkmgtp][Ii]?)?[Bb])", ("B",)
)
_DURATION = _form(
    "a duration",
    "90s, 15m, 2h, 3d4h, 250ms",
    "3d4h",
    "(?=.)" + "".join(f"(?:{_NUMBER}{unit})?" for unit in _DURATION_SCALES),
    ("s",),
)
_FRACTION = _form("a fraction", "0.005, 0.5%", "0.5%", rf"({_NUMBER})(%?)")
_FACTOR = _form("a number or a percentage", "0.30:0.38:0.45, 30%:38%:45%, 0.45", "0.45", rf"({_NUMBER})(%?)")
_PLAIN = _form("a number", "3e-4, 0.1, 2", "3e-4", rf"({_NUMBER})()")


class Band(NamedTuple):
    """A low, an expected and a high value, in rising order; all equal where one number was given."""

    low: float
    mid: float
    high: float


def parse_count(text: str | int) -> int:
    """A whole number of things: `70e9`, `70B`, `2T`, `1_000_000`. Raises UsageError above 2**63 - 1."""
    if isinstance(text, int):
        return text
    number, suffix = _COUNT.match(text).groups()
    whole, is_exact = _scaled(number.replace(",", "_"), _COUNT_SCALES[suffix.lower()])
    if not is_exact:
        hint = f"accepted: {_COUNT.accepted}; for example {whole + 1}"
        raise UsageError(f"'{text}' is not a whole number", hint=hint)
    return _not_too_large(text, whole)


def parse_bytes(text: str | int) -> int:
    """A size with its unit: `40GiB` is 40 * 1024**3, `40GB` is 40 * 1000**3; part of a byte is rounded down."""
    if isinstance(text, int):
        return text
    number, unit = _BYTES.match(text).groups()
    return _not_too_large(text, _scaled(number, _BYTE_SCALES[unit.lower()])[0])


def parse_duration(text: str | float) -> float:
    """Seconds from `90s`, `2h`, `3d4h`; the units must shrink, each at most once."""
    if not isinstance(text, str):
        return text
    _DURATION.match(text)
    milliseconds = sum(float(number) * _DURATION_SCALES[unit] for number, unit in _DURATION_PART.findall(text))
    return _finite(text, milliseconds / 1000)


def parse_fraction(text: str | float) -> float:
    """A share between 0 and 1, as `0.005` or `0.5%`."""
    if not isinstance(text, str):
        return text
    share = _share(text, _FRACTION)
    if share > 1:
        example = f"{text}%" if share <= 100 and not text.endswith("%") else _FRACTION.example
        raise UsageError(f"'{text}' is more than 1", hint=f"accepted: {_FRACTION.accepted}; for example {example}")
    return share


def parse_number(text: str | float) -> float:
    """A finite number that is not negative: learning rates, thresholds."""
    if not isinstance(text, str):
        return text
    _PLAIN.match(text)
    return _finite(text, float(text))


def parse_band(text: str | Band) -> Band:
    """`LOW:MID:HIGH` in rising order, or one value; each a number or a percentage."""
    if not isinstance(text, str):
        return text
    tokens = text.split(":")
    values = [_share(token, _FACTOR) for token in tokens]
    if len(values) not in {1, 3}:
        raise UsageError(f"'{text}' has {len(values)} parts", hint=f"LOW:MID:HIGH or one value: {_FACTOR.accepted}")
    if values != sorted(values):
        rising = ":".join(sorted(tokens, key=lambda token: _share(token, _FACTOR)))
        raise UsageError(f"'{text}' does not rise from low to high", hint=f"for example {rising}")
    return Band(values[0], values[len(values) // 2], values[-1])


def format_count(count: int) -> str:
    """`12,345` up to a million, then three digits and a letter: `1.72M`, `70B`, `2T`; `8.4e23` from 1000T on."""
    if abs(count) < 10**6:
        return f"{count:,}"
    if abs(count) >= 999.5e12:
        return f"{count:.3g}".replace("e+", "e")
    number, suffix = _three_digits(count, ("M", "B", "T"), 10**6, 1000)
    return f"{number}{suffix}"


def format_bytes(num_bytes: int) -> str:
    """`512B`, `40GiB`, `1.37GiB`: powers of 1024, three digits."""
    if abs(num_bytes) < 1024:
        return f"{num_bytes}B"
    number, suffix = _three_digits(num_bytes, ("KiB", "MiB", "GiB", "TiB", "PiB"), 1024, 1024)
    return f"{number}{suffix}"


def format_duration(seconds: float) -> str:
    """The two largest units: `3d4h`, `12m30s`, `7.25s`, `250ms`."""
    if seconds < 0.9995:
        return f"{round(seconds * 1000)}ms"
    if seconds < 59.95:
        return f"{_trimmed(f'{seconds:.3g}')}s"
    large, small, size, ratio = "m", "s", 1, 60
    if seconds >= 3599.5:
        large, small, size = "h", "m", 60
    if seconds >= 86_370:
        large, small, size, ratio = "d", "h", 3600, 24
    first, rest = divmod(round(seconds / size), ratio)
    return f"{first}{large}{rest}{small}" if rest else f"{first}{large}"


def format_money(dollars: float) -> str:
    """`$0.42`, `$12,400`, `$1.05M`, `$45.5M`."""
    if dollars < 99.995:
        return f"${dollars:,.2f}"
    if dollars < 999_999.5:
        return f"${dollars:,.0f}"
    number, suffix = _three_digits(dollars, ("M", "B", "T"), 10**6, 1000)
    return f"${number}{suffix}"


def _scaled(number: str, scale: int) -> tuple[int, bool]:
    """A number times its scale, rounded down, and whether nothing was cut off; exact for any length of digits."""
    mantissa, _, exponent = number.lower().replace("_", "").partition("e")
    whole, _, decimals = mantissa.partition(".")
    power = int(exponent or 0) - len(decimals)
    value = int((whole + decimals) or 0) * scale
    if power >= 0:
        return value * 10**power, True
    quotient, rest = divmod(value, 10**-power)
    return quotient, rest == 0


def _share(text: str, form: _Form) -> float:
    """A number or a percentage."""
    number, percent = form.match(text).groups()
    return _finite(text, float(number) / (100 if percent else 1))


def _finite(text: str, value: float) -> float:
    if math.isinf(value):
        raise UsageError(f"'{text}' is too large", hint="the largest is about 1.8e308")
    return value


def _not_too_large(text: str, value: int) -> int:
    if value > LARGEST_COUNT:
        raise UsageError(f"'{text}' is too large", hint="the largest is 2^63 - 1, about 9.2e18")
    return value


def _three_digits(value: float, suffixes: tuple[str, ...], first: int, step: int) -> tuple[str, str]:
    """Three significant digits of value in the largest unit that keeps it at least 1."""
    scaled = value / first
    for suffix in suffixes:
        # 999.6 would print as "1000": it belongs to the next unit, unless there is none.
        if abs(scaled) < step - 0.5 or suffix == suffixes[-1]:
            break
        scaled /= step
    digits = max(0, 2 - int(math.log10(abs(scaled)))) if abs(scaled) >= 1 else 2
    return _trimmed(f"{scaled:.{digits}f}"), suffix


def _trimmed(number: str) -> str:
    """Without zeros that say nothing: `70.0` is `70`."""
    return number.rstrip("0").rstrip(".") if "." in number else number
