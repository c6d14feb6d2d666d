"""Which documents go into which split, how often, in which order, and into which rows.

Everything here is array work on the documents' records; tokens are not touched.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ptool.errors import UsageError
from ptool.formats.documents import NO_SOURCE, Records
from ptool.formats.manifests import Counts
from ptool.packing.balance import interleave, largest_deviation
from ptool.packing.config import PackConfig
from ptool.packing.grouping import NO_KEY, group, plan_groups
from ptool.packing.holdout import choose_holdout
from ptool.packing.holdout import mix as scramble
from ptool.packing.mixing import Domains, choose_documents, plan_mix, shares_by_temperature, shuffle_documents
from ptool.packing.plan import Integers, Plan, concatenate, plan_rows, reorder
from ptool.packing.source import TokenSource
from ptool.reporting import Reporter

_LENGTH_STEPS = (512, 2048, 8192, 32768)


class Part(NamedTuple):
    """The documents of one split, by number, as often as they are to come, and how much of each is packed.

    Every `groups[i]` next ones belong together.
    """

    documents: Integers
    lengths: Integers
    groups: Integers
    domains: Domains


class Selection(NamedTuple):
    """The splits, tokens that --max-doc-pieces leaves out, and the mix, before and after, by domain."""

    splits: dict[str, Part]
    left_out: int
    mix: dict[str, dict[str, Any]]


def select(source: TokenSource, config: PackConfig, reporter: Reporter) -> Selection:
    """The documents of each split. Raises UsageError and InputError for a mix that cannot be (mixing.py)."""
    records, domains = source.records, source.domains(config.mix_by)
    held = choose_holdout(records["text_hash"], records["num_bytes"] > 0, config.holdout, config.seed)
    here = np.ones(len(records), dtype=bool)
    if config.only is not None:
        if config.only not in domains.names:
            message = f"there is no {config.mix_by} {config.only!r}"
            raise UsageError(message, hint=f"there are {', '.join(domains.names)}")
        here = domains.of == domains.names.index(config.only)
    train, holdout = np.flatnonzero(~held & here), np.flatnonzero(held & here)
    mix: dict[str, dict[str, Any]] = {}
    if config.mix or config.temperature is not None or config.tokens is not None or config.domain_balance != "none":
        train, mix = _mixed(records, domains, train, config, reporter)
    if config.shuffle:
        train = shuffle_documents(train, records["text_hash"], config.seed)
    keys = source.keys(config.group_by) if config.group_by is not None else None
    if keys is not None and config.domain_balance != "none":  # rows are of one domain, and so are groups
        keys = np.where(
            keys == NO_KEY, keys, scramble(keys ^ scramble(domains.of.astype(np.uint64), 0), 0) | np.uint64(1)
        )
    limit = config.seq_len * config.max_doc_pieces if config.max_doc_pieces else None
    splits, left_out = {}, 0
    for name, documents in (("train", train), ("holdout", holdout)):
        groups = np.ones(len(documents), dtype=np.int64)
        if keys is not None and name == "train":
            order, groups = group(documents, keys)
            documents = documents[order]
        whole = records["num_tokens"][documents].astype(np.int64)
        lengths = whole if limit is None else np.minimum(whole, limit)
        left_out += int((whole - lengths).sum())
        splits[name] = Part(documents, lengths, groups, domains.at(documents))
    return Selection(splits, left_out, mix)


def count(read: int, selection: Selection) -> Counts:
    """Documents of which the mix or another source takes nothing are dropped; repeats count once."""
    used = np.zeros(read, dtype=bool)
    for part in selection.splits.values():
        used[part.documents] = True
    kept = int(used.sum())
    return Counts(read=read, kept=kept, dropped=read - kept, dropped_by={"mix": read - kept} if read > kept else {})


def _mixed(
    records: Records, domains: Domains, train: Integers, config: PackConfig, reporter: Reporter
) -> tuple[Integers, dict[str, dict[str, Any]]]:
    """The training documents of a mix, and the table before and after."""
    records, domains = records[train], domains.at(train)
    there = {name: tokens for name, tokens in domains.tokens(records["num_tokens"]).items() if tokens}
    if config.mix and abs(sum(config.mix.values()) - 1) > 1e-6:
        reporter.notice(f"the weights sum to {sum(config.mix.values()):.4g}; they are taken as shares of that")
    shares = config.mix or shares_by_temperature(there, 1.0 if config.temperature is None else config.temperature)
    plan = plan_mix(there, shares, config.tokens or sum(there.values()), config.max_epochs)
    chosen = choose_documents(records, domains, plan, config.seed)
    achieved = domains.at(chosen).tokens(records["num_tokens"][chosen])
    total_before, total_after = max(sum(there.values()), 1), max(sum(achieved.values()), 1)
    asked = {one.name: one.share for one in plan}
    table = {
        name: {
            "tokens_before": tokens,
            "share_before": tokens / total_before,
            "share_asked": asked.get(name, 0.0),
            "tokens": achieved.get(name, 0),
            "share": achieved.get(name, 0) / total_after,
            "epochs": achieved.get(name, 0) / max(tokens, 1),
        }
        for name, tokens in sorted(there.items())
    }
    return train[chosen], table


def plan_split(name: str, part: Part, records: Records, config: PackConfig) -> tuple[Plan, dict[str, Any]]:
    """The rows of a split, shuffled and balanced where that is asked for, and what the balance came to."""
    if config.domain_balance == "none" or name != "train":
        return _shuffled(_rows(part, config), part, records, config), {}
    plans, used = [], []
    of_groups = part.domains.of[np.cumsum(part.groups) - part.groups]
    for number in np.unique(of_groups).tolist():
        here = np.flatnonzero(part.domains.of == number)
        alone = Part(part.documents[here], part.lengths[here], part.groups[of_groups == number], part.domains)
        plan = _shuffled(_rows(alone, config), alone, records, config)
        plan.spans["document"] = here[plan.spans["document"]]
        if len(plan.counts):
            plans.append(plan)
            used.append(part.domains.names[number])
    rows = np.array([len(plan.counts) for plan in plans], dtype=np.int64)
    order = interleave(rows, config.balance_rows)
    places = np.empty(len(order), dtype=np.int64)
    places[np.argsort(order, kind="stable")] = np.arange(len(order))
    found = {
        "window": min(config.balance_rows, len(order)),
        "rows": dict(zip(used, rows.tolist(), strict=True)),
        "tokens": {one: int(plan.spans["length"].sum(dtype=np.int64)) for one, plan in zip(used, plans, strict=True)},
        "largest_deviation": round(largest_deviation(order, rows, config.balance_rows), 6),
    }
    return reorder(concatenate(plans), places), found


def _rows(part: Part, config: PackConfig) -> Plan:
    if config.group_by is None:
        return plan_rows(part.lengths, config.seq_len, config.strategy)
    return plan_groups(part.lengths, part.groups, config.seq_len, config.strategy)


def _shuffled(plan: Plan, part: Part, records: Records, config: PackConfig) -> Plan:
    if not config.shuffle or not len(plan.counts):
        return plan
    first = plan.spans[np.cumsum(plan.counts) - plan.counts]
    owner = part.documents[first["document"]]
    keys = scramble(records["text_hash"][owner] ^ scramble(first["offset"].astype(np.uint64), config.seed), config.seed)
    return reorder(plan, np.argsort(keys, kind="stable"))


def tokens_by_length(source: TokenSource, part: Part) -> dict[str, dict[str, int]]:
    """Training tokens of each source by the length of their documents: long rows see other shares than the whole."""
    records = source.records[part.documents]
    bands = np.digitize(part.lengths, _LENGTH_STEPS)
    numbers = records["source"].astype(np.int64) + 1
    sums = np.zeros((len(source.sources) + 1, len(_LENGTH_STEPS) + 1), dtype=np.int64)
    np.add.at(sums, (numbers, bands), part.lengths)
    names = [NO_SOURCE, *source.sources]
    labels = [*(f"under {step}" for step in _LENGTH_STEPS), f"{_LENGTH_STEPS[-1]} and more"]
    return {names[number]: dict(zip(labels, sums[number].tolist(), strict=True)) for number in np.unique(numbers)}
