"""Every setting of a training run: its name, its default and its meaning, in one place.

A run is described by TOML tables (`[model] [data] [batch] …`). What a person gives (a file, flags, `--set a.b=c`) is a
nested dictionary, later ones laid over earlier ones; `check` refuses unknown keys and wrong types; `resolve` fills in
what depends on the data and the machine and returns a `RunConfig` in which nothing is left open. That one is written to
`RUN/config.toml`, so a run never changes because a default did.

The fields' `Meta` descriptions are the manual's table of defaults (`settings`). No torch here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from ptool import units
from ptool.errors import InputError, UsageError
from ptool.models.config import ModelConfig, load_size, size_names
from ptool.plugins import unknown

Table = dict[str, Any]


class Data(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[data]"""

    packed: Annotated[str, Meta(description="the packed folder; set from the command line")] = ""
    fingerprint: Annotated[str, Meta(description="digest of its manifest; other data is refused on resume")] = ""
    seq_len: Annotated[int, Meta(description="tokens in a row; set from the packed folder")] = 0


class Batch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[batch]"""

    tokens: Annotated[int, Meta(ge=0, description="tokens per optimiser step; 0: the model size's own")] = 0
    micro_rows: Annotated[int, Meta(ge=0, description="rows per forward pass of one rank; 0: fill micro_tokens")] = 0
    micro_tokens: Annotated[int, Meta(ge=1, description="tokens of a forward pass where micro_rows is 0")] = 8192


class Run(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[run]"""

    max_steps: Annotated[
        int, Meta(ge=0, description="optimiser steps; 0: by run.tokens, or one pass over the data")
    ] = 0
    tokens: Annotated[int, Meta(ge=0, description="tokens to train on where run.max_steps is 0")] = 0
    seed: Annotated[int, Meta(ge=0, description="of the initial weights and the data order")] = 0


class Optimizer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[optimizer]: AdamW."""

    peak_lr: Annotated[float, Meta(ge=0, description="highest learning rate; 0: the model size's own")] = 0.0
    beta1: Annotated[float, Meta(ge=0, lt=1, description="decay of the first moment (GPT-3)")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="decay of the second moment (GPT-3)")] = 0.95
    eps: Annotated[float, Meta(gt=0, description="added to the root of the second moment")] = 1e-8
    weight_decay: Annotated[float, Meta(ge=0, description="on matrices; none on embeddings, norms and biases")] = 0.1
    clip: Annotated[float, Meta(gt=0, description="largest global gradient norm")] = 1.0


class Schedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[schedule]: linear warm-up, then a cosine."""

    warmup_steps: Annotated[
        int, Meta(ge=-1, description="-1: 2,000 steps or 2 % of the run, whichever is shorter")
    ] = -1
    min_lr_ratio: Annotated[float, Meta(ge=0, le=1, description="learning rate at the end, as a share of the peak")] = (
        0.1
    )


class Checkpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[checkpoint]"""

    every_steps: Annotated[int, Meta(ge=1, description="steps between checkpoints")] = 500
    keep_last: Annotated[int, Meta(ge=2, description="checkpoints kept, besides the one a rollback would need")] = 3


class Parallel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[parallel]"""

    zero: Annotated[int, Meta(ge=0, le=3, description="ZeRO stage")] = 2
    ranks: Annotated[int, Meta(ge=0, description="processes; 0: one per GPU, 2 without a GPU")] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], Meta(description="auto: cuda where there is a GPU")] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], Meta(description="auto: bf16 on CUDA and on a CPU measured to be fast at it")
    ] = "auto"
    threads: Annotated[int, Meta(ge=0, description="CPU threads of a rank; 0: its share of the processors")] = 0
    timeout_seconds: Annotated[float, Meta(gt=0, description="a collective that takes longer is an error")] = 600.0


class Spike(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[spike]: see spikes.py; the numbers' sources are there."""

    enabled: Annotated[bool, Meta(description="judge loss and gradient norm; non-finite ones are refused always")] = (
        True
    )
    window: Annotated[int, Meta(ge=8, description="accepted steps that loss and norm are compared with")] = 128
    min_history: Annotated[int, Meta(ge=4, description="accepted steps before finite values are judged")] = 64
    loss_z: Annotated[float, Meta(gt=0, description="robust z-score of log loss that is a spike by itself")] = 6.0
    joint_loss_z: Annotated[float, Meta(gt=0, description="... that is one together with joint_norm_z")] = 4.0
    joint_norm_z: Annotated[float, Meta(gt=0, description="robust z-score of log gradient norm for the pair")] = 6.0
    ratio: Annotated[float, Meta(gt=1, description="loss over its median that counts as raised")] = 1.5
    raised_steps: Annotated[int, Meta(ge=2, description="raised steps in a row that are a slow spike")] = 10
    max_skips: Annotated[int, Meta(ge=0, description="batches skipped within skip_horizon before a rollback")] = 2
    skip_horizon: Annotated[int, Meta(ge=1, description="accepted steps over which skips are counted")] = 10
    back_off: Annotated[int, Meta(ge=0, description="steps before the onset that a rollback goes back, at least")] = 100
    margin: Annotated[int, Meta(ge=0, description="batches left out on both sides of the guilty ones")] = 1
    max_window: Annotated[int, Meta(ge=1, description="batches that one rollback leaves out, at most")] = 200
    lr_factor: Annotated[float, Meta(gt=0, le=1, description="learning rate after a rollback, as a factor")] = 0.5
    clip_factor: Annotated[float, Meta(gt=0, le=1, description="clipping after a rollback, as a factor")] = 0.5
    ramp_steps: Annotated[int, Meta(ge=1, description="steps over which both factors go back to 1")] = 200
    max_rollbacks: Annotated[int, Meta(ge=0, description="rollbacks within budget_steps; one more ends the run")] = 3
    budget_steps: Annotated[int, Meta(ge=1, description="steps over which rollbacks are counted")] = 10_000
    rerun_tolerance: Annotated[float, Meta(ge=0, description="relative change of a rerun that means hardware")] = 1e-3


class Metrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[metrics]"""

    tensorboard: Annotated[bool, Meta(description="write TensorBoard files beside metrics.jsonl")] = True


class Faults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[faults]: damage done on purpose, to see the run survive it (`ptool demo`, tests)."""

    bad_batch_at: Annotated[int, Meta(ge=0, description="the batch, counted from 1 in data order, that is spoilt")] = 0
    bad_batches: Annotated[int, Meta(ge=1, description="batches spoilt from there on: their targets are random")] = 1


class RunConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a run."""

    model: Table
    data: Data = Data()
    batch: Batch = Batch()
    run: Run = Run()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    checkpoint: Checkpoint = Checkpoint()
    parallel: Parallel = Parallel()
    spike: Spike = Spike()
    metrics: Metrics = Metrics()
    faults: Faults = Faults()

    @property
    def model_config(self) -> ModelConfig:
        """The model's shape."""
        return ModelConfig.from_table(self.model)

    @property
    def rows_per_step(self) -> int:
        """Rows of the global batch."""
        return self.batch.tokens // self.data.seq_len

    @property
    def accumulation(self) -> int:
        """Forward passes of one rank per optimiser step."""
        return self.rows_per_step // (self.parallel.ranks * self.batch.micro_rows)


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


SECTIONS: dict[str, type[Struct]] = {
    name: kind
    for name, kind in get_type_hints(RunConfig).items()
    if isinstance(kind, type) and issubclass(kind, Struct)
}
MODEL_KEYS = ("size", *ModelConfig.__struct_fields__)
RESUMABLE = ("checkpoint", "spike", "metrics", "faults", "parallel.timeout_seconds")
"""What `resume --set` may change: none of it moves an accepted step that is already there."""


def read_config(path: Path) -> Table:
    """The tables of a TOML file. Raises InputError or UsageError naming the file and line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read: {(error.strerror or str(error)).lower()}", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not TOML: {error}", where=str(path)) from error


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


def settings() -> Iterator[tuple[str, str, str]]:
    """(name, default, meaning) of every setting but the model's shape: the manual's table."""
    for section, kind in SECTIONS.items():
        hints = get_type_hints(kind, include_extras=True)
        for field in msgspec.structs.fields(kind):
            meta = next(item for item in get_args(hints[field.name]) if isinstance(item, Meta))
            yield f"{section}.{field.name}", toml_value(field.default), meta.description or ""


def as_tables(config: RunConfig) -> Table:
    """Plain nested tables, as manifests and TOML hold them."""
    tables: Table = msgspec.to_builtins(config)
    return tables


def to_toml(config: RunConfig) -> str:
    """The text of `config.toml`."""
    lines = ["# Written by ptool: every setting of this run, resolved. `ptool resume` reads it; do not edit."]
    for section, values in as_tables(config).items():
        lines += ["", f"[{section}]", *(f"{key} = {toml_value(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def from_toml(path: Path) -> RunConfig:
    """Read what `to_toml` wrote."""
    table = read_config(path)
    try:
        return msgspec.convert(table, RunConfig)
    except msgspec.ValidationError as error:
        raise InputError(f"not a run's configuration: {error}", where=str(path)) from error


def toml_value(value: object) -> str:
    """One value as TOML; strings are JSON strings, whose escapes TOML shares."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(toml_value, value))}]"
    return msgspec.json.encode(str(value)).decode()


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


def _nearest_size(model: ModelConfig) -> Any:
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
    """`64K` for an integer setting is 65,536... of thousands: the forms of units.py; 2e12 is an integer too."""
    kinds = get_args(hint) or (hint,)
    if int in kinds and bool not in kinds:
        if isinstance(value, str):
            return units.parse_count(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
    if float in kinds:
        if isinstance(value, str):
            return units.parse_number(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return float(value)
    return value


def _located(error: UsageError, where: str | None) -> UsageError:
    error.where = where
    return error
