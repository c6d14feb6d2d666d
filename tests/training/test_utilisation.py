"""MFU: the convention, the peak, and what metrics.jsonl says."""

from __future__ import annotations

import pytest

from ptool.cli.peaks import row_of
from ptool.costing.tables import gpus
from ptool.models.config import load_size, size_names
from ptool.training.utilisation import flops_per_token


@pytest.mark.parametrize("name", size_names())
def test_operations_are_six_per_multiplied_parameter_and_twelve_for_every_score(name: str) -> None:
    model = load_size(name).model
    looked_up = 0 if model.tie_embeddings else model.vocab_size * model.hidden
    expected = 6 * (model.num_parameters() - looked_up) + 12 * model.layers * model.hidden * 2048
    assert flops_per_token(model, 2048) == expected


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090", None),
        ("Tesla V100-SXM2-32GB", None),
    ],
)
def test_a_gpu_has_the_peak_of_its_row_or_none(name: str, row: str | None) -> None:
    assert row_of(name) == row
    assert row is None or row in gpus()
