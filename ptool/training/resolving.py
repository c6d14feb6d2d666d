"""From what a person gives to a `RunConfig` in which nothing is left open.

Tables from a file, from flags and from `--set a.b=c` are laid over one another, later ones winning key by key; `check`
refuses unknown names (with the nearest one) and wrong values; `resolve` fills in what depends on the model size, the
data and the machine. Torch-free and pure.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Struct

from ptool import units
from ptool.errors import UsageError
from ptool.models.config import ModelConfig, ModelSize, load_size, size_names
from ptool.plugins import unknown
from ptool.training.config import DEFAULT_SIZE, SECTIONS, Parallel, Phase, RunConfig, Table
from ptool.training.course import Course
from ptool.training.phases import FolderFacts, PhaseGiven, resolve_phases
from ptool.training.requirements import check_execution, resolve_optimizer
from ptool.training.settings_text import read_config
from ptool.training.validation import held_out_tokens

MODEL_KEYS = ("size", *ModelConfig.__struct_fields__)


class DataFacts(Struct, frozen=True, kw_only=True):
    """What resolving needs to know of the packed data: its folders, and a vocabulary that holds all their tokens."""

    folders: tuple[FolderFacts, ...]
    vocab_size: int

    @property
    def seq_len(self) -> int:
        """The longest rows."""
        return max(folder.seq_len for folder in self.folders)


class MachineFacts(Struct, frozen=True, kw_only=True):
    """What resolving needs to know of the machine."""

    device: Literal["cpu", "cuda"]
    num_gpus: int
    num_cpus: int
    asked_threads: int = 0
    fast_bf16: bool


def settings_table(
    config_file: Path | None = None,
    flags: Mapping[str, Mapping[str, object | None]] | None = None,
    sets: Sequence[str] = (),
) -> Table:
    """What a person gave, as checked tables: the file, then the flags, then `--set`. Raises UsageError."""
    file = {} if config_file is None else check(read_config(config_file), where=str(config_file))
    given = {
        section: {name: value for name, value in values.items() if value is not None}
        for section, values in (flags or {}).items()
    }
    one_by_one = overlay(*(parse_setting(text) for text in sets)) if sets else {}
    if given.get("run", {}).keys() >= {"max_steps", "tokens"}:
        raise UsageError("--max-steps and --tokens exclude each other")
    for name, other in (("max_steps", "tokens"), ("tokens", "max_steps")):
        if name in given.get("run", {}):  # a flag for one of the two replaces the file's other
            file.get("run", {}).pop(other, None)
    return overlay(file, check(given), check(one_by_one, where="--set"))


def parse_setting(text: str) -> Table:
    """`a.b=c` as nested tables; c is read as TOML where it is TOML, else it is a string."""
    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or len(keys) != 2 or not all(keys):
        raise UsageError(f"'{text}' is no setting", hint="SECTION.NAME=VALUE, for example --set batch.tokens=64K")
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return {keys[0]: {keys[1]: parsed}}


def overlay(*tables: Mapping[str, Any]) -> Table:
    """Nested tables laid over one another: later ones win, key by key."""
    result: Table = {}
    for table in tables:
        for section, values in table.items():
            if isinstance(values, Mapping) and isinstance(result.get(section), dict):
                result[section] = {**result[section], **values}
            else:
                result[section] = dict(values) if isinstance(values, Mapping) else values
    return result


def check(table: Mapping[str, Any], *, where: str | None = None) -> Table:
    """`table` with numbers in the forms people type turned into numbers.

    Raises UsageError, with the nearest name and the valid ones, for unknown sections and keys, and for wrong values.
    """
    checked: Table = {}
    for section, values in table.items():
        if section == "phase":
            if not isinstance(values, Sequence) or isinstance(values, str):
                raise UsageError("phase is no list of tables", where=where, hint="each phase begins with [[phase]]")
            checked[section] = [_checked(section, phase, PhaseGiven, where) for phase in values]
        elif section == "model":
            checked[section] = _checked(section, values, ModelConfig, where)
        elif section in SECTIONS:
            checked[section] = _checked(section, values, SECTIONS[section], where)
        else:
            raise _located(unknown("section", section, ["model", *SECTIONS, "phase"]), where)
    return checked


def _checked(section: str, values: object, kind: type[Struct], where: str | None) -> Table:
    """One table of `kind`."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{section} is a value; a table [{section}] is needed", where=where)
    fields = MODEL_KEYS if kind is ModelConfig else kind.__struct_fields__
    hints = get_type_hints(kind)
    checked: Table = {}
    for key, value in values.items():
        if key not in fields:
            raise _located(unknown(f"key in [{section}]", key, fields), where)
        checked[key] = _number(value, hints.get(key, str))
    if kind is not ModelConfig:  # its own reader says more
        try:
            msgspec.convert(checked, kind)
        except msgspec.ValidationError as error:
            place = str(error).replace("$.", f"{section}.")
            raise UsageError(place[:1].lower() + place[1:], where=where or f"[{section}]") from error
    return checked


def resolve(given: Mapping[str, Any], data: DataFacts, machine: MachineFacts) -> RunConfig:
    """A configuration in which nothing is left open; `given` has passed `check`.

    The global batch does not depend on the number of ranks, except that it is rounded up to a multiple of it.
    """
    model, peak_lr, batch_tokens = _resolve_model(given.get("model", {}), data)
    phases = [msgspec.convert(phase, PhaseGiven) for phase in given.get("phase", ())]
    config = msgspec.convert({**given, "model": model, "phase": ()}, RunConfig)
    if phases and (config.run.max_steps or config.run.tokens):
        raise UsageError("the phases say how long the run is", hint="leave out --tokens and --max-steps")
    replace = msgspec.structs.replace
    parallel = _resolve_parallel(config.parallel, machine)
    config = replace(
        config,
        data=replace(
            config.data,
            packed=tuple(folder.packed for folder in data.folders),
            fingerprints=tuple(folder.fingerprint for folder in data.folders),
            seq_lens=tuple(folder.seq_len for folder in data.folders),
        ),
        parallel=parallel,
        batch=replace(config.batch, tokens=config.batch.tokens or batch_tokens),
        optimizer=resolve_optimizer(config.optimizer, parallel, peak_lr),
    )
    if parallel.deterministic:
        config = replace(config, spike=replace(config.spike, rerun_tolerance=0.0))
    check_execution(config.execution, parallel)
    resolved, schedule = resolve_phases(phases, config, data.folders)
    config = with_phases(replace(config, schedule=schedule), resolved)
    held_out = held_out_tokens(config.validation.tokens, config.batch.tokens)
    return replace(config, validation=replace(config.validation, tokens=held_out))


def with_phases(config: RunConfig, phases: Sequence[Phase]) -> RunConfig:
    """`config` with these phases, and what [run] and [batch] say of them."""
    replace = msgspec.structs.replace
    course = Course(phases)
    full = max(phases, key=lambda phase: phase.batch_tokens)
    return replace(
        config,
        run=replace(config.run, max_steps=course.num_steps, tokens=course.num_tokens),
        batch=replace(config.batch, tokens=full.batch_tokens),
        phase=tuple(phases),
    )


def _resolve_model(given: Mapping[str, Any], data: DataFacts) -> tuple[Table, float, int]:
    shape = {key: value for key, value in given.items() if key != "size"}
    name = given.get("size")
    if name is None and not {"layers", "hidden", "heads"} <= shape.keys():
        name = DEFAULT_SIZE
    defaults: Table = {}
    if name is not None:
        size = load_size(name)
        defaults = size.model.as_table()
        if "hidden" in shape and "ffn_hidden" not in shape:
            del defaults["ffn_hidden"]
        if "heads" in shape and "kv_heads" not in shape:
            del defaults["kv_heads"]
    asked = shape.get("vocab_size", data.vocab_size)
    if asked < data.vocab_size:
        message = f"model.vocab_size is {asked}, and the packed tokens need {data.vocab_size}"
        raise UsageError(message, hint="leave it out, and it is taken from the data")
    lengths = {"max_seq_len": data.seq_len, "vocab_size": data.vocab_size}
    model = ModelConfig.from_table({**defaults, **lengths, **shape})
    if model.max_seq_len < data.seq_len:
        raise UsageError(f"model.max_seq_len is {model.max_seq_len}, and the packed rows have {data.seq_len} tokens")
    if name is None:
        size = _nearest_size(model)
    return model.as_table(), size.peak_lr, size.batch_tokens


def _nearest_size(model: ModelConfig) -> ModelSize:
    count = model.num_non_embedding_parameters()
    sizes = [load_size(name) for name in size_names()]
    return min(sizes, key=lambda size: abs(size.model.num_non_embedding_parameters() - count))


def _resolve_parallel(parallel: Parallel, machine: MachineFacts) -> Parallel:
    device = machine.device if parallel.device == "auto" else parallel.device
    ranks = parallel.ranks or (max(1, machine.num_gpus) if device == "cuda" else 2)
    precision = parallel.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" or machine.fast_bf16 else "fp32"
    threads = (
        parallel.threads
        or machine.asked_threads
        or max(1, machine.num_cpus // max(1, min(ranks, machine.num_gpus or ranks)))
    )
    return msgspec.structs.replace(parallel, device=device, ranks=ranks, precision=precision, threads=threads)


def _number(value: object, hint: Any) -> object:
    """`value` as a number where the setting is one: `64K` (units.py) is 64,000, and 2e12 is an integer too."""
    kinds = get_args(hint) or (hint,)
    if int in kinds and bool not in kinds:
        if isinstance(value, str):
            return units.parse_count(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
    if float in kinds:
        if isinstance(value, str):
            return units.parse_number(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{value} is not a finite number")
        if isinstance(value, int) and not isinstance(value, bool):
            return float(value)
    return value


def _located(error: UsageError, where: str | None) -> UsageError:
    error.where = where
    return error
