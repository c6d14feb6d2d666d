"""An optimiser from its name."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from ptool.errors import UsageError
from ptool.optimizers.adafactor import Adafactor
from ptool.optimizers.choices import kind_of, require_zero_stage
from ptool.optimizers.lamb import Lamb
from ptool.optimizers.lion import Lion
from ptool.optimizers.muon import Muon


def optimizer_class(name: str, *, zero: int = 0) -> type[torch.optim.Optimizer]:
    """The class called `name`, for a trainer to derive from or to instantiate.

    `adamw` is torch's; ask for it with `fused=True`. Raises UsageError for an unknown name, for a ZeRO stage under
    which it would be another optimiser, and for `adam8bit` without bitsandbytes and a GPU.
    """
    require_zero_stage(name, zero)
    classes: dict[str, type[torch.optim.Optimizer]] = {
        "adamw": torch.optim.AdamW,
        "lion": Lion,
        "lamb": Lamb,
        "adafactor": Adafactor,
        "muon": Muon,
    }
    return classes[name] if name in classes else _adam8bit()


def constructor_arguments(
    name: str, *, betas: tuple[float, float] | None, eps: float | None, weight_decay: float
) -> dict[str, Any]:
    """What the class called `name` takes beside parameters; None: what its authors recommend (choices.py)."""
    kind = kind_of(name)
    given: dict[str, Any] = {"weight_decay": weight_decay}
    if name == "adafactor":
        return given
    given["betas"] = betas or kind.betas
    if name == "lion":
        return given
    given["eps"] = kind.eps if eps is None else eps
    if name == "adamw":
        given["fused"] = True
    return given


def _adam8bit() -> type[torch.optim.Optimizer]:
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise UsageError(
            "adam8bit needs bitsandbytes, which is not installed", hint="pip install bitsandbytes, or optimizer adamw"
        ) from error
    if not torch.cuda.is_available():
        raise UsageError("adam8bit needs a GPU, and none is visible here", hint="optimizer adamw")
    found: type[torch.optim.Optimizer] = bitsandbytes.optim.AdamW8bit
    return found
