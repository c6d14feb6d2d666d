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
from ptool.training.config import SECTIONS, Batch, Data, Parallel, RunConfig, Table, read_config

MODEL_KEYS = ("size", *ModelConfig.__struct_fields__)
RESUMABLE = ("checkpoint", "spike", "metrics", "faults", "parallel.timeout_seconds")
"""What `resume --set` may change: none of it moves an accepted step that is already there."""


class DataFacts(Struct, frozen=True, kw_only=True):
    """What resolving needs to know of the packed data."""

    packed: str
    fingerprint: str
    seq_len: int
    vocab_size: int
    num_rows: int


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
    if given.get("run"):  # a flag for one of the two replaces the file's other
        file.get("run", {}).pop("tokens" if "max_steps" in given["run"] else "max_steps", None)
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
        if section != "model" and section not in SECTIONS:
            raise _located(unknown("section", section, ["model", *SECTIONS]), where)
        if not isinstance(values, Mapping):
            raise UsageError(f"{section} is a value; a table [{section}] is needed", where=where)
        fields = MODEL_KEYS if section == "model" else SECTIONS[section].__struct_fields__
        hints = get_type_hints(ModelConfig if section == "model" else SECTIONS[section])
        checked[section] = {}
        for key, value in values.items():
            if key not in fields:
                raise _located(unknown(f"key in [{section}]", key, fields), where)
            checked[section][key] = _number(value, hints.get(key, str))
    try:
        for section, kind in SECTIONS.items():
            msgspec.convert(checked.get(section, {}), kind)
    except msgspec.ValidationError as error:
        place = str(error).replace("$.", f"{section}.")
        raise UsageError(place[:1].lower() + place[1:], where=where or f"[{section}]") from error
    return checked


def resolve(given: Mapping[str, Any], data: DataFacts, machine: MachineFacts) -> RunConfig:
    """A configuration in which nothing is left open; `given` has passed `check`.

    The global batch does not depend on the number of ranks, except that it is rounded up to a multiple of it.
    """
    model, peak_lr, batch_tokens = _resolve_model(given.get("model", {}), data)
    config = msgspec.convert({**given, "model": model}, RunConfig)
    parallel = _resolve_parallel(config.parallel, machine)
    batch = _resolve_batch(config.batch, batch_tokens, data.seq_len, parallel.ranks)
    rows = batch.tokens // data.seq_len
    max_steps = config.run.max_steps
    if max_steps == 0:
        max_steps = -(-config.run.tokens // batch.tokens) if config.run.tokens else max(1, data.num_rows // rows)
    warmup = config.schedule.warmup_steps
    if warmup < 0:
        warmup = min(2000, max(1, max_steps // 50))
    replace = msgspec.structs.replace
    return replace(
        config,
        data=Data(packed=data.packed, fingerprint=data.fingerprint, seq_len=data.seq_len),
        batch=batch,
        parallel=parallel,
        run=replace(config.run, max_steps=max_steps, tokens=max_steps * batch.tokens),
        optimizer=replace(config.optimizer, peak_lr=config.optimizer.peak_lr or peak_lr),
        schedule=replace(config.schedule, warmup_steps=warmup),
    )


def _resolve_model(given: Mapping[str, Any], data: DataFacts) -> tuple[Table, float, int]:
    shape = {key: value for key, value in given.items() if key != "size"}
    name = given.get("size")
    if name is None and not {"layers", "hidden", "heads"} <= shape.keys():
        name = "10m"
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


def _resolve_batch(batch: Batch, size_tokens: int, seq_len: int, ranks: int) -> Batch:
    rows = max(1, round((batch.tokens or size_tokens) / seq_len))
    micro_rows = batch.micro_rows
    if micro_rows:
        unit = ranks * micro_rows
        rows = -(-rows // unit) * unit
    else:
        rows = -(-rows // ranks) * ranks
        most = max(1, batch.micro_tokens // seq_len)
        micro_rows = max(m for m in range(1, min(most, rows // ranks) + 1) if (rows // ranks) % m == 0)
    return msgspec.structs.replace(batch, tokens=rows * seq_len, micro_rows=micro_rows)


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
