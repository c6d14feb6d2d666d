"""What packing is for: in the model, no document sees another, however they are packed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ptool.formats.packed import PackedDataset
from ptool.models.config import ModelConfig
from ptool.models.decoder import Decoder
from ptool.packing.config import PackConfig
from ptool.packing.run import pack
from tests.packing.test_pack import EOD, token_folder

DOCUMENTS = [[3 + (7 * size + at) % 50 for at in range(2 + size % 11)] + [EOD] for size in range(24)]
MODEL = ModelConfig(vocab_size=100, layers=2, hidden=24, heads=2, kv_heads=2, ffn_hidden=40, max_seq_len=32)


@pytest.mark.parametrize("strategy", ["concat", "best-fit", "pad"])
def test_no_gradient_crosses_a_boundary_and_every_packing_gives_a_document_the_same_loss(
    tmp_path: Path, strategy
) -> None:
    tokens = token_folder(tmp_path / "tok", DOCUMENTS)
    pack(tokens, tmp_path / "p", PackConfig(seq_len=32, strategy=strategy, holdout=0))
    split = PackedDataset.open(tmp_path / "p").train
    rows = split.rows(range(split.num_rows))
    torch.manual_seed(0)
    model = Decoder(MODEL)
    embedded: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, given: object, output: object) -> None:
        if not embedded and isinstance(output, torch.Tensor) and output.requires_grad:
            output.retain_grad()
            embedded.append(output)

    for module in model.modules():
        module.register_forward_hook(keep)
    arrays = [torch.from_numpy(np.ascontiguousarray(part)) for part in (rows.tokens, rows.positions, rows.segments)]
    crossed = 0
    for segment in range(int(rows.segments.max()) + 1):
        embedded.clear()
        targets = np.where(rows.segments == segment, rows.targets, -100)
        loss, _ = model(*arrays, torch.from_numpy(targets))
        loss.backward()
        assert embedded[0].grad is not None
        reached = embedded[0].grad.abs().sum(dim=-1).numpy() > 0
        assert not reached[rows.segments != segment].any()
        crossed += int(reached.sum())
    assert crossed > 100, "inside a segment the gradient does flow"

    embedded.clear()
    losses = model.token_losses(*arrays, torch.from_numpy(rows.targets)).numpy()
    found = {}
    for row in range(split.num_rows):
        for name, start, length in split.documents_in(row):
            document = DOCUMENTS[int(name.split()[1])]
            # From EOD a document's first token is predicted too, so a text that is whole is compared without it.
            if length == len(document):
                found[name] = losses[row, start : start + length - 1]
    assert len(found) > len(DOCUMENTS) // 2
    alone_tokens = token_folder(tmp_path / "alone", DOCUMENTS)
    pack(alone_tokens, tmp_path / "q", PackConfig(seq_len=32, strategy="pad", holdout=0))
    alone = PackedDataset.open(tmp_path / "q").train
    single = alone.rows(range(alone.num_rows))
    parts = [
        torch.from_numpy(np.ascontiguousarray(part)) for part in (single.tokens, single.positions, single.segments)
    ]
    expected = model.token_losses(*parts, torch.from_numpy(single.targets)).numpy()
    first_in_row = {split.documents_in(row)[0][0] for row in range(split.num_rows) if split.documents_in(row)}
    for row in range(alone.num_rows):
        ((name, _, length),) = alone.documents_in(row)
        if name in found and name in first_in_row:
            assert np.allclose(found[name], expected[row, : length - 1], atol=1e-5)
