"""muP: what one step of Adam does to the logits does not depend on the width (the coordinate check of the paper)."""

import math

import msgspec
import pytest
import torch

from ptool.models.config import ModelConfig
from ptool.models.decoder import Decoder
from ptool.models.mup import attention_scale, is_hidden_matrix, learning_rate_factor, spread_factor, width_ratio
from tests.models.batches import packed_batch
from tests.models.variants import EVERYTHING

BASE, WIDE = 32, 512


def shape(hidden: int, base: int | None, **change) -> ModelConfig:
    return ModelConfig(
        vocab_size=50, layers=2, hidden=hidden, heads=hidden // 16, max_seq_len=16, mup_base_hidden=base, **change
    )


def change_of_logits(config: ModelConfig, steps: int = 4) -> float:
    """Mean size of what a few Adam steps at one base rate change in the logits."""
    decoder = Decoder(config, seed=1)
    groups = [
        {"params": [parameter], "lr": 5e-3 * learning_rate_factor(name, config)}
        for name, parameter in decoder.named_parameters()
    ]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.95))
    batch = packed_batch([[16]] * 4, 16, config.vocab_size)
    before = decoder.logits(*batch[:3]).detach()
    for _ in range(steps):
        adam.zero_grad()
        loss, num_targets = decoder(*batch)
        (loss / num_targets).backward()
        adam.step()
    return (decoder.logits(*batch[:3]).detach() - before).abs().mean().item()


@pytest.mark.parametrize("tied", [True, False])
def test_steps_change_a_wide_model_as_much_as_a_narrow_one(tied):
    narrow = change_of_logits(shape(BASE, BASE, tie_embeddings=tied))
    wide = change_of_logits(shape(WIDE, BASE, tie_embeddings=tied))
    standard = change_of_logits(shape(WIDE, None, tie_embeddings=tied))
    assert 0.5 < wide / narrow < 2
    assert standard / narrow > 3  # without muP the same rate is another one


def test_at_the_base_width_nothing_differs():
    plain, mup = shape(BASE, None), shape(BASE, BASE, mup_base_head_dim=16)
    batch = packed_batch([[7, 9]], 16, 50)
    assert torch.equal(Decoder(plain)(*batch)[0], Decoder(mup)(*batch)[0])
    assert width_ratio(mup) == 1


def test_hidden_matrices_are_those_whose_both_sides_grow():
    config = msgspec.structs.replace(shape(128, BASE), **{**EVERYTHING, "mup_base_hidden": BASE})
    twice = msgspec.structs.replace(config, hidden=256, heads=16)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Decoder(config).state_dict().items()}
        wider = {name: tensor.shape for name, tensor in Decoder(twice).state_dict().items()}
    for name, size in shapes.items():
        grown = sum(after > before for before, after in zip(size, wider[name], strict=True))
        assert is_hidden_matrix(name) == (grown == 2), name
        assert learning_rate_factor(name, config) == (1 / 4 if grown == 2 else 1), name
        assert spread_factor(name, config) == (1 / 2 if grown == 2 else 1), name


def test_scores_shrink_with_the_head_size_where_heads_grow():
    assert attention_scale(shape(64, 32)) is None
    config = shape(64, 32, mup_base_head_dim=4)
    assert attention_scale(config) == pytest.approx(math.sqrt(4) / 16)
