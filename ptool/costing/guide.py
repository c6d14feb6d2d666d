"""`ptool plan --guide`: six questions in the order in which their answers depend on one another, and what follows.

    deployment      where it runs and how many GPUs: sets the cluster
    budget, data    dollars and tokens: set the model's size
    interconnect    the node and its links: set how far tensor parallelism may reach
    memory          the GPU: sets ZeRO, tensor and pipeline parallelism
    data quality    unique tokens and what was done to them: says how often they may be repeated
    recovery        storage and failures: set the checkpoint interval

An answer comes from an option, else from the person, where both stdin and stderr are terminals, else from the default;
each is shown with where it came from. This module asks nothing itself: it is given a function that does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ptool.costing.layouts import Planned, Wanted, plan
from ptool.costing.memory import Setting
from ptool.costing.planreport import layout_name
from ptool.costing.recovery import GPU_MTBF_SECONDS, STORAGE_BYTES_PER_SECOND, recovery
from ptool.costing.request import build_request, parse_money
from ptool.costing.shapes import named_shape, sizes
from ptool.costing.tables import find_gpu
from ptool.costing.traffic import Cluster
from ptool.errors import UsageError
from ptool.units import (
    format_bytes,
    format_count,
    format_duration,
    format_money,
    parse_bytes,
    parse_count,
    parse_duration,
)

Ask = Callable[[str, str], str]
"""Question and default -> what the person typed, "" for the default."""

NO_REPEAT_LOSS = 4  # epochs that cost next to nothing (Muennighoff et al. 2023, arXiv 2305.16264)


class Answer(NamedTuple):
    """One question: what was answered, from where, and what follows from it."""

    topic: str
    question: str
    answer: str
    origin: str  # "option", "person", "default"
    follows: tuple[str, ...]


class _Field(NamedTuple):
    name: str
    question: str
    default: str
    parse: Callable[[str], Any]


def _yes(text: str) -> bool:
    if text.lower() not in ("yes", "y", "no", "n"):
        raise UsageError(f"'{text}' is neither yes nor no")
    return text.lower().startswith("y")


_FIELDS = {
    "gpus": _Field("gpus", "How many GPUs", "64", parse_count),
    "gpu": _Field("gpu", "Which GPU", "h100-sxm", lambda text: find_gpu(text).name),
    "budget": _Field("budget", "Dollars for the run", "100K", parse_money),
    "gpus_per_node": _Field("gpus_per_node", "GPUs in a node", "8", parse_count),
    "network": _Field("network", "Network per GPU, bytes a second one way", "", parse_bytes),
    "seq": _Field("seq", "Tokens in a row", "4096", parse_count),
    "unique_tokens": _Field("unique_tokens", "Unique tokens after filtering", "", parse_count),
    "deduplicated": _Field("deduplicated", "Filtered and deduplicated (yes, no)", "no", _yes),
    "storage_rate": _Field("storage_rate", "Storage, bytes a second", "20GB", parse_bytes),
    "gpu_mtbf": _Field("gpu_mtbf", "Time between failures of one GPU", "50700h", parse_duration),
}


class Guided(NamedTuple):
    """The six answers and the layout that they lead to."""

    answers: tuple[Answer, ...]
    planned: Planned
    size: str


def guide(given: dict[str, Any], ask: Ask | None = None) -> Guided:
    """Go through the six questions. `given` holds options by name; `ask` is None where nobody can be asked."""
    if given.get("config") or given.get("arch"):
        raise UsageError("--guide plans a named size", hint="leave out --config and --arch, or leave out --guide")
    answered = _Answers(given, ask)
    deployment = answered.take("deployment", "gpus", "gpu")
    gpu, gpus = find_gpu(answered.values["gpu"]), int(answered.values["gpus"])
    if gpus < 1:
        raise UsageError("--gpus must be at least 1")
    money = answered.take("budget and data", "budget")
    size, tokens, bought = _size(answered.values, given)
    links = answered.take("interconnect", "gpus_per_node", "network")
    per_node = int(answered.values["gpus_per_node"])
    network = float(answered.values["network"] or gpu.network_bytes)
    memory = answered.take("memory", "seq")
    cluster = Cluster(gpu, gpus, max(1, per_node), float(given.get("link") or gpu.link_bytes), network)
    shape = named_shape(size)
    setting = Setting(seq_len=int(answered.values["seq"]))
    wanted = Wanted(shape, cluster, setting, int(given.get("batch_tokens") or _batch(size)), {})
    planned = plan(wanted)
    quality = answered.take("data quality", "unique_tokens", "deduplicated")
    storage = answered.take("recovery", "storage_rate", "gpu_mtbf")
    answers = (
        deployment._replace(follows=_deployment(gpus, per_node)),
        money._replace(follows=bought),
        links._replace(follows=_links(cluster)),
        memory._replace(follows=_memory(planned)),
        quality._replace(follows=_quality(answered.values, tokens)),
        storage._replace(follows=_recovery(answered.values, shape.num_parameters(), gpus)),
    )
    return Guided(answers, planned, size)


def as_text(found: Guided) -> str:
    """The questions and answers for people."""
    lines = []
    for number, one in enumerate(found.answers, 1):
        lines += [f"{number}. {one.topic}: {one.question}", f"   {one.answer} ({one.origin})"]
        lines += [f"   -> {line}" for line in one.follows]
    return "\n".join(lines)


class _Answers:
    """Takes each field from the options, the person, or the default."""

    def __init__(self, given: dict[str, Any], ask: Ask | None) -> None:
        self._given, self._ask = given, ask
        self.values: dict[str, Any] = {}

    def take(self, topic: str, *names: str) -> Answer:
        questions, shown, origins = [], [], []
        for name in names:
            field = _FIELDS[name]
            text, origin = "", "default"
            if self._given.get(name) is not None:
                self.values[name], origin = self._given[name], "option"
                text = str(self._given[name])
            else:
                typed = self._ask(field.question, field.default) if self._ask else ""
                text, origin = (typed, "person") if typed else (field.default, "default")
                self.values[name] = field.parse(text) if text else None
            questions.append(field.question.lower())
            shown.append(f"{name.replace('_', '-')} {text or 'as usual'}")
            origins.append(origin)
        return Answer(topic, ", ".join(questions), ", ".join(shown), ", ".join(dict.fromkeys(origins)), ())


def _size(values: dict[str, Any], given: dict[str, Any]) -> tuple[str, int, tuple[str, ...]]:
    """The named size nearest to what the budget is best spent on, or the asked one; and what tokens are left for it."""
    asked = build_request({"gpu": values["gpu"], "budget": values["budget"], "tokens": given.get("tokens")})
    best = asked.params
    name = given.get("model") or min(sizes(), key=lambda size: abs(_log(named_shape(size).num_parameters() / best)))
    with_size = {"gpu": values["gpu"], "budget": values["budget"], "model": name}
    affordable = build_request(with_size).num_tokens
    tokens = int(given.get("tokens") or affordable)
    money = format_money(float(values["budget"]))
    lines = (
        f"{money} is best spent on {format_count(best)} parameters and {format_count(asked.num_tokens)} tokens",
        f"model {name}: it can pay for {format_count(affordable)} tokens; planned with {format_count(tokens)}",
    )
    return name, tokens, lines


def _log(ratio: float) -> float:
    from math import log

    return log(ratio)


def _batch(size: str) -> int:
    from ptool.costing.shapes import step_tokens

    return step_tokens(size)


def _deployment(gpus: int, per_node: int) -> tuple[str, ...]:
    if gpus <= per_node:
        return ("one node: `ptool train` starts its ranks itself",)
    nodes = -(-gpus // max(1, per_node))
    return (f"{nodes} nodes: start it with srun or torchrun, one process a GPU; a job script requeues on exit 75",)


def _links(cluster: Cluster) -> tuple[str, ...]:
    ratio = cluster.link / cluster.network
    return (
        f"tensor parallelism up to {cluster.gpus_per_node}: the node's links are {ratio:.0f}x the network",
        "pipeline and data parallelism may cross nodes: they send less often",
    )


def _memory(planned: Planned) -> tuple[str, ...]:
    if not planned.best:
        return ("no layout fits: more GPUs, a larger GPU, or a smaller model",)
    best = planned.best[0]
    assert best.memory is not None
    sizes_of = f"{format_bytes(best.memory.total)} a GPU, recompute {best.setting.recompute}"
    return (f"{layout_name(best)}: the lowest stage that fits ({sizes_of})",)


def _quality(values: dict[str, Any], tokens: int) -> tuple[str, ...]:
    lines = []
    if not values["deduplicated"]:
        lines.append("filter and deduplicate first: `ptool filter --preset gopher-quality | ptool dedup`")
    unique = values["unique_tokens"]
    if unique:
        epochs = tokens / unique
        verdict = "next to no loss" if epochs <= NO_REPEAT_LOSS else "less and less gain: more data or a smaller run"
        lines.append(f"{epochs:.2g} passes over the data: up to about {NO_REPEAT_LOSS} cost little; {verdict}")
    return (*lines, "hold some documents out, and look at bits per byte by source (`ptool eval`)")


def _recovery(values: dict[str, Any], params: int, gpus: int) -> tuple[str, ...]:
    found = recovery(
        params,
        gpus,
        gpu_mtbf_seconds=float(values["gpu_mtbf"] or GPU_MTBF_SECONDS),
        storage_rate=float(values["storage_rate"] or STORAGE_BYTES_PER_SECOND),
    )
    size, takes = format_bytes(found.checkpoint_bytes), format_duration(found.save_seconds)
    return (
        f"a failure every {format_duration(found.mtbf_seconds)}; a checkpoint of {size} takes {takes}",
        f"save every {format_duration(found.daly_seconds)} (Young/Daly): {found.overhead:.1%} of the time is lost",
    )
