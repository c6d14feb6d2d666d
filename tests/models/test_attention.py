import cmath
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.models.attention import Attention, layout, rotate, rotation
from ptool.models.config import ModelConfig
from tests.models.batches import SMALL, packed_batch

CONFIG = ModelConfig(vocab_size=5, layers=1, hidden=24, heads=4, kv_heads=2, max_seq_len=16)


def rotated_one_by_one(vector: list[float], position: int, theta: float) -> list[float]:
    """Each pair (i, i + half) as a complex number times e^(j * position * theta^(-2i/d)), in Python floats."""
    half = len(vector) // 2
    turned = [0.0] * len(vector)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(vector))
        number = complex(vector[i], vector[i + half]) * cmath.exp(1j * angle)
        turned[i], turned[i + half] = number.real, number.imag
    return turned


def dot(left: list[float], right: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(left, right, strict=True))


def attended_one_by_one(module: Attention, hidden: torch.Tensor, positions, segments, theta: float) -> torch.Tensor:
    """Attention written as loops over rows, heads and pairs of tokens."""
    heads, kv_heads, size = CONFIG.heads, CONFIG.num_kv_heads, CONFIG.head_dim
    rows, length, _ = hidden.shape
    mixed = torch.zeros(rows, length, heads * size)
    for row in range(rows):
        for head in range(heads):
            shared = head // (heads // kv_heads)

            def vectors(projection, which, row=row):
                return projection(hidden[row])[:, which * size : (which + 1) * size]

            queries, keys, values = (
                vectors(module.query, head),
                vectors(module.key, shared),
                vectors(module.value, shared),
            )
            place = positions[row].tolist()
            queries = [rotated_one_by_one(q, p, theta) for q, p in zip(queries.tolist(), place, strict=True)]
            keys = [rotated_one_by_one(k, p, theta) for k, p in zip(keys.tolist(), place, strict=True)]
            for here in range(length):
                seen = [t for t in range(here + 1) if segments[row, t] == segments[row, here]]
                scores = [dot(queries[here], keys[t]) / math.sqrt(size) for t in seen]
                weights = torch.softmax(torch.tensor(scores), dim=0)
                mixed[row, here, head * size : (head + 1) * size] = weights @ values[seen]
    return module.output(mixed)


@pytest.mark.parametrize("rows", [[[5, 1, 4], [10]], [[10], [7]], [[3, 3], [10]]], ids=["mixed", "single", "padded"])
def test_attention_equals_a_loop_over_heads_and_tokens(rows):
    torch.manual_seed(1)
    _, positions, segments, _ = packed_batch(rows, 10, CONFIG.vocab_size)
    module = Attention(CONFIG)
    hidden = torch.randn(len(rows), 10, CONFIG.hidden)
    found = module(hidden, layout(CONFIG, positions, segments))
    expected = attended_one_by_one(module, hidden, positions, segments, CONFIG.rope_theta)
    real = segments >= 0
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(position=st.integers(0, 5000), theta=st.sampled_from([100.0, 10_000.0, 500_000.0]), seed=st.integers(0, 99))
def test_rotation_equals_complex_multiplication(position, theta, seed):
    config = ModelConfig(vocab_size=2, layers=1, hidden=8, heads=1, max_seq_len=8, rope_theta=theta)
    vector = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(seed))
    found = rotate(vector, *rotation(config, torch.tensor([[position]])))
    # fp32 angles: position * 2^-24 is the error of the largest one
    expected = torch.tensor(rotated_one_by_one(vector.flatten().tolist(), position, theta))
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-3, atol=2e-3)


def test_scores_depend_on_the_distance_between_positions_only():
    query, key = torch.randn(2, 1, 1, 1, 6, generator=torch.Generator().manual_seed(3))

    def score(p: int, q: int) -> float:
        turned = [rotate(v, *rotation(CONFIG, torch.tensor([[at]]))) for v, at in ((query, p), (key, q))]
        return float((turned[0] * turned[1]).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-4)


def test_rows_of_one_segment_need_no_mask_and_others_have_one():
    for rows, masked in ([[[16], [9]], False], [[[], [16]], False], [[[16], [8, 8]], True]):
        _, positions, segments, _ = packed_batch(rows, 16, SMALL.vocab_size)
        assert (layout(SMALL, positions, segments).within.mask is not None) is masked
    # padding before or inside a segment would be looked at by plain causality
    holed = torch.tensor([[0, -1, 0, 0]], dtype=torch.int32)
    assert layout(SMALL, torch.zeros_like(holed), holed).within.mask is not None
