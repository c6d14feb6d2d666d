"""The only file that knows DeepSpeed (0.19): its traps are kept out of the rest of the code.

What is done differently from its defaults, and why (each was found by running it):

- The shared-memory op is switched off before `init_distributed`: it would be compiled with g++ at the first start, and
  a build that is killed leaves a lock on which every later start hangs for ever.
- Bucket sizes come from the model. ZeRO-1/2 allocate `reduce_bucket_size` elements whatever the model's size: at the
  default of 5e8 that is 2 GB a rank.
- The optimiser is ours (optimizer.py); no DeepSpeed optimiser, scheduler, clipping or loss scaler takes part, because
  its counters count skipped steps too and its scheduler does not.
- Its checkpoints are not used: they are pickles, hold weights twice, know only their own number of ranks and stage,
  and name themselves the latest before the other ranks are done. engine_state.py reads and fills what it holds.
- bf16 and fp16 accumulate gradients in fp32 at stages 1-3; stage 0 does not implement that, so it runs under autocast.
- Which micro-batch is a step's last is said by the caller, not counted, so accumulation may change between steps.
- fp16 is scaled by scaling.py: DeepSpeed's scaler counts what it drops as steps, and tells nobody.

Not here: pipeline and tensor parallelism, offload, MoE.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Literal

import msgspec
import torch

from ptool.models.decoder import Decoder
from ptool.models.mup import learning_rate_factor
from ptool.optimizers.building import constructor_arguments, optimizer_class
from ptool.optimizers.groups import parameter_groups
from ptool.training.engine_state import EngineState
from ptool.training.optimizer import Gate, gated
from ptool.training.scaling import LossScale

MAX_BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's own default: no larger than that on big models
MIN_BUCKET_ELEMENTS = 1_000  # a model of a few parameters still needs a bucket


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine must know: ZeRO stage, arithmetic, micro-batches in a step, the optimiser and its constants.

    `betas` and `eps` None: what the optimiser's authors recommend.
    """

    zero: int
    precision: Literal["fp32", "bf16", "fp16"]
    device: Literal["cpu", "cuda"]
    accumulation: int
    optimizer: str = "adamw"
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float = 0.1


def start(device: str, timeout_seconds: float) -> None:
    """Join the process group named by RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT: gloo on CPU, NCCL on CUDA.

    Every later collective fails after `timeout_seconds`.
    """
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel("ERROR")
    if device == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        accelerator = deepspeed.accelerator.get_accelerator()
        accelerator.is_fp16_supported = lambda: True  # it asks oneDNN; torch has fp16 on every CPU, only slowly
    _import_muon_uncompiled()
    backend = "gloo" if device == "cpu" else "nccl"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    timeout = timedelta(seconds=timeout_seconds)
    # Also for the groups that ZeRO makes itself: torch would give those ten or thirty minutes, whatever was asked for.
    torch.distributed.distributed_c10d.default_pg_timeout = timeout
    torch.distributed.distributed_c10d.default_pg_nccl_timeout = timeout
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)


def _import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon, as `initialize` will, without its `torch.compile` decorators.

    They import the whole inductor, most of a second in every rank, for an optimiser that is not used here.
    """

    def undecorated(function: Any = None, **_: Any) -> Any:
        return function if function is not None else undecorated

    compiler, torch.compile = torch.compile, undecorated
    try:
        from deepspeed.runtime.zero.muon import muon_optimizer  # noqa: F401
    finally:
        torch.compile = compiler


class Engine:
    """A model under ZeRO: accumulate gradients, ask a gate, update; `state` is what a checkpoint holds.

    All methods are collective: every rank calls them in the same order.
    """

    def __init__(self, model: Decoder, spec: EngineSpec) -> None:
        import deepspeed

        self.spec = spec
        self.device = torch.device(spec.device, torch.cuda.current_device() if spec.device == "cuda" else None)
        constants = constructor_arguments(
            spec.optimizer, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay
        )
        groups = parameter_groups(
            model.named_parameters(),
            spec.weight_decay,
            lr_factor=partial(learning_rate_factor, config=model.config),
            hidden_apart=spec.optimizer == "muon",
        )
        self.optimizer = gated(optimizer_class(spec.optimizer, zero=spec.zero))(groups, **constants)
        self._accumulation = spec.accumulation
        self._scale = LossScale() if spec.precision == "fp16" else None
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self._engine, *_ = deepspeed.initialize(
            model=model.to(self.device), optimizer=self.optimizer, config=_deepspeed_config(spec, num_parameters)
        )
        self.state = EngineState(self._engine, self.optimizer, spec.zero)
        self._engine.torch_autocast_z0_gradscaler = None  # scaling.py does it, under autocast too
        if spec.zero > 0:
            zero = self._engine.optimizer
            self.optimizer.norm = lambda: float(zero._global_grad_norm)

    @property
    def module(self) -> torch.nn.Module:
        """The model itself, for hooks; under ZeRO-3 its weights are there only inside its own calls."""
        module: torch.nn.Module = self._engine.module
        return module

    @property
    def loss_scale(self) -> float:
        """What fp16 gradients are multiplied with between `accumulate` and `update`; 1 elsewhere."""
        return 1.0 if self._scale is None else self._scale.value

    def set_accumulation(self, count: int) -> None:
        """How many micro-batches the steps to come have; called between two steps."""
        self._accumulation = count

    def accumulate(self, batch: dict[str, torch.Tensor], normaliser: float, *, last: bool) -> tuple[float, int]:
        """Forward and backward of one micro-batch, of any number of rows; its summed loss and its number of targets.

        Gradients are those of loss_sum / `normaliser`, averaged over micro-batches and ranks. `last`: the update
        follows, by `update`.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        loss_sum, num_targets = self._engine(batch["tokens"], batch["positions"], batch["segments"], batch["targets"])
        share = loss_sum / normaliser / self._accumulation
        self._engine.backward(share if self._scale is None else share * self._scale.value)
        return float(loss_sum.detach()), int(num_targets)

    def update(self, gate: Gate, lr: float, *, loss_is_finite: bool = True) -> bool:
        """Finish the optimiser step begun by `accumulate`: `gate` is asked once, and may refuse.

        False where nothing was asked or changed because fp16 gradients overflowed, though the loss is finite: the loss
        scale is lower now, and the caller goes through the same micro-batches again. All ranks get the same answer.

        DeepSpeed drops an update whose gradients are not finite before it reaches the optimiser; the gate hears of it
        as a norm of infinity.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        scale = self._scale
        repeated = False

        def ask(norm: float) -> float | None:
            nonlocal repeated
            if scale is None:
                return gate(norm)
            repeated = loss_is_finite and not math.isfinite(norm) and scale.overflowed()
            factor = None if repeated else gate(norm / scale.value)
            if factor is None:
                return None
            factor /= scale.value
            scale.applied()
            return factor

        self.optimizer.open(ask)
        self._engine.step()
        if not self.optimizer.was_asked:
            ask(float("inf"))
        return not repeated

    def extra_state(self) -> dict[str, float]:
        """What a checkpoint must keep of the engine besides tensors; equal on all ranks."""
        return {} if self._scale is None else self._scale.state()

    def restore_extra_state(self, state: Mapping[str, float]) -> None:
        """Put back what `extra_state` gave."""
        if self._scale is not None:
            self._scale.restore(state)

    @torch.no_grad()
    def evaluate(self, batch: dict[str, torch.Tensor]) -> tuple[float, int]:
        """Summed loss and number of targets, without gradients."""
        self._engine.eval()
        loss_sum, num_targets = self._engine(batch["tokens"], batch["positions"], batch["segments"], batch["targets"])
        self._engine.train()
        return float(loss_sum), int(num_targets)

    @torch.no_grad()
    def token_losses(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of each target in nats, fp32 [rows, S], 0 where there is none; without gradients."""
        self._engine.eval()
        named = (batch["tokens"], batch["positions"], batch["segments"], batch["targets"])
        losses, _ = self._engine(*named, per_token=True)
        self._engine.train()
        return losses.float()


def _deepspeed_config(spec: EngineSpec, num_parameters: int) -> dict[str, Any]:
    bucket = max(MIN_BUCKET_ELEMENTS, min(num_parameters, MAX_BUCKET_ELEMENTS))
    bucket += bucket % 2  # ZeRO-1/2 refuse an odd one
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # never asked: the caller says which micro-batch is a step's last
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "checkpoint": {"tag_validation": "FAIL"},
        "zero_optimization": {
            "stage": spec.zero,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_prefetch_bucket_size": bucket,
            "overlap_comm": spec.device == "cuda",
        },
    }
    if spec.precision == "fp32":
        return config
    if spec.zero == 0:
        config["torch_autocast"] = {"enabled": True, "dtype": _AUTOCAST[spec.precision]}
        return config
    config[spec.precision] = {"enabled": True}
    if spec.precision == "fp16":
        config["fp16"]["loss_scale"] = 1.0  # a fixed one: scaling.py does the rest
        config["communication_data_type"] = "fp32"  # a sum over ranks could overflow
    config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


_AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}


def stop() -> None:
    """Leave the process group; harmless when it is gone already."""
    with contextlib.suppress(Exception):
        torch.distributed.destroy_process_group()
