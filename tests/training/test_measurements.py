"""Validation by source, layer statistics and the place of a NaN, on every ZeRO stage and on one rank and two."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ptool.formats.packed import PackedDataset
from ptool.formats.packed_writer import write_packed
from ptool.models.config import ModelConfig
from ptool.models.decoder import Decoder
from ptool.training.evidence import first_of
from ptool.training.layers import layers_of
from ptool.training.nonfinite import Watcher
from ptool.training.sources import target_sources
from ptool.training.validation import Measure, Validation, ValidationRecord, evenly
from tests.training import tiny

SHAPE = ModelConfig(vocab_size=tiny.VOCAB, layers=2, hidden=32, heads=2, max_seq_len=tiny.SEQ_LEN, tie_embeddings=False)
ROWS = 8  # of a micro-batch of all ranks


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    folder = tmp_path_factory.mktemp("measured") / "packed"
    documents = [*tiny.documents(80), ("plain-1", None, 99, [3, 4, 5, 6, 0]), ("plain-8", None, 99, [9, 4, 0])]
    held = lambda name: name.endswith(("1", "4", "8"))  # noqa: E731
    write_packed(folder, documents, seq_len=tiny.SEQ_LEN, vocab_size=tiny.VOCAB, eod_id=0, holdout=held)
    return PackedDataset.open(folder)


@pytest.fixture(scope="module")
def measured(dataset: PackedDataset) -> dict[int, list[dict[str, Any]]]:
    """What one rank and two ranks print, by their number."""
    return {size: measure(dataset.folder, size) for size in (1, 2)}


def measure(folder: Path, size: int) -> list[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    script = Path(__file__).with_name("measured_stages.py")
    env = tiny.environment() | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(size), port, str(folder)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * size, said
    *reports, groups = [json.loads(line) for line in said[0][0].splitlines() if line.startswith("{")]
    assert groups["groups"] > 1
    assert groups["limits"] == [60.0], "ZeRO's own groups wait no longer than the run was told to"
    return reports


def tensors(rows: Any) -> list[torch.Tensor]:
    return [torch.as_tensor(getattr(rows, name)) for name in ("tokens", "positions", "segments", "targets")]


def test_the_held_out_loss_of_every_source_is_that_of_a_plain_sum_on_any_number_of_ranks(
    dataset: PackedDataset, measured: dict[int, list[dict[str, Any]]]
) -> None:
    model = Decoder(SHAPE, seed=0).eval()
    rows = dataset.holdout.rows(np.arange(dataset.holdout.num_rows))
    losses = model.token_losses(*tensors(rows)).double().numpy()
    sums: dict[str, list[float]] = {}
    for row in range(dataset.holdout.num_rows):
        pieces = dataset.holdout.pieces_in(row)
        for column in np.flatnonzero(rows.targets[row] >= 0).tolist():
            after = [p for p in pieces if p.start <= column + 1 < p.start + p.length] or pieces[-1:]
            sums.setdefault(after[0].source or "-", []).append(losses[row, column])
    assert set(sums) == {"source-0", "source-1", "-"}
    for reports in measured.values():
        for report in reports:
            close = 1e-6 if report["precision"] == "fp32" else 1e-2
            for name, parts in sums.items():
                loss, count = report["sources"][name]
                assert (count, loss) == (len(parts), pytest.approx(np.mean(parts), rel=close))
            everything = [loss for parts in sums.values() for loss in parts]
            assert report["loss"] == pytest.approx(np.mean(everything), rel=close)
            assert report["cut_short"], "a stop signal on one rank ends it on all"


def test_layer_norms_and_activations_are_those_of_plain_torch_on_every_stage(
    dataset: PackedDataset, measured: dict[int, list[dict[str, Any]]]
) -> None:
    model = Decoder(SHAPE, seed=0)
    outputs: dict[str, torch.Tensor] = {}
    for name, layer in layers_of(model).items():
        layer.register_forward_hook(
            lambda module, given, output, name=name: (
                outputs.update({name: output.detach()}) if output.dim() > 1 else None
            )
        )
    loss_sum, _ = model(*tensors(dataset.train.rows(np.arange(ROWS))))
    (loss_sum / 100.0).backward()
    norms = {
        name: math.sqrt(sum(float(p.grad.double().square().sum()) for p in layer.parameters() if p.grad is not None))
        for name, layer in layers_of(model).items()
    }
    assert set(norms) == {"embedding", "layers.0", "layers.1", "norm", "head"}
    for size, reports in measured.items():
        assert [(r["zero"], r["precision"]) for r in reports] == [
            (0, "fp32"),
            (1, "fp32"),
            (2, "fp32"),
            (3, "fp32"),
            (1, "bf16"),
        ]
        for report in reports:
            close = 1e-4 if report["precision"] == "fp32" else 3e-2
            record = report["layers"]
            total = math.sqrt(sum(norm**2 for norm in record["gradient_norm"].values()))
            assert total == pytest.approx(report["norm"], rel=close), "they add up to the norm of the step"
            for name, norm in norms.items():
                assert record["gradient_norm"][name] * size == pytest.approx(norm, rel=close), (size, report["zero"])
            for name, output in outputs.items():
                rms = float(output.double().square().mean().sqrt())
                assert record["activation_rms"][name] == pytest.approx(rms, rel=close)
                assert record["activation_max"][name] == pytest.approx(float(output.abs().max()), rel=close)


def test_the_first_module_with_an_infinity_is_named_with_its_rank(measured: dict[int, list[dict[str, Any]]]) -> None:
    for size, reports in measured.items():
        for report in reports:
            assert "in the forward pass of layers.1.feed_forward.down" in report["not_finite"]
            assert f"(rank {size - 1} on h, micro-batch 1): its inputs and weights are finite" in report["not_finite"]


def watched(model: Decoder, dataset: PackedDataset, loss_factor: float = 1.0) -> str:
    watcher = Watcher(model, rank=0, host="h")
    hooks = num_hooks(model)
    with watcher.watched():
        loss_sum, _ = model(*tensors(dataset.train.rows(np.arange(2))))
        loss_sum = loss_sum * loss_factor
        watcher.note_loss(float(loss_sum.detach()), 0)
        loss_sum.backward()
    assert num_hooks(model) == hooks, "the watcher's are gone"
    return first_of([watcher.finding])


def test_spoilt_weights_are_seen_where_a_hook_takes_them_away_as_zero_3_does(dataset: PackedDataset) -> None:
    def take_away(module: nn.Module, given: Any, output: Any) -> None:
        module.weight.data = torch.empty(0)

    model = Decoder(SHAPE, seed=0)
    norm = model.get_submodule("layers.1.attention_norm")
    norm.weight.data[3] = math.nan
    norm.register_forward_hook(take_away)
    watcher = Watcher(model, rank=0, host="h")
    with watcher.watched(), torch.no_grad():
        model(*tensors(dataset.train.rows(np.arange(2))))
    assert norm.weight.numel() == 0
    assert watcher.finding is not None
    assert (watcher.finding.module, watcher.finding.because) == (
        "layers.1.attention_norm",
        "its weights are not finite",
    )


def num_hooks(model: Decoder) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_weights_losses_and_backward_passes_that_are_not_finite_are_told_apart(dataset: PackedDataset) -> None:
    assert "all finite" in watched(Decoder(SHAPE, seed=0), dataset)
    spoilt = Decoder(SHAPE, seed=0)
    with torch.no_grad():
        spoilt.layers[1].attention_norm.weight[3] = math.nan
    assert "layers.1.attention_norm (rank 0 on h, micro-batch 1): its weights are not finite" in watched(
        spoilt, dataset
    )
    assert "1 NaN of 1 in the loss" in watched(Decoder(SHAPE, seed=0), dataset, math.nan)
    steep = Decoder(SHAPE, seed=0)
    plain = steep.layers[1]._both
    steep.layers[1]._both = lambda hidden, where: Overflow.apply(plain(hidden, where))
    told = watched(steep, dataset)
    assert "in the backward pass of layers.1.feed_forward" in told
    assert "from the loss backwards" in told


class Overflow(torch.autograd.Function):
    """Finite forwards, not finite backwards."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf


def test_the_same_rows_are_measured_every_time_and_a_budget_spreads_them_over_the_split(dataset: PackedDataset) -> None:
    assert evenly(10, 100).tolist() == list(range(10))
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
    few = Validation([dataset], tokens=2 * tiny.SEQ_LEN, tokens_per_forward=96, rank=0, ranks=1)
    assert few.num_rows == 2
    every = [target_sources(dataset.holdout, row, tiny.SEQ_LEN, ["-", "source-0", "source-1"]) for row in range(3)]
    assert all(len(sources) == tiny.SEQ_LEN for sources in every)


def test_the_loss_that_picks_the_best_is_of_one_source_or_of_all():
    sources = {"web": Measure(loss=2.0, num_targets=30), "code": Measure(loss=1.0, num_targets=10)}
    record = ValidationRecord(step=1, tokens=2, loss=1.75, num_targets=40, sources=sources, seconds=0.1, attempt=1)
    assert [record.loss_of(name) for name in ("", "web", "code", "books")] == [1.75, 2.0, 1.0, None]
