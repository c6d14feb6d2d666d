"""What a person, or with `--json` a script, reads about rules, a dry run and a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ptool.filtering.rates import GroupRates, Rates
from ptool.filtering.recipe import describe, load_preset, load_rule, preset_names, rule_names
from ptool.formats.manifests import Counts
from ptool.units import format_bytes, format_duration

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def list_rules() -> list[dict[str, Any]]:
    """Every rule with what it measures, its default range, and the presets it is in; read from the rules' files."""
    presets = {name: {step.name for step in load_preset(name).steps} for name in preset_names()}
    rules = []
    for name in rule_names():
        accept = load_rule(name)().accept
        rules.append(
            {
                "rule": name,
                "measures": describe(name),
                "min": accept.min,
                "max": accept.max,
                "accepts": str(accept),
                "presets": [preset for preset, members in presets.items() if name in members],
            }
        )
    return rules


def rules_text() -> str:
    """`list_rules` for people, a line for each rule."""
    rules = list_rules()
    names = max(len(rule["rule"]) for rule in rules)
    ranges = max(len(rule["accepts"]) for rule in rules)
    return "\n".join(
        f"{rule['rule']:<{names}}  {rule['accepts']:<{ranges}}  {rule['measures']}"
        + (f" [{', '.join(rule['presets'])}]" if rule["presets"] else "")
        for rule in rules
    )


def rates_json(found: Rates) -> dict[str, Any]:
    """Counts and shares of a dry run; stable keys."""
    return {
        "num_documents": found.num_documents,
        "num_kept": found.num_kept,
        "num_bad_lines": found.num_bad,
        "rules": [
            {
                "rule": rate.rule,
                "min": rate.accept.min,
                "max": rate.accept.max,
                "num_failing": rate.fails,
                "num_dropped": rate.drops,
            }
            for rate in found.rates
        ],
        "by_source": msgspec.to_builtins(found.by_source),
        "by_language": msgspec.to_builtins(found.by_language),
        "sampling": found.sampling,
        "examples": found.examples,
        "seconds": found.seconds,
        "output_bytes": found.output_bytes,
    }


def rates_table(found: Rates) -> Table:
    """For each rule, the share of documents that fail it, and of those that it would be first to drop."""
    total = found.num_documents
    rows = [
        [rate.rule, str(rate.accept), _percent(rate.fails, total), _percent(rate.drops, total)] for rate in found.rates
    ]
    rows.append(["kept", "", "", _percent(found.num_kept, total)])
    return ["rule", "accepts", "fails", "drops"], rows


def groups_table(name: str, groups: Mapping[str, GroupRates]) -> Table:
    """For each source or language, what is kept, and the rules that drop most of it."""
    rows = []
    for group, rates in groups.items():
        worst = sorted(rates.dropped_by.items(), key=lambda item: (-item[1], item[0]))[:3]
        told = ", ".join(f"{rule} {_percent(count, rates.documents)}" for rule, count in worst)
        rows.append([group, f"{rates.documents:,}", _percent(rates.kept, rates.documents), told or "-"])
    return [name, "documents", "kept", "dropped by"], rows


def sampling_told(found: Rates) -> str:
    """How the sample was taken, in one line."""
    kinds = sorted(set(found.sampling.values()))
    told = " and ".join(
        f"the {kind} of {sum(one == kind for one in found.sampling.values()):,} inputs"
        if len(found.sampling) > 1
        else f"the {kind}"
        for kind in kinds
    )
    return f"from {told}: {found.num_documents:,} documents; nothing was written"


def outlook(found: Rates) -> list[tuple[str, str]]:
    """What the sample says of the whole: time, size, and documents to look at (`ptool explain`)."""
    rows = []
    if found.seconds is not None and found.output_bytes is not None:
        rows.append(("all of it would take", f"about {format_duration(found.seconds)} of one worker"))
        rows.append(("and leave", f"about {format_bytes(found.output_bytes)}, compressed as the input is"))
    return rows + [(f"dropped by {rule}", ", ".join(ids)) for rule, ids in found.examples.items()]


def summary(counts: Counts) -> list[tuple[str, str]]:
    """What became of the documents, with the rules that dropped most first."""
    rows = [("read", f"{counts.read:,} documents"), ("kept", _count_of(counts.kept, counts.read))]
    for rule, dropped in sorted(counts.dropped_by.items(), key=lambda item: (-item[1], item[0])):
        rows.append((f"dropped by {rule}", _count_of(dropped, counts.read)))
    if counts.rejected:
        rows.append(("rejected", _count_of(counts.rejected, counts.read)))
    return rows


def _count_of(part: int, whole: int) -> str:
    return f"{part:,} ({_percent(part, whole)})"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"
