"""Every setting of a training run: its name, its default and its meaning, in one place.

A run is described by TOML tables (`[model] [data] [batch] …`); `resolving.py` makes a `RunConfig` of what a person
gives, in which nothing is left open. That one is written to `RUN/config.toml`, so a run never changes because a
default did.

The fields' `Meta` descriptions are the manual's table of defaults (settings_text.py). No torch here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_type_hints

from msgspec import Meta, Struct

from ptool.models.config import ModelConfig
from ptool.models.execution import Kernel, Recomputation

Table = dict[str, Any]

DEFAULT_SIZE = "10m"
"""The model that is trained where nothing is said of it."""


class Data(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[data]: one entry per packed folder in the first three."""

    packed: Annotated[tuple[str, ...], Meta(description="the packed folders; set from the command line")] = ()
    fingerprints: Annotated[
        tuple[str, ...], Meta(description="digests of their manifests; other data is refused on resume")
    ] = ()
    seq_lens: Annotated[tuple[int, ...], Meta(description="tokens in a row; set from the packed folders")] = ()
    mix: Annotated[
        dict[str, float],
        Meta(description="share of the tokens from each folder, by its name; empty: as many as each has"),
    ] = {}
    allow_repeats: Annotated[
        bool, Meta(description="allow a document in folders of different phases; else it is an error")
    ] = False


class Batch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[batch]"""

    tokens: Annotated[int, Meta(ge=0, description="tokens per optimiser step; 0: the model size's own")] = 0
    micro_rows: Annotated[int, Meta(ge=0, description="rows per forward pass of one rank; 0: fill micro_tokens")] = 0
    micro_tokens: Annotated[int, Meta(ge=1, description="tokens of a forward pass where micro_rows is 0")] = 8192
    warmup_from: Annotated[int, Meta(ge=0, description="tokens per step at the beginning, doubled up to tokens")] = 0
    warmup_tokens: Annotated[int, Meta(ge=0, description="tokens over which it doubles, in equal parts")] = 0


class RunLength(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[run]"""

    max_steps: Annotated[
        int, Meta(ge=0, description="optimiser steps; 0: by run.tokens, or one pass over the data")
    ] = 0
    tokens: Annotated[int, Meta(ge=0, description="tokens to train on where run.max_steps is 0")] = 0
    seed: Annotated[int, Meta(ge=0, description="of the initial weights and the data order")] = 0
    init: Annotated[
        str, Meta(description="folder of the weights to begin with: Hugging Face Llama, a run, a checkpoint")
    ] = ""
    init_digest: Annotated[str, Meta(description="digest of those weights; set from the folder")] = ""


class Optimizer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[optimizer]: see ptool.optimizers for what each is, and which ZeRO stages keep its meaning."""

    name: Annotated[
        str, Meta(description="adamw, lion, adam8bit (any stage; 8 bits need a GPU); lamb, adafactor, muon (stage 0)")
    ] = "adamw"
    peak_lr: Annotated[
        float, Meta(ge=0, description="highest learning rate; 0: the model size's own, scaled to the optimiser")
    ] = 0.0
    beta1: Annotated[
        float, Meta(ge=-1, lt=1, description="decay of the first moment; -1: the optimiser's own, AdamW 0.9")
    ] = -1.0
    beta2: Annotated[
        float, Meta(ge=-1, lt=1, description="decay of the second moment; -1: the optimiser's own, AdamW 0.95")
    ] = -1.0
    eps: Annotated[
        float, Meta(ge=-1, description="added to the second moment's root; -1: the optimiser's own, AdamW 1e-8")
    ] = -1.0
    weight_decay: Annotated[float, Meta(ge=0, description="on matrices; none on embeddings, norms and biases")] = 0.1
    clip: Annotated[float, Meta(gt=0, description="largest global gradient norm")] = 1.0


Shape = Literal["cosine", "wsd", "linear", "constant"]


class Schedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[schedule]: linear warm-up, then a shape. In tokens; schedule.py has the formulas."""

    shape: Annotated[Shape, Meta(description="cosine, wsd (warm-up, stable, decay), linear or constant")] = "cosine"
    warmup_steps: Annotated[
        int, Meta(ge=-1, description="-1: 2,000 steps or 2 % of the run, whichever is shorter")
    ] = -1
    warmup_tokens: Annotated[int, Meta(ge=-1, description="in place of warmup_steps; -1: by warmup_steps")] = -1
    min_lr_ratio: Annotated[float, Meta(ge=0, le=1, description="learning rate at the end, as a share of the peak")] = (
        0.1
    )
    decay_tokens: Annotated[int, Meta(ge=-1, description="of wsd: tokens of the decay; -1: a tenth of the run")] = -1


class Phase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stretch of steps in which nothing changes but the learning rate along its curve; config.toml's [[phase]].

    What a person gives ([[phase]] of a settings file, resolving.py) is made into these: every step of a run belongs to
    one. Several can share a name: a growing batch cuts a phase in pieces. The curve may begin before the phase and end
    after it: all tokens are counted from the beginning of the run.
    """

    name: str
    steps: int
    batch_tokens: int
    micro_rows: int
    seq_len: int
    weights: tuple[float, ...]
    shape: Shape
    peak_lr: float
    end_lr: float
    warmup_tokens: int
    decay_tokens: int
    curve_start: int
    curve_tokens: int

    @property
    def rows(self) -> int:
        """Rows of the global batch."""
        return self.batch_tokens // self.seq_len

    def accumulation(self, ranks: int) -> int:
        """Forward passes of one of `ranks` ranks per optimiser step, of `micro_rows` rows at most."""
        return -(-self.rows // (ranks * self.micro_rows))


class Checkpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[checkpoint]"""

    every_steps: Annotated[int, Meta(ge=1, description="steps between checkpoints")] = 500
    every_minutes: Annotated[
        float, Meta(ge=0, description="minutes after which one is written in between; kept until the next; 0: never")
    ] = 30.0
    keep_last: Annotated[int, Meta(ge=2, description="checkpoints kept, besides the one a rollback would need")] = 3
    keep_every_steps: Annotated[int, Meta(ge=0, description="multiples of this are kept for good; 0: none")] = 0
    best_source: Annotated[
        str, Meta(description="the source whose held-out loss picks the best of each phase; empty: all together")
    ] = ""
    asynchronous: Annotated[bool, Meta(description="written from a copy in host memory while the training goes on")] = (
        True
    )
    anchor_steps: Annotated[
        int, Meta(ge=0, description="steps between states that a rollback can go back to; 0: saves alone")
    ] = 100
    anchor_folder: Annotated[
        str, Meta(description="a folder on a local disk for these states; empty: host memory (three of them)")
    ] = ""


class Parallel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[parallel]"""

    zero: Annotated[int, Meta(ge=0, le=3, description="ZeRO stage")] = 2
    ranks: Annotated[int, Meta(ge=0, description="processes; 0: one per GPU, 2 without a GPU")] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], Meta(description="auto: cuda where there is a GPU")] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Meta(description="auto: bf16 on CUDA and on a CPU measured to be fast at it, else fp32; fp16 scales the loss"),
    ] = "auto"
    deterministic: Annotated[
        bool, Meta(description="kernels that give the same bits each time; a rerun that differs at all is hardware")
    ] = False
    threads: Annotated[int, Meta(ge=0, description="CPU threads of a rank; 0: its share of the processors")] = 0
    timeout_seconds: Annotated[float, Meta(gt=0, description="a collective that takes longer is an error")] = 600.0
    hang_seconds: Annotated[
        float,
        Meta(ge=0, description="ranks that stand still this long are named, their stacks written; 0: timeout / 2"),
    ] = 0.0
    heartbeat_seconds: Annotated[float, Meta(gt=0, description="between two signs of life of a rank")] = 5.0


class Execution(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[execution]: how the model is computed; see ptool/models/execution.py."""

    recompute: Annotated[
        Recomputation,
        Meta(description="computed again in the backward pass: none, selective (not products, attention), full"),
    ] = "none"
    compile: Annotated[bool, Meta(description="each layer through torch.compile; not under ZeRO-3")] = False
    attention: Annotated[
        Kernel, Meta(description="auto, sdpa (masked), varlen (GPU, 16 bits), flex (GPU); equal but for last bits")
    ] = "auto"


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
    warn_two_sigma: Annotated[
        bool, Meta(description="also warn of a loss above mean + 2 sigma; on clean noise 2.3 % of all steps are")
    ] = False
    rerun_tolerance: Annotated[float, Meta(ge=0, description="relative change of a rerun that means hardware")] = 1e-3


class Metrics(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[metrics]"""

    tensorboard: Annotated[bool, Meta(description="write TensorBoard files beside metrics.jsonl")] = True
    peak_tflops: Annotated[
        float, Meta(ge=0, description="dense peak of one device in TFLOP/s, for MFU; 0: the GPU's, where it is known")
    ] = 0.0
    layers_every: Annotated[
        int, Meta(ge=0, description="steps between gradient norms and activation statistics of every layer; 0: never")
    ] = 100
    wandb: Annotated[
        Literal["off", "offline", "online"],
        Meta(description="Weights & Biases; offline: below the run folder, to be sent by `wandb sync`"),
    ] = "off"
    mlflow: Annotated[
        str, Meta(description="MLflow: a folder or the address of a tracking server; empty: not used")
    ] = ""


class Validation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[validation]: the loss of each source on held-out rows."""

    every_steps: Annotated[int, Meta(ge=0, description="steps between measurements, and one at the end; 0: never")] = (
        500
    )
    tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="tokens of held-out rows that are measured, the same every time; 0: ten batches, 1M at most",
        ),
    ] = 0


class Faults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[faults]: damage done on purpose, to see the run survive it (`ptool demo`, tests)."""

    kind: Annotated[
        Literal["targets", "outlier", "slow", "lr", "broken-rank", "broken-once"],
        Meta(
            description="bad targets, one bad row in eight, targets that get worse, a jump of the rate, or a rank "
            "whose loss is not a number, always or once"
        ),
    ] = "targets"
    bad_batch_at: Annotated[int, Meta(ge=0, description="the batch, counted from 1 in data order, that is spoilt")] = 0
    bad_batches: Annotated[int, Meta(ge=1, description="batches spoilt from there on")] = 1
    rank: Annotated[int, Meta(ge=0, description="the rank whose loss is not a number, for those two")] = 0


class RunConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a run."""

    model: Table
    data: Data = Data()
    batch: Batch = Batch()
    run: RunLength = RunLength()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    checkpoint: Checkpoint = Checkpoint()
    parallel: Parallel = Parallel()
    execution: Execution = Execution()
    spike: Spike = Spike()
    metrics: Metrics = Metrics()
    validation: Validation = Validation()
    faults: Faults = Faults()
    phase: tuple[Phase, ...] = ()

    @property
    def model_config(self) -> ModelConfig:
        """The model's shape."""
        return ModelConfig.from_table(self.model)


SECTIONS: dict[str, type[Struct]] = {
    name: kind
    for name, kind in get_type_hints(RunConfig).items()
    if isinstance(kind, type) and issubclass(kind, Struct)
}
