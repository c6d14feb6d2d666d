"""What a rule is: a measurement with an accepted range, never a verdict. What an edit is: another text.

A rule turns a batch into one number per document; the range around it belongs to the recipe. So 0 is a valid bound, no
reason can say the opposite of what was tested, and a threshold can be swept over saved measurements without the text.
A rule cannot change a document and an edit cannot drop one; a recipe is one list of both, and what is measured after an
edit is measured on the edited text.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.errors import UsageError
from ptool.text.batch import Batch, Columns

Measured = npt.NDArray[np.float64]
"""One finite number per document, float64[num_docs]."""


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The values from `min` to `max`, both included; None is no bound."""

    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        for bound in (self.min, self.max):
            if bound is not None and not np.isfinite(bound):
                raise UsageError(f"a bound must be a finite number, not {bound}", hint="leave it out for no bound")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise UsageError(f"no value is at least {self.min:g} and at most {self.max:g}", hint="swap min and max")

    def __str__(self) -> str:
        """`50 to 100000`, `at least 2`, `at most 0.1`."""
        if self.min is not None and self.max is not None:
            return f"{self.min:.12g} to {self.max:.12g}"
        if self.min is not None:
            return f"at least {self.min:.12g}"
        return "any value" if self.max is None else f"at most {self.max:.12g}"

    def accepts(self, values: Measured) -> npt.NDArray[np.bool_]:
        """bool[n]: which values lie in the range; nan lies in none that has a bound."""
        accepted = np.ones(len(values), dtype=np.bool_)
        if self.min is not None:
            accepted &= values >= self.min
        if self.max is not None:
            accepted &= values <= self.max
        return accepted


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measurement with the range it is accepted in. Further fields are the rule's parameters.

    Of the documents outside the range, the share `keep_fraction` is kept all the same, chosen by a hash of the text.
    `keeps` and `drops` are texts on either side of the default range; a test holds the rule to them.
    """

    accept: Range = Range()
    keep_fraction: float = 0

    keeps: ClassVar[tuple[str, ...]]
    drops: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if not 0 <= self.keep_fraction <= 1:
            raise UsageError(
                f"a fraction to keep lies between 0 and 1, not {self.keep_fraction}",
                hint="for example keep-fraction=0.05",
            )

    def measure(self, batch: Batch) -> Measured:
        """One finite number for each document of `batch`, whatever its text."""
        raise TypeError(f"{type(self).__name__} measures nothing")


class Edit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of texts; the fields are its parameters.

    `changes` holds texts before and after, `leaves` texts that stay as they are; a test holds the edit to them, and to
    changing nothing when it is applied again.
    """

    changes: ClassVar[tuple[tuple[str, str], ...]]
    leaves: ClassVar[tuple[str, ...]]

    def apply(self, batch: Batch) -> Columns:
        """The new texts of all documents of `batch`."""
        raise TypeError(f"{type(self).__name__} edits nothing")


def ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Measured:
    """`part / whole` for each document, 0 where there is nothing to have a share of."""
    shares = np.zeros(len(part), dtype=np.float64)
    return np.divide(part, whole, out=shares, where=whole != 0)
