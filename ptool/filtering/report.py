"""What a person, or with `--json` a script, reads about rules, a dry run and a run."""

from __future__ import annotations

from typing import Any

from ptool.filtering.rates import Rates
from ptool.filtering.recipe import describe, load_preset, load_rule, preset_names, rule_names
from ptool.formats.manifests import Counts

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
    }


def rates_table(found: Rates) -> Table:
    """For each rule, the share of documents that fail it, and of those that it would be first to drop."""
    total = found.num_documents
    rows = [
        [rate.rule, str(rate.accept), _percent(rate.fails, total), _percent(rate.drops, total)] for rate in found.rates
    ]
    rows.append(["kept", "", "", _percent(found.num_kept, total)])
    return ["rule", "accepts", "fails", "drops"], rows


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
