"""Many inputs into one folder: an output for each input, made by any number of tasks, and nobody in charge.

The plan (`plan.json`) is a function of the inputs and the configuration, so every task writes the same one. A task
takes its share of the inputs and makes their outputs, each with a manifest of its own beside it; the one that finds all
of them complete writes the folder's `manifest.json`, whose bytes are the same whoever does it. A run that was killed,
or some of whose tasks were, goes on with what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ptool.errors import DamagedInput, InputError, UsageError
from ptool.formats.artefacts import MANIFEST, list_files, read_folder_manifest
from ptool.formats.atomic import describing_os_errors, is_temporary, write_bytes
from ptool.formats.manifests import Manifest, add_up, encode_manifest, manifest_digest, new_manifest
from ptool.formats.stages import StageReport, read_manifest
from ptool.formats.streams import STDIN, labels

PLAN = "plan.json"
_SUFFIXES = (".jsonl.zst", ".jsonl.gz", ".jsonl", ".json.gz", ".json.zst", ".json", ".zst", ".gz")


class FolderPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a folder will hold: the label of each input and, in the same order, the name of its output.

    `num_tasks` and `first_task` are those of the array that made the plan (1 and 1 without one): a later array of only
    the missing tasks has other variables, and must not split the inputs anew.
    """

    stage: str
    version: str
    config: dict[str, Any]
    inputs: list[str]
    outputs: list[str]
    num_tasks: int = 1
    first_task: int = 1


class FolderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a folder is: outputs that are there, those that are not, and the array tasks that would make them."""

    stage: str
    complete: list[str]
    missing: list[str]
    tasks: list[int]
    finished: bool

    @property
    def array(self) -> str:
        """The missing tasks as Slurm writes them: `3,17-19`."""
        return ranges(self.tasks)


def is_folder(output: str | None) -> bool:
    """Whether `-o` names a folder: it ends in a slash, or is one."""
    return output is not None and (output.endswith("/") or Path(output).is_dir())


def parse_shard(text: str | None, environ: Mapping[str, str] = os.environ) -> tuple[int, int, int]:
    """`K/N` or `slurm` as (task, number of tasks, first task). Raises UsageError.

    Tasks of `K/N` count from 1. `slurm` reads SLURM_ARRAY_TASK_ID, _COUNT and _MIN.
    """
    if text is None:
        return 1, 1, 1
    if text == "slurm":
        try:
            task, count, first = (int(environ[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "COUNT", "MIN"))
        except (KeyError, ValueError) as error:
            raise UsageError(
                "--shard slurm: this is no Slurm array task", hint="sbatch --array=1-8, or --shard 1/8"
            ) from error
        return task, count, first
    try:
        task, count = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise UsageError(f"--shard {text}: K/N is needed", hint="--shard 1/8 is the first of eight") from error
    if not 1 <= task <= count:
        raise UsageError(f"--shard {text}: K goes from 1 to N", hint="--shard 1/8 is the first of eight")
    return task, count, 1


def plan_folder(
    folder: Path, *, stage: str, config: dict[str, Any], inputs: Sequence[str], suffix: str, tasks: tuple[int, int, int]
) -> FolderPlan:
    """The plan of a folder: written by the first task, compared by every other. Raises UsageError when it differs."""
    from ptool import __version__

    if STDIN in inputs:
        raise UsageError("a folder has an output for each input file, and stdin is none", hint="-o FILE")
    names = labels(inputs)
    outputs = [_stem(name) + suffix for name in names]
    if len(set(outputs)) < len(outputs):
        raise UsageError("two inputs would have the same output", where=str(folder), hint="give each file once")
    _, num_tasks, first = tasks
    plan = FolderPlan(
        stage=stage,
        version=__version__,
        config=config,
        inputs=names,
        outputs=outputs,
        num_tasks=num_tasks,
        first_task=first,
    )
    there = read_plan(folder)
    if there is None and folder.is_dir() and not all(map(is_temporary, folder.iterdir())):
        there = read_plan(folder)  # of a task that started at the same moment
        if there is None:
            raise UsageError("the output folder holds other files", where=str(folder), hint="give another folder")
    if there is None:
        with describing_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / PLAN, msgspec.json.encode(plan, order="sorted") + b"\n")
        return plan
    if _work(there) != _work(plan):
        raise UsageError(
            "the output folder belongs to other work (other inputs, configuration or version)",
            where=str(folder),
            hint="give another folder, or remove this one",
        )
    return there


def my_inputs(plan: FolderPlan, tasks: tuple[int, int, int]) -> list[int]:
    """Positions of the inputs that a task takes: every N-th, from its own."""
    number = tasks[0] - plan.first_task
    if not 0 <= number < plan.num_tasks:
        raise UsageError(f"task {tasks[0]} is not one of the {plan.num_tasks} the folder was planned for")
    return list(range(number, len(plan.inputs), plan.num_tasks))


def run_folder(
    folder: Path,
    plan: FolderPlan,
    mine: Sequence[int],
    make: Callable[[int, Path], StageReport],
) -> tuple[list[StageReport], Manifest | None]:
    """Make the outputs `mine` by `make(position, path)`; their reports, and the folder's manifest once complete."""
    reports = []
    for position in mine:
        path = folder / plan.outputs[position]
        with describing_os_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        reports.append(make(position, path))
    return reports, complete_folder(folder, plan)


def complete_folder(folder: Path, plan: FolderPlan) -> Manifest | None:
    """Write the folder's manifest when all outputs are there; None while some are not."""
    parts = []
    for name in plan.outputs:
        manifest = read_manifest(folder / name)
        if manifest is None:
            return None  # and no look at the others: every one of a thousand tasks asks
        parts.append(manifest)
    whole = new_manifest(
        plan.stage,
        plan.config,
        counts=add_up([part.counts for part in parts]),
        num_documents=sum(part.documents_out.num_documents for part in parts if part.documents_out),
        num_bytes=sum(part.documents_out.num_bytes for part in parts if part.documents_out),
        details={
            "parts": [
                {"path": name, "manifest": manifest_digest(part)}
                for name, part in zip(plan.outputs, parts, strict=True)
            ]
        },
        files=list_files(folder, plan.outputs),
    )
    write_bytes(folder / MANIFEST, encode_manifest(whole) + b"\n")
    return whole


def read_plan(folder: Path) -> FolderPlan | None:
    """The plan of a folder; None where there is none."""
    try:
        data = (folder / PLAN).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return msgspec.json.decode(data, type=FolderPlan)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DamagedInput(f"not a plan: {error}", where=str(folder / PLAN)) from error


def folder_status(folder: Path) -> FolderStatus:
    """What a folder has and lacks. Raises InputError for one that ptool did not plan."""
    plan = read_plan(folder)
    if plan is None:
        manifest = read_folder_manifest(folder) if folder.is_dir() else None
        if manifest is None:
            raise InputError("no output folder of ptool: it has neither plan.json nor manifest.json", where=str(folder))
        names = [entry.path for entry in manifest.files]
        return FolderStatus(stage=manifest.stage, complete=names, missing=[], tasks=[], finished=True)
    there = [read_manifest(folder / name) is not None for name in plan.outputs]
    lacking = [position for position, done in enumerate(there) if not done]
    finished = (folder / MANIFEST).is_file() and not lacking
    return FolderStatus(
        stage=plan.stage,
        complete=[name for name, done in zip(plan.outputs, there, strict=True) if done],
        missing=[plan.outputs[position] for position in lacking],
        tasks=sorted({position % plan.num_tasks + plan.first_task for position in lacking}),
        finished=finished,
    )


def ranges(numbers: Sequence[int]) -> str:
    """Ascending integers as `3,17-19`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def _stem(name: str) -> str:
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and len(name) > len(suffix):
            return name.removesuffix(suffix)
    return name


def _work(plan: FolderPlan) -> tuple[object, ...]:
    return plan.stage, plan.version, msgspec.json.encode(plan.config, order="sorted"), plan.inputs, plan.outputs
