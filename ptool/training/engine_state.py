"""Everything an engine would lose with its process, by parameter and never by rank: what checkpoints and anchors hold.

ZeRO cuts the fp32 masters and the optimiser's moments into flat partitions, one way at stage 1 and 2 and another at
stage 3. Here each partition is described by the stretches of parameters that lie in it, so that this rank's share can
be written, and any rank of any number of ranks at any stage can fill its own partitions from all shares:

    stage 0     whole parameters, the same on every rank: each rank writes some of them
    stage 1, 2  the group's parameters behind one another, cut in as many equal partitions as there are ranks
    stage 3     every parameter cut in as many equal parts; a partition is this rank's parts behind one another

Padding is not written. The weights that the forward pass uses are made from the masters again after filling. State
that belongs to single elements (Adam's moments) or that is one number per parameter (the step) moves freely; state of
another shape (8-bit blocks) belongs to the partition it was made for and goes back into the same one only.

This file knows the attributes in which DeepSpeed 0.19 keeps all that, and does not import it. Not here: offloading.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ptool.errors import InputError
from ptool.formats.checkpoints import KINDS, MOMENTS, WEIGHTS
from ptool.models.tensor_files import Tensors, key_of


class Stretch(NamedTuple):
    """`length` elements of the flattened parameter `name`, from `start` on, at `offset` of a partition."""

    name: str
    start: int
    offset: int
    length: int


class Partition:
    """A tensor that the optimiser updates, and which parameters lie in it. `shape`: of the one whole parameter."""

    def __init__(
        self, master: Tensor, stretches: list[Stretch], *, fused: bool, shape: torch.Size | None = None
    ) -> None:
        self.master = master
        self.stretches = stretches
        self.fused = fused
        self.shape = shape

    def flat(self, tensor: Tensor, stretch: Stretch) -> Tensor:
        """The elements of `tensor`, laid out as the master is, that belong to a stretch; a view."""
        return tensor.detach().view(-1)[stretch.offset : stretch.offset + stretch.length]


class EngineState:
    """What one rank holds of the state of a DeepSpeed engine around one of our optimisers."""

    def __init__(self, engine: Any, optimizer: torch.optim.Optimizer, zero: int) -> None:
        self._wrapper = engine.optimizer
        self._optimizer = optimizer
        self._zero = zero
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
        self._shapes = {
            name: torch.Size(getattr(parameter, "ds_shape", parameter.shape))
            for name, parameter in engine.module.named_parameters()
        }
        self._partitions = list(self._whole(names) if zero == 0 else self._cut(names))
        count = range(len(self._partitions))
        largest_first = sorted(count, key=lambda number: (-self._partitions[number].master.numel(), number))
        self._owner = {number: place % self._ranks for place, number in enumerate(largest_first)}
        self._mine = {number for number in count if zero > 0 or self._owner[number] == self._rank}

    def held(self) -> dict[str, dict[str, Tensor]]:
        """What this rank writes: for each kind of file, tensors by key; views of the live ones where they can be.

        Together the ranks hold every element once.
        """
        weights: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        for number in sorted(self._mine):
            partition = self._partitions[number]
            for stretch in partition.stretches:
                weights[self._key(stretch)] = self._shaped(partition.flat(partition.master, stretch), stretch)
            for kind, value in self._optimizer.state.get(partition.master, {}).items():
                moments.update(self._held_state(number, partition, kind, value))
        return dict(zip(KINDS, (weights, moments), strict=True))

    def numbers(self) -> dict[str, Tensor]:
        """Copies of the single numbers of this rank's partitions (steps), as `<name>/<partition>`: for `put_back`.

        `held` has each of them once for all ranks, so a rank may not find its own there.
        """
        found = {}
        for number in sorted(self._mine):
            for kind, value in self._optimizer.state.get(self._partitions[number].master, {}).items():
                scalar = _as_tensor(value)
                if scalar.dim() == 0:
                    found[f"{kind}/{number}"] = scalar.detach().cpu().clone()
        return found

    def read(self, weights: Tensors, moments: Tensors, *, same_layout: bool) -> None:
        """Take this rank's share of what all ranks together wrote; `make_weights` follows, when every rank has it.

        `same_layout`: it was written at this stage by as many ranks. Raises DamagedInput where something is missing,
        InputError where it is of another model or cannot be cut anew.
        """
        self._check_names(weights)
        self._read_some(range(len(self._partitions)), weights, moments, same_layout=same_layout)

    def put_back(self, held: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, Tensor]) -> None:
        """Take back copies of `held` and `numbers` of this engine; collective: at stage 0 ranks tell one another."""
        weights, moments = Tensors(held[WEIGHTS]), Tensors(held[MOMENTS])
        self._read_some(sorted(self._mine), weights, moments, same_layout=True, own=numbers)
        if self._zero == 0 and self._ranks > 1:
            for number, partition in enumerate(self._partitions):
                self._broadcast(partition, owner=self._owner[number])
        self.make_weights()

    @torch.no_grad()
    def make_weights(self) -> None:
        """Make the weights of the forward pass from the masters; collective."""
        wrapper = self._wrapper
        if self._zero == 3:
            for number, flat in enumerate(wrapper.fp16_partitioned_groups_flat):
                flat.data.copy_(wrapper.fp32_partitioned_groups_flat[number].data)
                wrapper._unflatten_partitioned_parameters(number)
            wrapper.checkpoint_event_epilogue()
        elif self._zero > 0:
            wrapper.update_lp_params()

    def _read_some(
        self,
        numbers: Iterable[int],
        weights: Tensors,
        moments: Tensors,
        *,
        same_layout: bool,
        own: Mapping[str, Tensor] | None = None,
    ) -> None:
        kinds = {name.partition("/")[0] for name in (*moments.names, *(own or {}))}
        if self._zero == 3:
            self._wrapper.checkpoint_event_prologue()
        with torch.no_grad():
            for number in numbers:
                partition = self._partitions[number]
                for stretch in partition.stretches:
                    _fill(weights, stretch.name, stretch.start, partition.flat(partition.master, stretch))
                scalars = None
                if own is not None:
                    scalars = {kind: own[f"{kind}/{number}"] for kind in kinds if f"{kind}/{number}" in own}
                self._read_state(number, moments, kinds, scalars, same_layout=same_layout)

    def _broadcast(self, partition: Partition, owner: int) -> None:
        """A whole parameter and its state, from the rank that kept them."""
        state = self._optimizer.state.get(partition.master, {})
        device = partition.master.device
        with torch.no_grad():
            dist.broadcast(partition.master.detach(), src=owner)
            for kind in sorted(state):
                value = state[kind]
                sent = value.detach().to(device) if isinstance(value, Tensor) else torch.tensor(value, device=device)
                dist.broadcast(sent, src=owner)
                if not isinstance(value, Tensor):
                    state[kind] = sent.item()
                elif value.device != device:
                    value.copy_(sent)

    def _whole(self, names: Mapping[int, str]) -> Iterator[Partition]:
        for group in self._optimizer.param_groups:
            for master in group["params"]:
                name = names[id(master)]
                whole = Stretch(name, 0, 0, master.numel())
                yield Partition(master, [whole], fused=_is_fused(group), shape=self._shapes[name])

    def _cut(self, names: Mapping[int, str]) -> Iterator[Partition]:
        wrapper, groups = self._wrapper, self._optimizer.param_groups
        if self._zero == 3:
            for number, parameters in enumerate(wrapper.fp16_groups):
                group = groups[wrapper.sub_group_to_group_id[number]]
                stretches = _parts_of_each(parameters, names, self._rank)
                yield Partition(wrapper.fp32_partitioned_groups_flat[number], stretches, fused=_is_fused(group))
            return
        if hasattr(wrapper, "fp32_groups_flat_partition"):  # stage 1 in bf16 with fp32 accumulation
            flats, rows = wrapper.fp32_groups_flat_partition, wrapper.bf16_groups
            offsets = [_running([parameter.numel() for parameter in row]) for row in rows]
        else:
            flats, rows = wrapper.single_partition_of_fp32_groups, wrapper.round_robin_bit16_groups
            offsets = wrapper.round_robin_bit16_offsets
        for flat, parameters, starts, group in zip(flats, rows, offsets, groups, strict=True):
            stretches = _part_of_row(parameters, starts, names, first=self._rank * flat.numel(), length=flat.numel())
            yield Partition(flat, stretches, fused=_is_fused(group))

    def _key(self, stretch: Stretch, kind: str | None = None) -> str:
        name = stretch.name if kind is None else f"{kind}/{stretch.name}"
        whole = stretch.length == self._shapes[stretch.name].numel()
        return key_of(name, None if whole else stretch.start)

    def _shaped(self, elements: Tensor, stretch: Stretch) -> Tensor:
        shape = self._shapes[stretch.name]
        return elements.view(shape) if stretch.length == shape.numel() else elements

    def _held_state(self, number: int, partition: Partition, kind: str, value: Any) -> Iterator[tuple[str, Tensor]]:
        value = _as_tensor(value)
        if value.dim() == 0:
            yield from ((f"{kind}/{stretch.name}", value) for stretch in partition.stretches if stretch.start == 0)
        elif value.numel() == partition.master.numel():
            for stretch in partition.stretches:
                yield self._key(stretch, kind), self._shaped(partition.flat(value, stretch), stretch)
        elif partition.shape is not None:
            yield f"{kind}/{partition.stretches[0].name}", value
        else:
            yield f"{kind}/{_own_name(number, self._rank)}", value

    def _read_state(
        self, number: int, moments: Tensors, kinds: set[str], scalars: Mapping[str, Tensor] | None, *, same_layout: bool
    ) -> None:
        """The optimiser's state of one partition; `scalars` are its single numbers, None: as `moments` has them."""
        partition = self._partitions[number]
        if not partition.stretches:  # padding alone, where a group has less than the ranks would share: nobody's state
            self._optimizer.state.pop(partition.master, None)
            return
        state = self._optimizer.state[partition.master]
        own = _own_name(number, self._rank)
        for kind in set(state) - kinds:  # saved before the first step: as new
            state[kind] = _as_new(state[kind])
        for kind in sorted(kinds):
            if scalars is not None and kind in scalars:
                state[kind] = self._number(partition, scalars[kind], state.get(kind))
                continue
            if any(name.startswith(f"{kind}//") for name in moments.names):
                if not same_layout:
                    raise InputError(
                        f"the optimiser's {kind} was made for the parts of another number of ranks or ZeRO stage",
                        hint="go on with as many ranks and the stage it was saved with",
                    )
                state.pop(kind, None)
                if f"{kind}/{own}" in moments.names:  # a partition too small for blocks has none
                    state[kind] = moments.whole(f"{kind}/{own}").clone().to(partition.master.device)
                continue
            names = [stretch.name for stretch in partition.stretches if f"{kind}/{stretch.name}" in moments.names]
            if not names:
                state.pop(kind, None)
            elif moments.shape(f"{kind}/{names[0]}") == ():
                state[kind] = self._number(partition, _common(moments, kind, partition), state.get(kind))
            elif self._is_irregular(moments.shape(f"{kind}/{names[0]}"), names[0]):
                state[kind] = moments.whole(f"{kind}/{names[0]}").clone().to(partition.master.device)
            else:
                if not isinstance(state.get(kind), Tensor):
                    state[kind] = torch.zeros_like(partition.master, dtype=moments.dtype(f"{kind}/{names[0]}"))
                for stretch in partition.stretches:
                    _fill(moments, f"{kind}/{stretch.name}", stretch.start, partition.flat(state[kind], stretch))
        if not state:
            del self._optimizer.state[partition.master]

    def _is_irregular(self, shape: tuple[int, ...] | None, name: str) -> bool:
        """Whether state of a whole parameter does not belong to its elements: means of rows and columns."""
        return shape is not None and torch.Size(shape).numel() != self._shapes[name].numel()

    def _number(self, partition: Partition, value: Tensor, old: Any) -> Any:
        """A single number as the optimiser keeps it: a Python number, or a tensor where its kernels look for it."""
        if value.dtype in (torch.int64, torch.float64):
            return value.item()
        device = partition.master.device if partition.fused else torch.device("cpu")
        return value.clone().to(old.device if isinstance(old, Tensor) else device)

    def _check_names(self, weights: Tensors) -> None:
        missing, unknown = self._shapes.keys() - weights.names, weights.names - self._shapes.keys()
        for text, names in (("lacks", missing), ("holds the unknown", unknown)):
            if names:
                raise InputError(f"a checkpoint of another model: it {text} {min(names)}")
        for name, shape in self._shapes.items():
            if weights.size(name) != shape.numel() or weights.shape(name) not in (None, tuple(shape)):
                raise InputError(f"a checkpoint of another model: {name} is not of shape {list(shape)}")


def _part_of_row(
    parameters: list[Tensor], starts: list[int], names: Mapping[int, str], *, first: int, length: int
) -> list[Stretch]:
    """What of parameters that lie behind one another falls into [first, first + length) of the row."""
    found = []
    for parameter, start in zip(parameters, starts, strict=True):
        low, high = max(start, first), min(start + parameter.numel(), first + length)
        if low < high:
            found.append(Stretch(names[id(parameter)], low - start, low - first, high - low))
    return found


def _parts_of_each(parameters: list[Any], names: Mapping[int, str], rank: int) -> list[Stretch]:
    """A rank's part of each parameter, where each is cut by itself."""
    found, offset = [], 0
    for parameter in parameters:
        part: int = parameter.partition_numel()
        length = min(part, parameter.ds_numel - rank * part)
        if length > 0:
            found.append(Stretch(names[id(parameter)], rank * part, offset, length))
        offset += part
    return found


def _fill(tensors: Tensors, name: str, start: int, target: Tensor) -> None:
    if target.device.type == "cpu":
        tensors.fill(name, start, target)
        return
    staged = torch.empty(target.shape, dtype=target.dtype)
    tensors.fill(name, start, staged)
    target.copy_(staged)


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def _common(moments: Tensors, kind: str, partition: Partition) -> Tensor:
    """The one number of all parameters that lie in a partition."""
    found = [moments.whole(f"{kind}/{stretch.name}") for stretch in partition.stretches]
    if any(not torch.equal(found[0], other) for other in found):
        raise InputError(f"parameters of one partition differ in {kind}", hint="resume at ZeRO stage 0")
    return found[0]


def _as_new(value: Any) -> Any:
    return value.zero_() if isinstance(value, Tensor) else type(value)(0)


def _own_name(number: int, rank: int) -> str:
    """The name of state that belongs to a partition as a whole; no parameter's name begins with a slash."""
    return f"/{number}.{rank}"


def _is_fused(group: Mapping[str, Any]) -> bool:
    return bool(group.get("fused") or group.get("capturable"))


def _running(counts: list[int]) -> list[int]:
    starts, total = [], 0
    for count in counts:
        starts.append(total)
        total += count
    return starts
