"""What goes on inside the model, every `metrics.layers_every` steps: a line of layers.jsonl, and TensorBoard curves.

    gradient_norm     of every layer, of the step's averaged gradient, before clipping. Their squares add up to the
                      square of metrics.jsonl's grad_norm
    activation_rms    root mean square of what a layer puts out, over all tokens of the step
    activation_max    the largest magnitude in it

"Layer" is a module of the decoder: `embedding`, `layers.0`, …, `norm`, `head`. Gradients are read between the backward
pass and the update, where each ZeRO stage keeps them: whole at stage 0; as this rank's fragments of the parameters at
stages 1 to 3, whose squares are added up over the ranks. So no gradient is gathered: a measured step costs one pass
over this rank's gradients and activations, and one sum over the ranks; the steps between cost nothing, for the hooks
are taken off again. Compiled layers (`execution.compile`) run without hooks: their activations are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ptool.training.history import Record
from ptool.training.ranks import Ranks


def layer_of(name: str) -> str:
    """The layer that a parameter or module belongs to: `layers.3.attention.query.weight` is of `layers.3`."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" and len(parts) > 1 else parts[0]


def layers_of(module: nn.Module) -> dict[str, nn.Module]:
    """The layers by name, in the order of the forward pass."""
    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if name == "layers":
            found.update({f"layers.{number}": layer for number, layer in enumerate(child.children())})
        else:
            found[name] = child
    return found


class Activations:
    """Sums over the outputs of a module's layers, taken by forward hooks."""

    def __init__(self, module: nn.Module) -> None:
        self.layers = layers_of(module)
        self._squares: dict[str, list[Tensor]] = {name: [] for name in self.layers}
        self._counts = dict.fromkeys(self.layers, 0)
        self._largest: dict[str, list[Tensor]] = {name: [] for name in self.layers}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count what the layers put out inside this block."""
        handles = [layer.register_forward_hook(self._hook(name)) for name, layer in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def totals(self) -> tuple[list[float], list[float], list[float]]:
        """Sum of squares, count and largest magnitude of each layer, of this rank; only now is a device waited for."""
        squares = [float(torch.stack(parts).sum()) if parts else 0.0 for parts in self._squares.values()]
        largest = [float(torch.stack(parts).max()) if parts else 0.0 for parts in self._largest.values()]
        return squares, [float(count) for count in self._counts.values()], largest

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def count(module: nn.Module, given: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or output.dim() < 2:
                return  # the loss, which the vocabulary's module puts out too
            with torch.no_grad():
                values = output.detach()
                self._squares[name].append(values.float().square().sum().double())
                self._largest[name].append(values.abs().max().float())
            self._counts[name] += values.numel()

        return count


def gradient_squares(module: nn.Module, *, share_whole: int) -> dict[str, float]:
    """The sum of squares of each layer's gradients that this rank holds, between backward and update.

    A gradient that every rank holds whole counts as one part of `share_whole`, the number of ranks.
    """
    squares: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        gradient, is_whole = _held(parameter)
        if gradient is not None:
            part = gradient.detach().float().square().sum().double()
            squares.setdefault(layer_of(name), []).append(part / share_whole if is_whole else part)
    return {layer: float(torch.stack(parts).sum()) for layer, parts in squares.items()}


def _held(parameter: Any) -> tuple[Tensor | None, bool]:
    """The piece of a parameter's gradient that this rank answers for, and whether all ranks hold the same whole one."""
    if hasattr(parameter, "ds_id"):  # ZeRO-3: a partition of each parameter, padded with zeros
        return parameter._z3_optimizer.get_local_fp32_grad_for_param(parameter), False
    if not hasattr(parameter, "_hp_mapping"):
        return parameter.grad, True  # ZeRO-0
    fragment = parameter._hp_mapping
    if fragment is None:
        return None, False  # another rank's part
    gradient = fragment.get_lp_grad_fragment(parameter._index_in_param_group).flatten()
    address = fragment.lp_fragment_address
    if gradient.numel() == parameter.numel() != address.numel:  # the bf16 optimiser accumulates the whole everywhere
        gradient = gradient.narrow(0, address.start, address.numel)
    return gradient, False


class LayerStatistics:
    """Takes the measurements of one step; made anew for each."""

    def __init__(self, module: nn.Module, *, compiled: bool) -> None:
        self._module = module
        self._activations = None if compiled else Activations(module)
        self.gradient_norm: dict[str, float] = {}

    def watched(self) -> Any:
        """A block around the step's forward passes."""
        return nullcontext() if self._activations is None else self._activations.watched()

    def take_gradients(self, ranks: Ranks, scale: float) -> None:
        """Read the gradients, which are `scale` times too small; collective."""
        mine = gradient_squares(self._module, share_whole=ranks.size)
        names = list(layers_of(self._module))
        totals = ranks.sum([mine.get(name, 0.0) for name in names])
        self.gradient_norm = {name: scale * math.sqrt(total) for name, total in zip(names, totals, strict=True)}

    def record(self, ranks: Ranks, *, step: int, tokens: int, attempt: int) -> Record:
        """The line of layers.jsonl; collective."""
        line: Record = {
            "step": step,
            "tokens": tokens,
            "attempt": attempt,
            "gradient_norm": _rounded(self.gradient_norm),
        }
        if self._activations is not None:
            squares, counts, largest = self._activations.totals()
            names = list(self._activations.layers)
            totals = ranks.sum([*squares, *counts])
            highest = [max(column) for column in zip(*ranks.gather(largest), strict=True)]
            means = [
                math.sqrt(square / count) if count else 0.0
                for square, count in zip(totals[: len(names)], totals[len(names) :], strict=True)
            ]
            line["activation_rms"] = _rounded(dict(zip(names, means, strict=True)))
            line["activation_max"] = _rounded(dict(zip(names, highest, strict=True)))
        return line


def _rounded(values: dict[str, float]) -> dict[str, float | None]:
    """Five digits; what is not finite has no number in JSON."""
    return {name: float(f"{value:.5g}") if math.isfinite(value) else None for name, value in values.items()}
