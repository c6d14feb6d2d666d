"""From the options of `plan` to its question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptool.costing.inputs import read_model
from ptool.costing.layouts import Planned, Wanted, plan
from ptool.costing.refusals import Refused, check_tensor
from ptool.costing.request import read_setting
from ptool.costing.shapes import step_tokens
from ptool.costing.tables import find_gpu
from ptool.costing.traffic import Cluster
from ptool.errors import UsageError

DEFAULT_GPUS_PER_NODE = 8
_PINS = {"tp": "tensor", "pp": "pipeline", "ep": "expert", "zero": "zero", "micro_rows": "micro_rows"}
_COUNTS = ("gpus", "gpus_per_node", "seq", "batch_tokens", *_PINS)


def build_plan(given: Mapping[str, Any]) -> tuple[Planned, str | None]:
    """The plan for options by name, and the named size if the model is one. Raises UsageError for what cannot be."""
    model = read_model(name=given.get("model"), config=given.get("config"), arch=given.get("arch"))
    if model is None or model.shape is None:
        raise UsageError("a shape is missing", hint="--model 7b, --config FILE or --arch layers=,hidden=,heads=,...")
    if given.get("gpus") is None:
        raise UsageError("--gpus is missing", hint="for example --gpus 64")
    counts = {name: given[name] for name in _COUNTS if given.get(name) is not None}
    for name, value in counts.items():
        if value < (0 if name == "zero" else 1):
            raise Refused("count", f"--{name.replace('_', '-')} must be at least 1")
    gpu = find_gpu(given.get("gpu") or "h100-sxm")
    per_node = counts.get("gpus_per_node", DEFAULT_GPUS_PER_NODE)
    check_tensor(counts.get("tp", 1), per_node)
    link, network = given.get("link") or gpu.link_bytes, given.get("network") or gpu.network_bytes
    cluster = Cluster(gpu, counts["gpus"], per_node, float(link), float(network))
    batch = counts.get("batch_tokens", step_tokens(given.get("model")))
    pinned = {pin: counts[name] for name, pin in _PINS.items() if name in counts}
    setting = read_setting(given, model, None)
    return plan(Wanted(model.shape, cluster, setting, batch, pinned)), given.get("model")
