"""What a person, or with `--json` a script, reads about a plan and about a run. Needs neither numpy nor numba."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptool.dedup.config import Bands, DedupConfig
from ptool.formats.manifests import Manifest

CURVE = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Similarities at which the plan shows the probability of being found."""

_VERIFIED = {
    "exact": "the exact Jaccard similarity of the shingle sets",
    "signature": "the similarity of the signatures",
    "none": "nothing: whatever shares a band is dropped",
}

Rows = list[tuple[str, str]]


def plan(config: DedupConfig, inputs: Sequence[str], output: str | None) -> dict[str, Any]:
    """The resolved plan of `--dry-run`; stable keys."""
    found: dict[str, Any] = {**config.record(), "inputs": list(inputs), "output": output or "-"}
    if config.mode == "minhash":
        layout = config.layout
        found["bands_threshold"] = layout.threshold
        found["found_with_probability"] = {f"{at:g}": layout.probability(at) for at in CURVE}
    return found


def plan_rows(config: DedupConfig, inputs: Sequence[str], output: str | None) -> Rows:
    """`plan` for people."""
    rows = [("mode", config.mode), ("inputs", f"{len(inputs)}: {', '.join(inputs)}"), ("output", output or "stdout")]
    if config.mode == "minhash":
        layout = config.layout
        rows += [
            ("similarity", f">= {config.threshold:g} of {config.ngram}-{config.shingle} shingles"),
            ("verified by", _VERIFIED[config.verify]),
            ("bands", _bands_text(layout, config.num_perm)),
            ("pairs found", _curve_text(layout)),
            ("bucket", f"remembers {config.max_bucket:,} kept documents"),
        ]
    return rows


def summary(manifest: Manifest) -> Rows:
    """What became of the documents, and how the near duplicates were found."""
    counts, config, details = manifest.counts, manifest.config, manifest.details
    if counts is None:
        return []
    rows = [("read", f"{counts.read:,} documents"), ("kept", _part_of(counts.kept, counts.read))]
    rules = ["exact-duplicate"] if config["mode"] == "exact" else ["exact-duplicate", "near-duplicate"]
    rows += [(f"dropped as {rule}", _part_of(counts.dropped_by.get(rule, 0), counts.read)) for rule in rules]
    if counts.rejected:
        rows.append(("rejected", _part_of(counts.rejected, counts.read)))
    if config["mode"] == "minhash":
        candidates, refused = details["candidates"], details["refused_by_verification"]
        checked = f"{refused:,} refused by verification"
        if config["verify"] == "none":
            checked = f"none verified, {details['below_threshold_unchecked']:,} of them below the threshold by estimate"
        rows.append(("bands", _bands_text(Bands(config["bands"], config["rows"]), config["num_perm"])))
        rows.append(("pairs compared", f"{candidates:,}, {checked} (threshold {config['threshold']:g})"))
        layout = Bands(config["bands"], config["rows"])
        rows.append(("pairs found", _curve_text(layout)))
        if details["not_compared"]:
            rows.append(("pairs not compared", f"{details['not_compared']:,}: full buckets, see --max-bucket"))
    return rows


def summary_json(manifest: Manifest) -> dict[str, Any]:
    """`summary` for scripts: the counts, the configuration and what the search found."""
    found: dict[str, Any] = {"counts": manifest.counts, "config": manifest.config, **manifest.details}
    if manifest.config["mode"] == "minhash":
        layout = Bands(manifest.config["bands"], manifest.config["rows"])
        found["bands_threshold"] = layout.threshold
    return found


def pass_summary(manifest: Manifest) -> Rows:
    """What became of the documents in a pass over lines, paragraphs or n-grams."""
    counts, details = manifest.counts, manifest.details
    if counts is None:
        return []
    rows = [("read", f"{counts.read:,} documents"), ("kept", _part_of(counts.kept, counts.read))]
    rows += [(f"dropped for {rule}", _part_of(number, counts.read)) for rule, number in counts.dropped_by.items()]
    if counts.rejected:
        rows.append(("rejected", _part_of(counts.rejected, counts.read)))
    if "edited" in details:
        rows.append(("edited", _part_of(details["edited"], counts.read)))
        rows.append(("cut out", f"{details['removed_spans']:,} spans, {details['removed_bytes']:,} bytes of text"))
    if "bloom_bits" in details:
        fill, rate = details["bloom_fill"], details["bloom_error_rate"]
        rows.append(("filter", f"{details['bloom_bits'] / 8e6:,.1f} MB, {details['bloom_probes']} probes"))
        rows.append(("filter is full", f"{100 * fill:.1f} %: false alarms {100 * rate:.3g} %"))
    return rows


def pass_json(manifest: Manifest) -> dict[str, Any]:
    """`pass_summary` for scripts."""
    return {"counts": manifest.counts, "config": manifest.config, **manifest.details}


def _bands_text(layout: Bands, num_perm: int) -> str:
    return f"{layout.bands} x {layout.rows} of {num_perm} permutations: (1/b)^(1/r) = {layout.threshold:.3f}"


def _curve_text(layout: Bands) -> str:
    return ", ".join(f"{at:g}: {100 * layout.probability(at):.1f} %" for at in CURVE)


def _part_of(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.2f} %)" if whole else f"{part:,}"
