"""From [[phase]] tables, or none, to the phases of a run in which nothing is left open.

    [[phase]]
    name = "stable"
    tokens = "40B"                     # how long
    mix = { web = 0.7, code = 0.3 }    # shares of the tokens, by the packed folders' names
    peak_lr = 3e-4                     # its own curve, from peak_lr to end_lr; without any of these three a phase
    end_lr = 8e-5                      # follows the one curve of the whole run ([schedule])
    shape = "linear"
    batch_tokens = "4M"                # default: [batch] tokens, which stays when the length changes

Without [[phase]] there is one, from [run], [schedule], [batch] and [data] mix. A batch that grows cuts the first phase
into pieces of twice the batch each, as Llama 3 was trained (arXiv:2407.21783, section 3.4.1). Torch-free and pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ptool.errors import UsageError
from ptool.plugins import unknown
from ptool.training.config import Batch, Phase, RunConfig, Schedule, Shape
from ptool.training.schedule import DECAY_SHARE


class _Curve(Struct, frozen=True, kw_only=True):
    """The fields of a Phase that make its learning rate."""

    shape: Shape
    peak_lr: float
    end_lr: float
    warmup_tokens: int
    decay_tokens: int
    curve_start: int
    curve_tokens: int


_OPEN = msgspec.structs.asdict(
    _Curve(shape="constant", peak_lr=0, end_lr=0, warmup_tokens=0, decay_tokens=0, curve_start=0, curve_tokens=0)
)
MOST_WARMUP_STEPS = 2000
WARMUP_SHARE = 50  # one step in so many


_Rate = Annotated[float, Meta(ge=0)]


class FolderFacts(Struct, frozen=True, kw_only=True):
    """What resolving needs to know of a packed folder; `num_tokens` without padding."""

    packed: str
    fingerprint: str
    seq_len: int
    num_rows: int
    num_tokens: int


class PhaseGiven(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A [[phase]] as a person writes it."""

    name: Annotated[str, Meta(description="for the plan, the ledger and the curves")] = ""
    tokens: Annotated[int, Meta(ge=1, description="how long; rounded up to whole steps")] = 0
    mix: Annotated[dict[str, float], Meta(description="share of the tokens from each folder, by its name")] = {}
    shape: Annotated[Shape | None, Meta(description="of a curve of its own; linear where a rate is given")] = None
    peak_lr: Annotated[_Rate | None, Meta(description="where its own curve begins; default the run's peak")] = None
    end_lr: Annotated[_Rate | None, Meta(description="where it ends; default peak_lr")] = None
    warmup_tokens: Annotated[int, Meta(ge=0, description="of its own curve")] = 0
    decay_tokens: Annotated[int, Meta(ge=0, description="of its own curve, for shape wsd")] = 0
    batch_tokens: Annotated[int, Meta(ge=0, description="tokens per step; default the run's")] = 0
    seq_len: Annotated[int, Meta(ge=0, description="checked against the folders' rows")] = 0

    @property
    def has_curve(self) -> bool:
        """Whether the rate follows a curve of this phase's own."""
        return any(value is not None for value in (self.shape, self.peak_lr, self.end_lr))


def resolve_phases(
    given: Sequence[PhaseGiven], config: RunConfig, folders: Sequence[FolderFacts]
) -> tuple[tuple[Phase, ...], Schedule]:
    """The phases of a run whose batch, optimiser and ranks are resolved already, and [schedule] as resolved.

    Raises UsageError for a mix of unknown folders or of rows of different lengths.
    """
    if not given:
        given = [PhaseGiven(name="all", tokens=_whole_run(config, folders))]
    pieces = [
        (number, piece) for number, phase in enumerate(given) for piece in _pieces(phase, number, config, folders)
    ]
    schedule = _resolve_schedule(config.schedule, [piece for _, piece in pieces])
    ends = [sum(p.steps * p.batch_tokens for at, p in pieces if at <= number) for number in range(len(given))]
    whole = _Curve(
        shape=schedule.shape,
        peak_lr=config.optimizer.peak_lr,
        end_lr=config.optimizer.peak_lr * schedule.min_lr_ratio,
        warmup_tokens=schedule.warmup_tokens,
        decay_tokens=schedule.decay_tokens,
        curve_start=0,
        curve_tokens=ends[-1],
    )
    curves = [
        _own_curve(phase, whole, start, end - start) if phase.has_curve else whole
        for phase, start, end in zip(given, [0, *ends], ends, strict=False)
    ]
    replace = msgspec.structs.replace
    return tuple(replace(piece, **msgspec.structs.asdict(curves[at])) for at, piece in pieces), schedule


def weights_of(mix: Mapping[str, float], folders: Sequence[FolderFacts]) -> tuple[float, ...]:
    """The weight of each folder, from shares by name (or path); an empty mix takes all folders as they are.

    Raises UsageError for a name that is not there or stands for several folders.
    """
    if not mix:
        return tuple(float(folder.num_tokens if folder.num_rows else 0) for folder in folders)
    names = [PurePath(folder.packed).name for folder in folders]
    weights = [0.0] * len(folders)
    for key, weight in mix.items():
        found = [i for i, folder in enumerate(folders) if key in (folder.packed, names[i])]
        if not found:
            raise unknown("packed folder in the mix", key, names)
        if len(found) > 1:
            raise UsageError(f"{len(found)} folders are called {key}", hint="give their paths in the mix")
        weights[found[0]] = weight
    if any(weight < 0 for weight in weights) or not any(weights):
        raise UsageError(f"the mix {dict(mix)} has no positive share", hint="mix = { web = 0.7, code = 0.3 }")
    return tuple(weights)


def length_of(weights: Sequence[float], folders: Sequence[FolderFacts], asked: int = 0) -> int:
    """Tokens in a row of the folders that have a weight. Raises UsageError where they differ."""
    lengths = {folder.seq_len: folder.packed for folder, weight in zip(folders, weights, strict=True) if weight}
    if len(lengths) > 1:
        (a, one), (b, other), *_ = lengths.items()
        message = f"{one} has rows of {a} tokens and {other} of {b}: one step cannot mix them"
        raise UsageError(message, hint="pack them alike, or give each length a [[phase]] of its own")
    (length,) = lengths
    if asked not in (0, length):
        raise UsageError(f"a phase asks for seq_len {asked}, and its folders have rows of {length} tokens")
    return length


def fit_batch(batch: Batch, tokens: int, seq_len: int, ranks: int) -> tuple[int, int]:
    """(tokens of the global batch, rows of a forward pass of one rank) nearest to `tokens`.

    The global batch does not depend on the number of ranks, except that it is rounded up to a multiple of it.
    """
    rows = max(1, round(tokens / seq_len))
    if batch.micro_rows:
        unit = ranks * batch.micro_rows
        return -(-rows // unit) * unit * seq_len, batch.micro_rows
    rows = -(-rows // ranks) * ranks
    return rows * seq_len, micro_rows(batch, rows // ranks, seq_len)


def micro_rows(batch: Batch, rows: int, seq_len: int) -> int:
    """The most rows of a forward pass that divide a rank's `rows` and stay within batch.micro_tokens."""
    most = max(1, batch.micro_tokens // seq_len)
    return max(m for m in range(1, min(most, rows) + 1) if rows % m == 0)


def _whole_run(config: RunConfig, folders: Sequence[FolderFacts]) -> int:
    """Tokens of a run without phases: as many as asked for, or one pass over the folders of its mix."""
    weights = weights_of(config.data.mix, folders)
    seq_len = length_of(weights, folders)
    if config.run.max_steps:
        return _tokens_of(config.run.max_steps, config, seq_len)
    if config.run.tokens:
        return config.run.tokens
    batch, _ = fit_batch(config.batch, config.batch.tokens, seq_len, config.parallel.ranks)
    rows = sum(folder.num_rows for folder, weight in zip(folders, weights, strict=True) if weight)
    return max(batch, rows * seq_len // batch * batch)


def _tokens_of(steps: int, config: RunConfig, seq_len: int) -> int:
    """Tokens of as many steps, of which the first are smaller where the batch grows."""
    tokens, left = 0, steps
    for asked, share in _growing(config.batch, config.batch.tokens):
        batch, _ = fit_batch(config.batch, asked, seq_len, config.parallel.ranks)
        taken = min(left, -(-share // batch)) if share else left
        tokens += taken * batch
        left -= taken
    return tokens


def _pieces(phase: PhaseGiven, number: int, config: RunConfig, folders: Sequence[FolderFacts]) -> Iterator[Phase]:
    """A phase as pieces of constant batch, its curve still open."""
    name = phase.name or str(number + 1)
    if not phase.tokens:
        raise UsageError(f"phase '{name}' has no tokens", where="[[phase]]", hint='tokens = "10B"')
    weights = weights_of(phase.mix or config.data.mix, folders)
    seq_len = length_of(weights, folders, phase.seq_len)
    full = phase.batch_tokens or config.batch.tokens
    left = phase.tokens
    for asked, share in _growing(config.batch, full) if number == 0 else [(full, 0)]:
        batch, micro = fit_batch(config.batch, asked, seq_len, config.parallel.ranks)
        steps = -(-(min(left, share) if share else left) // batch)
        if steps > 0:
            left -= steps * batch
            yield Phase(
                name=name, steps=steps, batch_tokens=batch, micro_rows=micro, seq_len=seq_len, weights=weights, **_OPEN
            )


def _growing(batch: Batch, full: int) -> list[tuple[int, int]]:
    """(tokens per step, tokens of that piece) of a growing batch, and (the full one, 0: all that is left)."""
    if not batch.warmup_from or not batch.warmup_tokens or batch.warmup_from >= full:
        return [(full, 0)]
    sizes = [batch.warmup_from]
    while sizes[-1] * 2 < full:
        sizes.append(sizes[-1] * 2)
    return [*((size, max(1, batch.warmup_tokens // len(sizes))) for size in sizes), (full, 0)]


def _resolve_schedule(schedule: Schedule, pieces: Sequence[Phase]) -> Schedule:
    steps, tokens = schedule.warmup_steps, schedule.warmup_tokens
    if tokens < 0:
        if steps < 0:
            steps = min(MOST_WARMUP_STEPS, max(1, sum(piece.steps for piece in pieces) // WARMUP_SHARE))
        tokens, left = 0, steps
        for piece in pieces:
            tokens += min(left, piece.steps) * piece.batch_tokens
            left -= min(left, piece.steps)
        tokens += left * pieces[-1].batch_tokens
    decay = schedule.decay_tokens
    if decay < 0 and schedule.shape == "wsd":
        decay = int(sum(piece.steps * piece.batch_tokens for piece in pieces) * DECAY_SHARE)
    return msgspec.structs.replace(
        schedule, warmup_steps=max(steps, -1), warmup_tokens=tokens, decay_tokens=max(decay, 0)
    )


def _own_curve(phase: PhaseGiven, whole: _Curve, start: int, tokens: int) -> _Curve:
    peak = whole.peak_lr if phase.peak_lr is None else phase.peak_lr
    return _Curve(
        shape=phase.shape or "linear",
        peak_lr=peak,
        end_lr=peak if phase.end_lr is None else phase.end_lr,
        warmup_tokens=phase.warmup_tokens or (whole.warmup_tokens if start == 0 else 0),
        decay_tokens=phase.decay_tokens or int(tokens * DECAY_SHARE),
        curve_start=start,
        curve_tokens=tokens,
    )
