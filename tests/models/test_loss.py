import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ptool.models import loss
from ptool.models.loss import chunk_tokens, cross_entropy_per_token, cross_entropy_sum


@settings(max_examples=30, deadline=None)
@given(
    num_tokens=st.integers(0, 70), vocab_size=st.integers(1, 50), unscored=st.integers(0, 70), seed=st.integers(0, 99)
)
def test_chunks_add_up_to_the_full_cross_entropy(num_tokens, vocab_size, unscored, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, 6, generator=generator, dtype=torch.float64).float().requires_grad_()
    weight = torch.randn(vocab_size, 6, generator=generator).requires_grad_()
    targets = torch.randint(vocab_size, (num_tokens,), generator=generator)
    targets[:unscored] = -100

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "CHUNK_ELEMENTS", 16 * vocab_size)  # 16 tokens a chunk: several, and one cut short
        found = cross_entropy_sum(hidden, weight, targets)
        each = cross_entropy_per_token(hidden, weight, targets)
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="sum", ignore_index=-100)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(each.sum(), found, rtol=1e-5, atol=1e-5)
    assert (each[:unscored] == 0).all()
    for mine, true in zip(
        torch.autograd.grad(found * 3, (hidden, weight)),
        torch.autograd.grad(expected * 3, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-5)


def test_logits_are_never_whole(monkeypatch):
    vocab_size, num_tokens = 1000, 160
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 16 * vocab_size)
    largest = 0
    linear = F.linear

    def watched(x, weight):
        nonlocal largest
        out = linear(x, weight)
        largest = max(largest, out.numel())
        return out

    monkeypatch.setattr(F, "linear", watched)
    hidden = torch.randn(num_tokens, 4, requires_grad=True)
    cross_entropy_sum(hidden, torch.randn(vocab_size, 4), torch.zeros(num_tokens, dtype=torch.int64)).backward()
    assert largest == 16 * vocab_size < num_tokens * vocab_size


def test_a_chunk_follows_from_the_vocabulary_alone():
    assert chunk_tokens(8192) == 1024
    assert chunk_tokens(10**9) == 16


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    found = cross_entropy_sum(hidden, weight, torch.tensor([1, 1]))
    assert found.item() == 2e4
    found.backward()
    assert hidden.grad.isfinite().all()
    assert weight.grad.isfinite().all()


def test_bf16_weights_get_bf16_gradients_summed_in_fp32():
    torch.manual_seed(0)
    hidden = torch.randn(40, 8).bfloat16().requires_grad_()
    weight = torch.randn(30, 8).bfloat16().requires_grad_()
    targets = torch.randint(30, (40,))
    found = cross_entropy_sum(hidden, weight, targets)
    expected = F.cross_entropy(hidden.float() @ weight.float().T, targets, reduction="sum")
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0)
    for mine, true in zip(
        torch.autograd.grad(found, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine, true, rtol=0.05, atol=0.1)
