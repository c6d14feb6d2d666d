"""Parameter groups: what decays, what learns at another rate, what is a hidden matrix.

Weight decay falls on matrices alone: embeddings, norms and biases have none. Groups carry what the optimisers and the
schedule need: `weight_decay`, `lr_factor` (the rate's owner multiplies by it; muP), `hidden` (whether Muon may
orthogonalise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

EMBEDDINGS = ("embedding", "head")


def parameter_groups(
    named_parameters: Iterable[tuple[str, Any]],
    weight_decay: float,
    *,
    lr_factor: Callable[[str], float] = lambda _name: 1.0,
    hidden_apart: bool = True,
) -> list[dict[str, Any]]:
    """Groups in the order in which their first parameter appears; decayed ones first.

    An embedding is known by its module's name; a tied one is an embedding, and an untied output head is a matrix that
    decays but is not hidden. `lr_factor` gives a parameter's factor by its name. Without `hidden_apart` hidden matrices
    share their group with an output head that is treated alike: ZeRO works group by group, so fewer are faster.
    """
    groups: dict[tuple[bool, bool, float], dict[str, Any]] = {}
    for name, parameter in named_parameters:
        modules = name.split(".")[:-1]
        is_embedding = any("embedding" in module for module in modules)
        decays = parameter.dim() >= 2 and not is_embedding
        hidden = decays and not any(module in EMBEDDINGS for module in modules)
        factor = lr_factor(name)
        group = groups.setdefault(
            (not decays, hidden_apart and not hidden, factor),
            {"params": [], "weight_decay": weight_decay if decays else 0.0, "lr_factor": factor},
        )
        if hidden_apart:
            group["hidden"] = hidden
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]
