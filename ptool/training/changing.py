"""What `resume --set` makes of a run that has begun: steps that were taken stay what they were, later ones change.

The phase that the newest checkpoint stands in is cut there; what follows is planned anew. So a changed run is still a
pure function of its steps, and a rollback to before the change trains by the old plan again. Each change says what it
means, for the plan and the ledger; what cannot be meant is refused with the reason.

    batch.tokens          the tokens left are taken in steps of another size; the learning rate stays on its curve
    data.mix, .packed     other shares, or other folders (of another length too); rows already drawn are not drawn again
    schedule.*, peak_lr   another curve from here on
    schedule.decay_tokens a stable run (wsd, constant) decays from here, also one that is finished
    run.tokens            longer or shorter; a curve that reached to the end is stretched
    [[phase]] (--config)  in place of all that is left
    parallel.*            the same steps by other ranks: equal up to the order of sums

Torch-free and pure, except for `newest_step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ptool import units
from ptool.errors import PtoolError, UsageError
from ptool.formats import checkpoints as folders
from ptool.formats.artefacts import read_folder_manifest
from ptool.training import schedule
from ptool.training.config import Phase, RunConfig, Table
from ptool.training.course import Course
from ptool.training.history import read_decisions, stands
from ptool.training.phases import PhaseGiven, fit_batch, length_of, micro_rows, resolve_phases, weights_of
from ptool.training.requirements import check_execution, resolve_optimizer
from ptool.training.resolving import DataFacts, overlay, with_phases
from ptool.training.settings_text import as_tables

_REFUSED = {
    "model": "the weights have the shape they have",
    "optimizer.name": "the moments of one optimiser mean nothing to another",
    "run.seed": "rows that were seen would be drawn again",
    "run.init": "the weights are trained already",
    "batch.warmup_from": "the batch's growth belongs to the run's beginning",
    "batch.warmup_tokens": "the batch's growth belongs to the run's beginning",
    "data.fingerprints": "it is read from the data; --allow-data-change accepts what is there",
    "data.seq_lens": "it is read from the data",
}
_CURVE = ("schedule.shape", "schedule.min_lr_ratio", "schedule.decay_tokens", "optimizer.peak_lr")
_LENGTH = ("run.tokens", "run.max_steps")
_BATCH = ("batch.tokens", "batch.micro_rows", "batch.micro_tokens", "parallel.ranks")
_MIX = ("data.mix", "data.packed")
_WARMUP = ("schedule.warmup_steps", "schedule.warmup_tokens")


class Change(Struct, frozen=True, kw_only=True):
    """A setting that a resumed run changes, and what that means."""

    setting: str
    old: Any
    new: Any
    meaning: str


def change_plan(
    config: RunConfig,
    asked: Table,
    data: DataFacts,
    step: int,
    *,
    finished: bool = False,
    allow_data_change: bool = False,
) -> tuple[RunConfig, list[Change]]:
    """`config` as it is from `step` on, and what changed. Raises UsageError for what cannot change."""
    replace = msgspec.structs.replace
    given = {f"{section}.{name}": value for section, values in _tables(asked) for name, value in values.items()}
    old = {
        f"{section}.{name}": value for section, values in _tables(as_tables(config)) for name, value in values.items()
    }
    given = {name: value for name, value in given.items() if value != old.get(name)}
    for name in given:
        reason = _REFUSED.get(name) or _REFUSED.get(name.partition(".")[0])
        if reason:
            raise UsageError(f"{name} cannot change in a run that has begun: {reason}")
    done = Course(config.phase).tokens(step)
    if given.keys() & set(_WARMUP) and done >= config.phase[0].warmup_tokens:
        raise UsageError("the warm-up is over: changing it would change nothing")
    tables = overlay(as_tables(config), _nested(given))
    changed = msgspec.convert(tables, RunConfig)
    if (changed.schedule.shape, "schedule.decay_tokens" in given) == ("wsd", False) and config.schedule.shape != "wsd":
        changed = replace(changed, schedule=replace(changed.schedule, decay_tokens=-1))  # a tenth, as of a new run
    changed = _with_data(changed, config, data, allow_data_change=allow_data_change)
    planned = given.keys() & {*_CURVE, *_LENGTH, *_BATCH, *_MIX, *_WARMUP}
    if asked.get("phase"):
        future = _new_phases(asked["phase"], changed, data, done)
    elif planned:
        future = _future(config, changed, data, step, planned, given)
    else:
        future = []
    if future:
        past, _ = _cut(config.phase, step)
        changed = with_phases(changed, [*past, *future])
    elif finished and given:
        raise UsageError("the run is finished: nothing is left to change", hint="--set run.tokens=… makes it longer")
    check_execution(changed.execution, changed.parallel)
    optimizer = resolve_optimizer(changed.optimizer, changed.parallel, changed.optimizer.peak_lr)
    changed = replace(changed, optimizer=optimizer)
    changes = [
        Change(setting=name, old=old.get(name), new=value, meaning=_meaning(name, old.get(name), value, step))
        for name, value in given.items()
    ]
    if asked.get("phase"):
        names = ", ".join(dict.fromkeys(phase.name for phase in future))
        changes.append(Change(setting="phase", old=None, new=names, meaning=f"after step {step:,}: phases {names}"))
    if changed.data.fingerprints[: len(config.data.fingerprints)] != config.data.fingerprints:
        meaning = f"after step {step:,} the rows come from other data, in an order of its own"
        new = list(changed.data.fingerprints)
        changes.append(Change(setting="data", old=list(config.data.fingerprints), new=new, meaning=meaning))
    return changed, [*changes, *_rate_change(config, changed, step)]


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint that belongs to the run's present; 0 where there is none.

    One whose manifest is damaged is stepped over: the run will go on from the one before.
    """
    decisions = read_decisions(run)
    for step in reversed(folders.steps_of(run)):
        manifest = None
        with suppress(PtoolError):
            manifest = read_folder_manifest(run / folders.FOLDER / folders.name_of(step))
        if manifest is not None and stands(step, int(manifest.details.get("decisions", 0)), decisions):
            return step
    return 0


def _tables(tables: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(section, values) for section, values in tables.items() if isinstance(values, Mapping)]


def _nested(given: Mapping[str, Any]) -> Table:
    result: Table = {}
    for name, value in given.items():
        section, _, key = name.partition(".")
        result.setdefault(section, {})[key] = value
    return result


def _with_data(changed: RunConfig, old: RunConfig, data: DataFacts, *, allow_data_change: bool) -> RunConfig:
    """The folders as they are now; those of the run so far must come first, so that its order stays."""
    packed = tuple(folder.packed for folder in data.folders)
    before = len(old.data.packed)
    if packed[:before] != old.data.packed and len(packed) < before:
        raise UsageError("the packed folders of the run so far must stay", hint="add new ones after them")
    fingerprints = tuple(folder.fingerprint for folder in data.folders)
    if fingerprints[:before] != old.data.fingerprints and not allow_data_change:
        return changed  # planning.expect_data says it
    replace = msgspec.structs.replace
    seq_lens = tuple(folder.seq_len for folder in data.folders)
    return replace(changed, data=replace(changed.data, packed=packed, fingerprints=fingerprints, seq_lens=seq_lens))


def _cut(phases: Sequence[Phase], step: int) -> tuple[list[Phase], list[Phase]]:
    """The phases up to and with `step`, and those after it."""
    past: list[Phase] = []
    future: list[Phase] = []
    for phase in phases:
        taken = min(step, phase.steps)
        step -= taken
        if taken:
            past.append(msgspec.structs.replace(phase, steps=taken))
        if taken < phase.steps:
            future.append(msgspec.structs.replace(phase, steps=phase.steps - taken))
    return past, future


def _new_phases(given: Sequence[Table], changed: RunConfig, data: DataFacts, done: int) -> list[Phase]:
    """[[phase]] tables in place of all that is left; curves begin here, without a warm-up."""
    replace = msgspec.structs.replace
    steady = replace(
        changed,
        batch=replace(changed.batch, warmup_from=0),
        schedule=replace(changed.schedule, warmup_tokens=0),
        run=replace(changed.run, max_steps=0, tokens=0),
    )
    phases, _ = resolve_phases([msgspec.convert(phase, PhaseGiven) for phase in given], steady, data.folders)
    return [replace(phase, curve_start=phase.curve_start + done) for phase in phases]


def _future(
    config: RunConfig, changed: RunConfig, data: DataFacts, step: int, planned: set[str], given: Mapping[str, Any]
) -> list[Phase]:
    """What is left of the phases, planned anew."""
    replace = msgspec.structs.replace
    course = Course(config.phase)
    done = course.tokens(step)
    _, future = _cut(config.phase, step)
    if not future:  # finished: what is added goes on like the last phase
        future = [replace(config.phase[-1], steps=0)]
    budget = sum(phase.steps * phase.batch_tokens for phase in future)
    if "schedule.decay_tokens" in planned and "run.tokens" not in planned:
        if changed.schedule.shape not in ("wsd", "constant"):
            raise UsageError("schedule.decay_tokens belongs to a stable run", hint="schedule.shape wsd or constant")
        changed = replace(changed, schedule=replace(changed.schedule, shape="wsd"))
        budget = changed.schedule.decay_tokens
    elif "run.tokens" in planned:
        budget = int(given["run.tokens"]) - done
    pieces: list[Phase] = []
    for number, phase in enumerate(future):
        is_last = number == len(future) - 1
        tokens = min(budget, phase.steps * phase.batch_tokens) if not is_last else budget
        fitted = _refit(phase, config, changed, data, planned)
        steps = -(-tokens // fitted.batch_tokens)
        if "run.max_steps" in planned:
            left = int(given["run.max_steps"]) - step - sum(piece.steps for piece in pieces)
            steps = left if is_last else min(steps, left)
        budget -= tokens
        if steps > 0:
            pieces.append(replace(fitted, steps=steps))
    if not pieces:
        raise UsageError(f"{units.format_count(done)} tokens in {step:,} steps are done already: nothing would be left")
    total = done + sum(piece.steps * piece.batch_tokens for piece in pieces)
    if changed.schedule.decay_tokens < 0:
        decay = min(int(total * schedule.DECAY_SHARE), total - done)
        changed = replace(changed, schedule=replace(changed.schedule, decay_tokens=decay))
    return [_recurve(piece, changed, planned, course.num_tokens, total) for piece in pieces]


def _refit(phase: Phase, config: RunConfig, changed: RunConfig, data: DataFacts, planned: set[str]) -> Phase:
    """A phase with the mix, length, batch and ranks that are asked for."""
    replace, ranks = msgspec.structs.replace, changed.parallel.ranks
    weights = (*phase.weights, *[0.0] * (len(data.folders) - len(phase.weights)))
    if planned & set(_MIX):
        weights = weights_of(changed.data.mix, data.folders)
    seq_len = length_of(weights, data.folders)
    batch_tokens, micro = phase.batch_tokens, phase.micro_rows
    if "batch.tokens" in planned or seq_len != phase.seq_len:
        asked = changed.batch.tokens if "batch.tokens" in planned else batch_tokens
        batch_tokens, micro = fit_batch(changed.batch, asked, seq_len, ranks)
    elif planned & set(_BATCH):
        if phase.rows % ranks or (changed.batch.micro_rows and phase.rows % (ranks * changed.batch.micro_rows)):
            message = f"a batch of {phase.rows} rows cannot be shared by {ranks} ranks"
            raise UsageError(message, hint="change batch.tokens (or batch.micro_rows) too")
        micro = changed.batch.micro_rows or micro_rows(changed.batch, phase.rows // ranks, seq_len)
    return replace(phase, weights=weights, seq_len=seq_len, batch_tokens=batch_tokens, micro_rows=micro)


def _recurve(phase: Phase, changed: RunConfig, planned: set[str], old_total: int, total: int) -> Phase:
    """A phase on the curve that is asked for, or on its own one, stretched where that reached to the end."""
    reaches_end = phase.curve_start + phase.curve_tokens >= old_total
    curve_tokens = total - phase.curve_start if reaches_end else phase.curve_tokens
    phase = msgspec.structs.replace(phase, curve_tokens=curve_tokens)
    if not planned & {*_CURVE, *_WARMUP}:
        return phase
    if phase.curve_start > 0 or not reaches_end:
        raise UsageError(f"phase '{phase.name}' has a learning rate of its own", hint="give new [[phase]]s by --config")
    schedule, peak = changed.schedule, changed.optimizer.peak_lr
    warmup = phase.warmup_tokens
    if planned & set(_WARMUP):
        warmup = schedule.warmup_tokens
        if "schedule.warmup_steps" in planned:
            warmup = schedule.warmup_steps * phase.batch_tokens
    return msgspec.structs.replace(
        phase,
        shape=schedule.shape,
        peak_lr=peak,
        end_lr=peak * schedule.min_lr_ratio,
        warmup_tokens=warmup,
        decay_tokens=schedule.decay_tokens if schedule.shape == "wsd" else 0,
    )


def _meaning(name: str, old: object, new: object, step: int) -> str:
    said = f"{name} {old} -> {new} after step {step:,}"
    if name in _BATCH and name != "parallel.ranks":
        return f"{said}: the tokens left are taken in other steps; the learning rate stays on its curve"
    if name in ("parallel.ranks", "parallel.zero"):
        return f"{said}: the same steps, equal up to the order of sums, not to the bit"
    if name.startswith("parallel.") and not name.endswith("_seconds"):
        return f"{said}: the steps to come may differ in their last bits"
    if name in _MIX:
        return f"{said}: rows already drawn from a folder are not drawn again before its others"
    return said


def _rate_change(old: RunConfig, new: RunConfig, step: int) -> list[Change]:
    """Where the learning rate would jump or the run's length changes, say so."""
    was, now = Course(old.phase), Course(new.phase)
    changes = []
    if was.num_tokens != now.num_tokens:
        meaning = f"the run has {units.format_count(now.num_tokens)} tokens in {now.num_steps:,} steps"
        changes.append(Change(setting="length", old=was.num_tokens, new=now.num_tokens, meaning=meaning))
    after = now.learning_rate(step + 1)
    before = schedule.learning_rate(was.phase(step + 1), now.tokens(step + 1))
    if step < was.num_steps and abs(before - after) > 0.01 * before:
        meaning = f"the learning rate of step {step + 1:,} is {after:.3g}, and would have been {before:.3g}"
        changes.append(Change(setting="learning rate", old=before, new=after, meaning=meaning))
    return changes
