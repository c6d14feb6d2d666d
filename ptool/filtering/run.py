"""Filtering streams: inputs to one output, or to a folder with an output for each input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ptool.errors import TooManyRejected, UsageError
from ptool.executors import ordered_map
from ptool.filtering.decisions import Decided, Dropped, Edited, Failure, decide
from ptool.filtering.recipe import Recipe, Step
from ptool.formats.atomic import describing_os_errors
from ptool.formats.folders import is_folder, my_inputs, parse_shard, plan_folder, run_folder
from ptool.formats.ledger import ErrorPolicy
from ptool.formats.manifests import Counts, add_up
from ptool.formats.stages import StageReport, StreamOptions, TransformRun
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import BadLine, Keys
from ptool.text.characters import UNICODE_VERSION
from ptool.units import LARGEST_COUNT

_WORKER_MODULES = (
    "ptool.filtering.decisions",
    "ptool.text.words",
    "ptool.text.lines",
    "ptool.text.counts",
    "ptool.text.repetition",
    "ptool.text.packed_words",
    "ptool.text.line_edits",
    "ptool.text.whole_texts",
)


class Filtering(msgspec.Struct, frozen=True, kw_only=True):
    """How to filter. `recipe` and `keys` determine the bytes that come out, the rest does not."""

    recipe: Recipe
    keys: Keys = Keys()
    options: StreamOptions = StreamOptions()
    jobs: int = 1
    explain_all: bool = False
    """Name every rule that a dropped document fails in the rejects."""
    annotate: bool = False
    """Drop nothing: write what was measured into each document."""

    def config(self) -> dict[str, Any]:
        """What the manifest records. Which characters are letters depends on the Unicode version."""
        keys = msgspec.to_builtins(self.keys)
        found = {"recipe": self.recipe.config(), "keys": keys, "unicode": UNICODE_VERSION}
        return found | ({"annotate": True} if self.annotate else {})


def filter_stream(
    filtering: Filtering,
    inputs: Sequence[str | Path],
    output: Path | None,
    *,
    labels: Sequence[str] | None = None,
    reporter: Reporter = SILENT,
) -> StageReport:
    """Filter `inputs` (none: stdin) into the file `output` (None: stdout); `labels` name the inputs in ids.

    Raises UsageError where an output stands that other work made, BadDocument for a line that is no document (unless
    the options reject such lines), TooManyRejected after finishing.
    """
    with_lines = filtering.options.policy.rejects is not None
    work = partial(
        decide,
        recipe=filtering.recipe,
        keys=filtering.keys,
        with_lines=with_lines,
        explain_all=filtering.explain_all,
        annotate=filtering.annotate,
    )
    run = TransformRun(
        "filter", filtering.config(), inputs, output, options=filtering.options, reporter=reporter, labels=labels
    )
    edited = {position: Edited() for position, _ in filtering.recipe.edits}
    with run:
        if not run.up_to_date:
            for decided in ordered_map(work, run.lines(), jobs=filtering.jobs, preload=_WORKER_MODULES):
                _record(run, decided, filtering.recipe)
                for position, batch in decided.edited.items():
                    edited[position].add(batch)
        return run.finish(_details(filtering.recipe, edited))


def filter_folder(
    filtering: Filtering,
    inputs: Sequence[str],
    folder: Path,
    *,
    shard: str | None = None,
    reporter: Reporter = SILENT,
) -> list[StageReport]:
    """Filter each input into a file of its own in `folder`; of several tasks, those of `shard` (`K/N`, `slurm`).

    Outputs that are complete are left alone. Rejects, where asked for, go to a folder with the same names. Raises
    TooManyRejected, after all inputs, for what they have together.
    """
    tasks = parse_shard(shard)
    suffix = ".jsonl.zst" if filtering.options.compress else ".jsonl"
    plan = plan_folder(folder, stage="filter", config=filtering.config(), inputs=inputs, suffix=suffix, tasks=tasks)

    def make(position: int, path: Path) -> StageReport:
        one = _for_part(filtering, plan.outputs[position])
        return filter_stream(one, [inputs[position]], path, labels=[plan.inputs[position]], reporter=reporter)

    reports, _ = run_folder(folder, plan, my_inputs(plan, tasks), make)
    _check(add_up([report.manifest.counts for report in reports if not report.up_to_date]), filtering.options.policy)
    return reports


def filter_to(
    filtering: Filtering,
    inputs: Sequence[str],
    output: str | None,
    *,
    shard: str | None = None,
    reporter: Reporter = SILENT,
) -> Counts:
    """Filter into what `output` names: a folder (`out/`), a file, or None for stdout; what became of the documents."""
    if output is not None and is_folder(output):
        reports = filter_folder(filtering, inputs, Path(output), shard=shard, reporter=reporter)
    elif shard is not None:
        raise UsageError("--shard shares out the files of a folder", hint="-o FOLDER/")
    else:
        path = None if output in (None, "-") else Path(str(output))
        reports = [filter_stream(filtering, inputs, path, reporter=reporter)]
    return add_up([report.manifest.counts for report in reports])


def _for_part(filtering: Filtering, name: str) -> Filtering:
    """The same work for one file of a folder: rejects in a file of that name, and errors judged at the end."""
    policy = filtering.options.policy
    rejects = policy.rejects
    if rejects is not None:
        rejects = rejects / name
        with describing_os_errors(rejects.parent):
            rejects.parent.mkdir(parents=True, exist_ok=True)
    policy = msgspec.structs.replace(policy, rejects=rejects, max_errors=LARGEST_COUNT)
    return msgspec.structs.replace(filtering, options=msgspec.structs.replace(filtering.options, policy=policy))


def _check(counts: Counts, policy: ErrorPolicy) -> None:
    if counts.rejected > policy.max_errors:
        raise TooManyRejected(
            f"{counts.rejected:,} lines were rejected, {policy.max_errors:,} are allowed",
            hint=f"--max-errors {counts.rejected} accepts as many",
        )


def _record(run: TransformRun, decided: Decided, recipe: Recipe) -> None:
    run.keep(decided.kept, decided.num_kept)
    for one in decided.removed:
        if isinstance(one, BadLine):
            run.reject(one.raw + b"\n", path=decided.lines.path, number=one.number, message=one.message)
            continue
        run.drop(one.line, _reason(one, recipe))


def _reason(one: Dropped, recipe: Recipe) -> dict[str, Any]:
    """What a rejects line says: the first rule that failed, and what else is known."""
    reason = _named(one.failure, recipe)
    if one.chars is not None:
        reason["chars"] = one.chars
    if one.also:
        reason["also"] = [_named(failure, recipe) for failure in one.also]
    return reason


def _named(failure: Failure, recipe: Recipe) -> dict[str, Any]:
    step = recipe.steps[failure.step]
    if not isinstance(step, Step):
        raise TypeError(f"{step.name} is no rule")
    return {"rule": step.name, "value": failure.value, "accept": [step.rule.accept.min, step.rule.accept.max]}


def _details(recipe: Recipe, edited: dict[int, Edited]) -> dict[str, Any]:
    if not edited:
        return {}
    found = [{"edit": recipe.steps[position].name, **msgspec.to_builtins(one)} for position, one in edited.items()]
    return {"edits": found}
