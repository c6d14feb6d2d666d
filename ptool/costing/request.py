"""From the options of a command to a complete question: what was left open is filled in from data, budget or shape.

tokens     --tokens, else the packed data's, else what the budget buys at this size
model      --params, --model, --config or --arch, else the compute-optimal one for the budget (Besiroglu's fit)
row        --seq, else the packed data's, else 4,096 tokens or the model's own limit if that is shorter
layout     --tp, --pp, --zero, --ep where one of them is given; else estimate.py looks for the lowest ZeRO stage
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptool.costing.estimate import DEFAULT_GPU, Asked, estimate
from ptool.costing.flops import CONVENTIONS, RECOMPUTE
from ptool.costing.inputs import Corpus, Model, read_corpus, read_model, read_price
from ptool.costing.memory import ENGINES, PRECISIONS, Layout, Setting
from ptool.costing.refusals import GPUS_PER_NODE, Refused, check_tensor
from ptool.costing.scaling import BESIROGLU
from ptool.errors import UsageError
from ptool.plugins import unknown
from ptool.units import parse_count

DEFAULT_SEQ_LEN = 4096


def parse_money(text: str | float) -> float:
    """Dollars: `2M`, `$12,400`, `1e6`."""
    return float(parse_count(text.removeprefix("$"))) if isinstance(text, str) else float(text)


def build_request(given: Mapping[str, Any]) -> Asked:
    """A complete question from options by name; None or a missing key is an option that was not given.

    Raises UsageError for options that contradict each other or leave the size or the tokens open.
    """
    model = read_model(
        params=given.get("params"),
        active_params=given.get("active_params"),
        name=given.get("model"),
        config=given.get("config"),
        arch=given.get("arch"),
    )
    corpus = _read_data(given)
    if corpus and corpus.vocab_size and model and model.shape and given.get("model"):
        shape = model.shape._replace(vocab_size=corpus.vocab_size)  # as `train` does with a named size
        model = Model(shape.num_parameters(), shape.num_parameters(active=True), shape, model.option)
    price, peak = given.get("price"), given.get("peak_tflops")
    asked = Asked(
        model=model or Model(1, 1, None, ""),
        corpus=corpus or Corpus(1),
        gpu=given.get("gpu"),
        num_gpus=given.get("gpus"),
        mfu=given.get("mfu"),
        goodput=given.get("goodput"),
        price=read_price(price, given.get("gpu") or DEFAULT_GPU) if price else None,
        convention=_one_of("MFU convention", given.get("mfu_convention") or "6nd", CONVENTIONS),
        peak_flops=None if peak is None else peak * 1e12,
        setting=read_setting(given, model, corpus),
        use_tokens=given.get("inference_tokens") or 0,
        deadline_seconds=given.get("deadline"),
        budget_usd=given.get("budget"),
        gpu_mtbf_seconds=given.get("gpu_mtbf"),
        storage_rate=given.get("storage_rate"),
    )
    if model is None or corpus is None:
        if asked.budget_usd is None:
            missing = "the model's size" if model is None else "the number of tokens"
            options = "--params, --model, --config or --arch" if model is None else "--tokens or --packed"
            raise UsageError(f"{missing} is missing", hint=f"{options}; or --budget, and what it buys is estimated")
        if asked.budget_usd <= 0:
            raise Refused("count", "--budget must be more than nothing")
        model, corpus = _bought(model, corpus, asked)
    return asked._replace(model=model, corpus=corpus, layout=_layout(given, model))


def _read_data(given: Mapping[str, Any]) -> Corpus | None:
    packed, tokens = given.get("packed"), given.get("tokens")
    if packed is not None:
        return read_corpus(packed, tokens=tokens)
    return None if tokens is None else Corpus(tokens)


def read_setting(given: Mapping[str, Any], model: Model | None, corpus: Corpus | None) -> Setting:
    """What decides the bytes beside the layout; ptool's own engine computes its loss in chunks."""
    get = given.get
    rows = get("micro_rows")
    engine = _one_of("engine", get("engine") or "megatron", ENGINES)
    loss = _one_of("loss", get("loss") or ("chunked" if engine == "deepspeed" else "plain"), ("plain", "chunked"))
    longest = model.shape.max_seq_len if model and model.shape else DEFAULT_SEQ_LEN
    seq_len = get("seq") if get("seq") is not None else (corpus.seq_len if corpus else None)
    return Setting(
        precision=_one_of("precision", get("precision") or "bf16", PRECISIONS),
        engine=engine,
        fp32_gradients=bool(get("fp32_gradients")),
        recompute=_one_of("recompute", get("recompute") or "none", RECOMPUTE),
        flash=not get("no_flash"),
        chunked_loss=loss == "chunked",
        seq_len=min(DEFAULT_SEQ_LEN, longest) if seq_len is None else seq_len,
        micro_rows=1 if rows is None else rows,
    )


def _layout(given: Mapping[str, Any], model: Model) -> Layout | None:
    names = ("tp", "pp", "zero", "ep")
    if all(given.get(name) is None for name in names):
        return None
    tensor, pipeline, expert = (given.get(name) or 1 for name in ("tp", "pp", "ep"))
    check_tensor(tensor, GPUS_PER_NODE)
    gpus = given.get("gpus")
    if gpus is None:
        raise UsageError("a layout needs --gpus", hint="for example --gpus 64 --tp 8 --zero 1")
    data = gpus // (tensor * pipeline)
    if data < 1:
        raise Refused("count", f"--tp {tensor} x --pp {pipeline} needs more than {gpus} GPUs")
    if expert > 1 and (
        data % expert or not (model.shape and model.shape.experts % expert == 0 and model.shape.experts)
    ):
        raise Refused("count", f"--ep {expert} divides neither the {data} data ranks nor the experts evenly")
    return Layout(tensor, pipeline, data, expert, given.get("zero") or 0)


def _bought(model: Model | None, corpus: Corpus | None, asked: Asked) -> tuple[Model, Corpus]:
    """What the budget buys at the expected cost; the bands depend on the size, so the answer is taken twice."""
    params = model.active_params if model else 10**11
    for _ in range(2):
        tried = asked._replace(
            model=model or Model(params, params, None, ""), corpus=corpus or Corpus(20 * params), convention="6nd"
        )
        if model is None and corpus is not None:  # any size in range will do: cost is proportional to it
            params = corpus.num_tokens // 20
            tried = tried._replace(model=Model(params, params, None, ""))
        found = estimate(tried)
        if found.cost_usd is None or found.cost_usd.mid <= 0:
            raise UsageError(f"--budget needs a price of {found.gpu.name} above 0", hint="give --price LOW:MID:HIGH")
        flops = (asked.budget_usd or 0.0) / found.cost_usd.mid * found.flops_6nd
        if model is None:
            params = round(flops / 6 / corpus.num_tokens if corpus else BESIROGLU.optimum(flops)[0])
    return (
        model or Model(params, params, None, ""),
        corpus or Corpus(max(1, round(flops / 6 / (model.active_params if model else params)))),
    )


def _one_of(kind: str, value: str, valid: tuple[Any, ...]) -> Any:
    if value not in valid:
        raise unknown(kind, value, valid)
    return value
