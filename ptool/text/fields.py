"""Fields that other programs wrote into the documents, by dotted path.

Each line is decoded once more, typed, so that everything off the path is checked and skipped (1 GB/s). Nothing pays for
it but the recipes that ask.
"""

from __future__ import annotations

import itertools
import json
import math
from functools import cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

_MOST_DIGITS = 310


def read_fields(lines: bytes, line_starts: npt.NDArray[np.int64], path: str) -> list[Any]:
    """The value under `path` (`a.b.c` goes into objects) of each line; None where it is missing or something else."""
    keys = path.split(".")
    read = _decoder(keys[0]).decode
    starts = line_starts.tolist()
    found = []
    view = memoryview(lines)
    for start, end in itertools.pairwise(starts):
        try:
            value = read(view[start:end]).value
        except msgspec.ValidationError:  # an integer of thousands of digits
            document = json.loads(bytes(view[start:end]), parse_int=_integer)
            if not isinstance(document, dict):
                raise
            value = document.get(keys[0])
        for key in keys[1:]:
            value = value.get(key) if isinstance(value, dict) else None
        found.append(value)
    return found


def _integer(digits: str) -> int | float:
    """As `json` has it; nan for one beyond a float's range, as of thousands of digits, which Python refuses to read."""
    return int(digits) if len(digits) < _MOST_DIGITS else math.nan


@cache
def _decoder(key: str) -> msgspec.json.Decoder[Any]:
    """A decoder of one top-level field; what else a line holds is skipped."""
    document = msgspec.defstruct("Field", [("value", Any, None)], rename={"value": key}, gc=False)
    return msgspec.json.Decoder(document)
