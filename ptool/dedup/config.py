"""What a deduplication is told to do, and the layout of bands that follows from it.

MinHash-LSH cuts a signature into `bands` bands of `rows` values. Two texts of Jaccard similarity s meet in at least
one band with probability 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4.2): an
S-curve whose steep part lies near (1/bands)^(1/rows). Whatever meets is compared afterwards, so meeting too often costs
time and meeting too seldom costs duplicates. The layout is therefore chosen for recall first: of all layouts that find
a pair a little above the threshold with probability 0.985, the one in which dissimilar pairs meet least. At 0.8 with
112 permutations that is 14 x 8; the layout that weighs both errors equally (datasketch's optimum, 9 x 12) finds only
75 % of the pairs at 0.85.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import msgspec

from ptool.errors import UsageError
from ptool.units import parse_count

WordRule = Literal["cjk", "whitespace"]
"""As in text.batch, which costs an import of numpy that `--dry-run` has no use for."""

RECALL = 0.985
"""A pair at `threshold + MARGIN` is found with at least this probability."""

MARGIN = 0.05
"""How far above the threshold `RECALL` is promised: about one standard deviation of a 112-permutation estimate."""

Mode = Literal["exact", "minhash"]
Verify = Literal["exact", "signature", "none"]
Scheme = Literal["affine32", "legacy", "datatrove"]
Shingle = Literal["word", "char"]
BandRule = Literal["recall", "datasketch"]


class Bands(msgspec.Struct, frozen=True):
    """A layout: `bands` bands of `rows` signature values each."""

    bands: int
    rows: int

    def probability(self, similarity: float) -> float:
        """That two texts of this Jaccard similarity meet in at least one band."""
        return float(1.0 - (1.0 - similarity**self.rows) ** self.bands)

    @property
    def threshold(self) -> float:
        """Where the S-curve is steep: (1/bands)^(1/rows)."""
        return float((1.0 / self.bands) ** (1.0 / self.rows))


class DedupConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides which documents are kept. Raises UsageError for values that make no sense.

    `threshold` is a Jaccard similarity; `ngram` the words or characters of a shingle; `bands` and `rows` go together
    (None: chosen by `choose_bands`, or as datasketch does with `band_rule`); `max_bucket` is how many kept documents a
    bucket remembers. `normalize` compares simplified texts (simplify.py). `scheme` is the formula of the permutations:
    datasketch 2's, datasketch 1's, or datatrove's. `prefer` and `cluster` need all documents at hand (files.py).
    """

    mode: Mode = "minhash"
    threshold: float = 0.8
    ngram: int = 5
    num_perm: int = 112
    bands: int | None = None
    rows: int | None = None
    seed: int = 1
    verify: Verify = "exact"
    max_bucket: int = 256
    band_rule: BandRule = "recall"
    shingle: Shingle = "word"
    words: WordRule = "cjk"
    scheme: Scheme = "affine32"
    normalize: bool = False
    prefer: str = "first"
    cluster: bool = False

    def __post_init__(self) -> None:
        _one_of("--mode", self.mode, ("exact", "minhash"))
        _one_of("--verify", self.verify, ("exact", "signature", "none"))
        _one_of("--bands", self.band_rule, ("recall", "datasketch"))
        _one_of("--shingle", self.shingle, ("word", "char"))
        _one_of("--words", self.words, ("cjk", "whitespace"))
        _one_of("--scheme", self.scheme, ("affine32", "legacy", "datatrove"))
        if self.prefer not in ("first", "longest") and not (self.prefer.startswith("source=") and self.preferred):
            message = f"--prefer {self.prefer!r} is none of first, longest, source=NAME,NAME"
            raise UsageError(message, hint="--prefer longest, or --prefer source=books,web")
        if not 0.0 < self.threshold <= 1.0:
            raise UsageError(f"--threshold {self.threshold} is no similarity", hint="above 0 and at most 1, as 0.8")
        _in_range("--ngram", self.ngram, 1, 1000)
        _in_range("--num-perm", self.num_perm, 1, 1 << 16)
        _in_range("--seed", self.seed, 0, (1 << 32) - 1)
        _in_range("--max-bucket", self.max_bucket, 1, (1 << 31) - 1)
        if self.band_rule != "recall" and (self.bands is not None or self.rows is not None):
            raise UsageError(f"--bands {self.band_rule} chooses the rows as well", hint="leave out --rows")
        if (self.bands is None) != (self.rows is None):
            raise UsageError("--bands and --rows go together", hint="--bands 14 --rows 8")
        if self.bands is not None and self.rows is not None:
            _in_range("--bands", self.bands, 1, self.num_perm)
            _in_range("--rows", self.rows, 1, self.num_perm)
            if self.bands * self.rows > self.num_perm:
                raise UsageError(
                    f"{self.bands} bands of {self.rows} rows need {self.bands * self.rows} permutations,"
                    f" --num-perm is {self.num_perm}",
                    hint=f"--num-perm {self.bands * self.rows}",
                )
        elif self.mode == "minhash":
            self.layout  # noqa: B018  # refuses what has none

    @classmethod
    def datatrove(cls, **changes: Any) -> DedupConfig:
        """As datatrove: simplified text, its arithmetic over 64-bit hashes, 14 bands of 8, no short texts.

        Words are told apart by white space: its own splitter for English is a spaCy model. Kept documents still are the
        first ones, and candidates are still verified as `verify` says.
        """
        fixed: dict[str, Any] = {
            "scheme": "datatrove",
            "normalize": True,
            "words": "whitespace",
            "bands": 14,
            "rows": 8,
        }
        return cls(**{**fixed, **changes})

    @property
    def preferred(self) -> list[str]:
        """The sources of `--prefer source=a,b`, the first being the most preferred."""
        return [name for name in self.prefer.removeprefix("source=").split(",") if name]

    @property
    def needs_files(self) -> bool:
        """Whether the decision takes all documents at once, which a stream cannot give."""
        return self.prefer != "first" or self.cluster

    @property
    def layout(self) -> Bands:
        """The bands and rows in force."""
        if self.bands is not None and self.rows is not None:
            return Bands(self.bands, self.rows)
        if self.band_rule == "datasketch":
            return datasketch_bands(self.threshold, self.num_perm)
        return choose_bands(self.threshold, self.num_perm)

    def record(self) -> dict[str, Any]:
        """What the manifest says: every parameter that determines the result, with the names of the functions used."""
        found: dict[str, Any] = {"mode": self.mode, "hash": "xxh3-128", "normalize": self.normalize}
        if self.needs_files:
            found |= {"prefer": self.prefer, "cluster": self.cluster}
        if self.mode == "exact":
            return found
        layout = self.layout
        return {
            **found,
            "threshold": self.threshold,
            "shingle": self.shingle,
            "words": self.words if self.shingle == "word" else None,
            "ngram": self.ngram,
            "scheme": self.scheme,
            "num_perm": self.num_perm,
            "seed": self.seed,
            "bands": layout.bands,
            "rows": layout.rows,
            "verify": self.verify,
            "max_bucket": self.max_bucket,
        }


def configured(compat: str, bands: str | None, **given: Any) -> DedupConfig:
    """The configuration of a command line: `compat` none or datatrove, `bands` a number or "datasketch"."""
    if bands == "datasketch":
        given["band_rule"] = "datasketch"
    elif bands is not None:
        given["bands"] = parse_count(bands)
    if compat == "none":
        return DedupConfig(**given)
    clashing = [f"--{name}" for name, default in (("words", "cjk"), ("scheme", "affine32")) if given[name] != default]
    clashing += ["--shingle"] if given["shingle"] != "word" else []
    if clashing:
        raise UsageError(f"--compat {compat} says what {', '.join(clashing)} would", hint="give one of them")
    kept = {name: value for name, value in given.items() if name not in ("words", "scheme", "normalize")}
    return DedupConfig.datatrove(**{name: value for name, value in kept.items() if value is not None})


@lru_cache(maxsize=64)
def choose_bands(threshold: float, num_perm: int) -> Bands:
    """The layout of fewest candidates that finds a pair at threshold + 0.05 with probability >= 0.985.

    Candidates are measured by the probability that a pair below the threshold meets, integrated over its similarity.
    For given rows the fewest bands that reach the recall make the fewest candidates, so there is one layout per number
    of rows to compare. Above a threshold of 0.9 the recall is asked for halfway to 1 instead: at threshold 0.95 any
    layout finds "pairs" of similarity 1, which says nothing.

    Raises UsageError where `num_perm` is too small for any layout.
    """
    target = min(threshold + MARGIN, (1.0 + threshold) / 2.0)
    best: tuple[float, Bands] | None = None
    for rows in range(1, num_perm + 1):
        layout = _fewest_bands(rows, target, num_perm // rows)
        if layout is not None:
            area = _probability_below(layout, threshold)
            if best is None or area < best[0]:
                best = area, layout
    if best is None:
        needed = math.ceil(math.log(1.0 - RECALL) / math.log(1.0 - target))
        raise UsageError(
            f"{num_perm} permutations are too few to find {RECALL:.1%} of the pairs at similarity {target:.3g}",
            hint=f"--num-perm {needed} or more, or choose --bands and --rows yourself",
        )
    return best[1]


@lru_cache(maxsize=8)
def datasketch_bands(threshold: float, num_perm: int) -> Bands:
    """The optimum of datasketch's `MinHashLSH`: false positives and false negatives weigh the same.

    The integrals are of polynomials of degree bands x rows at most, so Gauss and Legendre's rule has them exactly.
    """
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(num_perm // 2 + 1)

    def error(layout: Bands) -> float:
        below = (nodes + 1.0) / 2.0 * threshold
        above = threshold + (nodes + 1.0) / 2.0 * (1.0 - threshold)
        found = 1.0 - (1.0 - below**layout.rows) ** layout.bands
        missed = (1.0 - above**layout.rows) ** layout.bands
        return float(threshold / 2.0 * (weights @ found) + (1.0 - threshold) / 2.0 * (weights @ missed))

    layouts = (Bands(bands, rows) for bands in range(1, num_perm + 1) for rows in range(1, num_perm // bands + 1))
    return min(layouts, key=error)


def _fewest_bands(rows: int, target: float, most: int) -> Bands | None:
    for bands in range(1, most + 1):
        layout = Bands(bands, rows)
        if layout.probability(target) >= RECALL:
            return layout
    return None


def _probability_below(layout: Bands, threshold: float, steps: int = 512) -> float:
    """Integral of the meeting probability over similarities 0..threshold (midpoint rule)."""
    width = threshold / steps
    return width * math.fsum(layout.probability((step + 0.5) * width) for step in range(steps))


def _one_of(option: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise UsageError(f"{option} {value!r} is none of {', '.join(accepted)}", hint=f"{option} {accepted[0]}")


def _in_range(option: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise UsageError(f"{option} {value} is not between {lowest} and {highest}")
