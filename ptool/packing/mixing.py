"""How much of every source goes into a mix, and which documents.

Weights are shares of tokens. They are given, or follow from a temperature: p_i is proportional to n_i^(1/T), where n_i
are the tokens that there are, so T > 1 lifts small sources and T = 1 leaves all as they are (90/9/1 becomes 57/28/15 at
T = 3.33). A source of which more is wanted than there is comes again: as many whole epochs as fit, and then the
documents with the smallest keyed hash of their text until the rest is reached. Documents stay whole, so the shares that
were achieved differ from those asked for by less than a document per source; the manifest has both.

Up to about 4 epochs repeats cost little, and beyond that they help less and less (Muennighoff et al. 2023,
arXiv:2305.16264), so that is where the cap stands unless it is moved.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ptool.errors import InputError, UsageError
from ptool.formats.documents import Records
from ptool.packing.grouping import repeats_before
from ptool.packing.holdout import mix as scramble

Integers = npt.NDArray[np.int64]
DomainKind = Literal["source", "folder"]


class Domains(NamedTuple):
    """What documents are told apart by: sources, or the folders that they lie in."""

    names: list[str]
    of: Integers
    """The number of each document's name."""

    def tokens(self, lengths: Integers) -> dict[str, int]:
        """The tokens of every domain, for documents of `lengths`."""
        sums = np.zeros(len(self.names), dtype=np.int64)
        np.add.at(sums, self.of, lengths)
        return dict(zip(self.names, sums.tolist(), strict=True))

    def at(self, documents: Integers) -> Domains:
        """Those of some documents, by number."""
        return Domains(self.names, self.of[documents])


class SourceShare(msgspec.Struct, frozen=True, kw_only=True):
    """One source (or folder) of a mix: tokens that there are, the share asked for, and what it comes to."""

    name: str
    available: int
    share: float
    wanted: int

    @property
    def epochs(self) -> float:
        """How often the source is seen."""
        return self.wanted / max(self.available, 1)


def shares_by_temperature(tokens_by_source: Mapping[str, int], temperature: float) -> dict[str, float]:
    """p_i proportional to n_i^(1/T). Raises UsageError for a temperature that is not positive."""
    if not 0 < temperature < float("inf"):
        raise UsageError(f"a temperature of {temperature}", hint="1 leaves the shares, 3 lifts small sources")
    # Relative to the largest, so that no power overflows.
    largest = max(tokens_by_source.values(), default=1)
    return {name: (tokens / largest) ** (1 / temperature) for name, tokens in tokens_by_source.items() if tokens}


def plan_mix(
    tokens_by_source: Mapping[str, int], shares: Mapping[str, float], total: int, max_epochs: float
) -> list[SourceShare]:
    """What every source gives to `total` tokens. Sources without a share give nothing.

    Raises UsageError for a share of a source that is not there, InputError where a source would be seen more than
    `max_epochs` times, with how much it falls short.
    """
    unknown = [name for name in shares if name not in tokens_by_source]
    if unknown:
        known = ", ".join(sorted(tokens_by_source))
        message = f"the mix names {', '.join(map(repr, unknown))}, and the tokens have no such source"
        raise UsageError(message, hint=f"there are {known}")
    weight = sum(shares.values())
    plan = [
        SourceShare(name=name, available=tokens, share=share / weight, wanted=round(total * share / weight))
        for name, tokens in tokens_by_source.items()
        if (share := shares.get(name, 0.0)) > 0
    ]
    short = [one for one in plan if one.wanted > one.available * max_epochs]
    if short:
        needs = "; ".join(
            f"{one.name!r} has {one.available:,} tokens, {one.epochs:.2f} epochs of it are asked for, "
            f"{one.wanted - int(one.available * max_epochs):,} tokens more than {max_epochs:g} epochs give"
            for one in short
        )
        most = int(min(one.available * max_epochs / one.share for one in plan))
        raise InputError(f"the mix needs more than there is: {needs}", hint=f"--tokens {most} is the most it gives")
    return plan


def choose_documents(records: Records, domains: Domains, plan: list[SourceShare], seed: int) -> Integers:
    """Numbers of the documents of a mix, those of each epoch in order; a document of k epochs stands there k times.

    `records` and `domains` are those of the same documents.
    """
    chosen: list[Integers] = []
    keys = scramble(records["text_hash"].astype(np.uint64), seed)
    filled = np.flatnonzero(records["num_tokens"] > 0)
    by_domain = filled[np.argsort(domains.of[filled], kind="stable")]  # there may be as many domains as hosts
    bounds = np.searchsorted(domains.of[by_domain], np.arange(len(domains.names) + 1))
    numbers = {name: number for number, name in enumerate(domains.names)}
    for one in plan:
        number = numbers[one.name]
        documents = by_domain[bounds[number] : bounds[number + 1]]
        lengths = records["num_tokens"][documents]
        whole, rest = divmod(one.wanted, max(int(lengths.sum()), 1))
        chosen.extend([documents] * whole)
        order = np.lexsort((documents, keys[documents]))
        ends = np.cumsum(lengths[order])
        count = int(np.searchsorted(ends, rest, side="right"))
        # The document at the edge is in where that comes nearer.
        if count < len(ends) and rest and ends[count] - rest <= rest - (ends[count - 1] if count else 0):
            count += 1
        chosen.append(np.sort(documents[order[:count]]))
    everything = np.concatenate([np.empty(0, dtype=np.int64), *chosen])
    epochs = np.repeat(np.arange(len(chosen)), [len(part) for part in chosen])
    return everything[np.lexsort((epochs, everything))] if len(everything) else everything


def shuffle_documents(documents: Integers, text_hashes: npt.NDArray[np.uint64], seed: int) -> Integers:
    """The documents in an order that follows from their texts and the seed; repeats of one are far apart."""
    repeat = repeats_before(documents).astype(np.uint64)
    keys = scramble(text_hashes[documents] ^ scramble(repeat, seed + 1), seed)
    return documents[np.lexsort((documents, keys))]


def named_mixes() -> list[str]:
    """The mixes that ship with ptool."""
    folder = resources.files(__package__).joinpath("mixes")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_mix(text: str) -> dict[str, float]:
    """`web=0.67,code=0.15`, or the name of a mix that ships with ptool. Raises UsageError."""
    if "=" not in text:
        if text not in named_mixes():
            raise UsageError(f"no mix is called {text!r}", hint=f"web=0.7,code=0.3, or {', '.join(named_mixes())}")
        file = resources.files(__package__).joinpath("mixes", f"{text}.toml")
        return {name: float(share) for name, share in tomllib.loads(file.read_text(encoding="utf-8")).items()}
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().rpartition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not name or name in shares or not 0 <= share < float("inf"):
            raise UsageError(f"{part.strip()!r} is no SOURCE=SHARE", hint="for example --mix web=0.67,code=0.33")
        shares[name] = share
    if not sum(shares.values()):
        raise UsageError("a mix of nothing", hint="for example --mix web=0.67,code=0.33")
    return shares
