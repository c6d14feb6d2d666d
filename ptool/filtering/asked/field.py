"""A number that another program wrote into the document.

Source: whatever wrote it: a toxicity score, a perplexity, an education score. `field:quality.edu` looks into the object
`quality`. A document without a number there is dropped, because an unmeasured document has passed nothing;
`missing=keep` keeps it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np

from ptool.filtering.protocol import Measured, Rule
from ptool.text.batch import Batch


class Field(Rule, frozen=True):
    """Accepts what the bounds say of the field; booleans count as 0 and 1."""

    field: str = ""
    missing: Literal["drop", "keep"] = "drop"

    keeps: ClassVar = ()
    drops: ClassVar = ()

    def measure(self, batch: Batch) -> Measured:
        """The number under `field`; nan where there is none, infinite to keep it."""
        return np.array([_number(value) for value in batch.fields(self.field)], dtype=np.float64)


def _number(value: Any) -> float:
    """The value as a float; nan for anything else, and for integers beyond a float's range."""
    if not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
