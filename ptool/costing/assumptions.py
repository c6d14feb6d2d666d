"""What entered an estimate: every value, where it came from, and the command line that gives the same figures again."""

from __future__ import annotations

from typing import NamedTuple

from ptool.costing.estimate import Asked, Estimate
from ptool.units import Band


class Assumption(NamedTuple):
    """One value. `origin`: flag, default (of this program), or reference (a table with sources)."""

    key: str
    value: str
    origin: str


def reproduce(estimate: Estimate) -> list[str]:
    """The command with every value spelt out, one option and its value per item."""
    asked = estimate.asked
    model, corpus = asked.model, asked.corpus
    words = ["ptool estimate-cost"]
    if model.option:
        words.append(model.option)
    else:
        words.append(f"--params {exact(model.params)}")
        if model.active_params != model.params:
            words.append(f"--active-params {exact(model.active_params)}")
    if corpus.option:
        words.append(corpus.option)
    return words + [f"--{key} {value}".rstrip() for key, value in values(estimate).items() if key != "params"]


def values(estimate: Estimate) -> dict[str, str]:
    """What determines the figures, by option name, as the option takes it."""
    asked = estimate.asked
    found = {
        "params": exact(asked.params),
        "tokens": exact(asked.num_tokens),
        "gpu": estimate.gpu.name,
        "gpus": str(estimate.num_gpus),
        "mfu": colons(estimate.efficiency.mfu),
        "goodput": colons(estimate.efficiency.goodput),
    }
    if estimate.price:
        found["price"] = colons(estimate.price.band)
    return found | _unusual(asked)


def assumptions(estimate: Estimate) -> list[Assumption]:
    """Every value that entered, and where it came from."""
    asked = estimate.asked
    given = {
        "gpu": asked.gpu is not None,
        "gpus": asked.num_gpus is not None,
        "mfu": asked.mfu is not None,
        "goodput": asked.goodput is not None,
        "price": asked.price is not None,
    }
    tables = ("mfu", "goodput", "price")
    rows = [
        Assumption(key, value, "flag" if given.get(key, True) else "reference" if key in tables else "default")
        for key, value in values(estimate).items()
    ]
    kind = "dense" if asked.model.active_params == asked.params else "mixture of experts"
    named = {row.key for row in rows}
    rest = {
        "model": kind,
        "precision": asked.setting.precision,
        "mfu-convention": asked.convention,
        "gpu-mtbf": "Llama 3: one stop in 50,700 GPU-hours",
        "storage-rate": "20GB",
    }
    return rows + [Assumption(key, value, "default") for key, value in rest.items() if key not in named]


def _unusual(asked: Asked) -> dict[str, str]:
    """Options whose value is not the default."""
    setting = asked.setting
    found: dict[str, str] = {}
    if asked.convention != "6nd":
        found["mfu-convention"] = asked.convention
    if setting.precision != "bf16":
        found["precision"] = setting.precision
    if asked.peak_flops is not None:
        found["peak-tflops"] = f"{asked.peak_flops / 1e12:.10g}"
    if asked.model.shape:
        found["seq"] = str(setting.seq_len)
        found |= _memory_options(asked)
    if asked.use_tokens:
        found["inference-tokens"] = exact(asked.use_tokens)
    return found


def _memory_options(asked: Asked) -> dict[str, str]:
    """Options that move bytes alone; flags have an empty value."""
    setting, layout = asked.setting, asked.layout
    found: dict[str, str] = {}
    if layout:
        found |= {"tp": str(layout.tensor), "pp": str(layout.pipeline), "zero": str(layout.zero)}
        found |= {"ep": str(layout.expert)} if layout.expert > 1 else {}
    if setting.micro_rows != 1:
        found["micro-rows"] = str(setting.micro_rows)
    if setting.recompute != "none":
        found["recompute"] = setting.recompute
    if setting.engine != "megatron":
        found["engine"] = setting.engine
    if setting.chunked_loss != (setting.engine == "deepspeed"):
        found["loss"] = "chunked" if setting.chunked_loss else "plain"
    return found | {
        name: ""
        for name, given in (("fp32-gradients", setting.fp32_gradients), ("no-flash", not setting.flash))
        if given
    }


def colons(band: Band) -> str:
    """The band as its option takes it; one value where all are equal."""
    shown = [f"{value:.6g}" for value in band]
    return shown[0] if len(set(shown)) == 1 else ":".join(shown)


def exact(count: int) -> str:
    """A count without loss, as short as it is typed: 70e9."""
    exponent = 0
    while count >= 1000 and count % 1000 == 0:
        count, exponent = count // 1000, exponent + 3
    return f"{count}e{exponent}" if exponent else str(count)
