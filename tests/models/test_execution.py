"""How a decoder is computed changes nothing of what it computes."""

import math
import subprocess
import sys

import msgspec
import pytest
import torch
from torch.nn import functional as F

from ptool.errors import UsageError
from ptool.models import decoder as decoders
from ptool.models import kernels, recompute
from ptool.models.decoder import Decoder
from ptool.models.execution import Execution
from ptool.models.kernels import Heads, Spans, attend, segment_mask, segment_starts, spans
from tests.models.batches import SMALL, packed_batch
from tests.models.variants import EVERYTHING

CPU = torch.device("cpu")
HEADS = Heads(4, 2, 8, None)
ROWS = [[7, 9], [5, 1, 4], [16]]


def loss_and_gradients(decoder: Decoder):
    loss, _ = decoder(*packed_batch(ROWS, 16, SMALL.vocab_size))
    return loss, torch.autograd.grad(loss, list(decoder.parameters()))


@pytest.mark.parametrize(
    ("how", "change", "compiled"),
    [
        ("selective", {}, False),
        ("full", {}, False),
        ("selective", EVERYTHING, False),
        ("full", EVERYTHING, False),
        ("selective", EVERYTHING, True),  # tracing takes seconds; all combinations: tests/soak/decoder_zero.py
    ],
    ids=["selective", "full", "selective variants", "full variants", "selective variants compiled"],
)
def test_recomputing_and_compiling_keep_losses_gradients_and_names(how, change, compiled, monkeypatch):
    monkeypatch.setattr(decoders, "COMPILE_BACKEND", "aot_eager")  # traces as the real one, generates no code
    config = msgspec.structs.replace(SMALL, **change)
    plain = Decoder(config, seed=3)
    other = Decoder(config, seed=3, execution=Execution(recompute=how, compile=compiled))
    assert list(plain.state_dict()) == list(other.state_dict())
    (loss, gradients), (found, mine) = loss_and_gradients(plain), loss_and_gradients(other)
    torch.testing.assert_close(found, loss, rtol=1e-6 if compiled else 0, atol=0)
    for one, true in zip(mine, gradients, strict=True):
        torch.testing.assert_close(one, true, rtol=1e-4 if compiled else 0, atol=1e-5 if compiled else 0)


def test_compiling_is_refused_where_zero_3_has_partitioned_the_parameters():
    decoder = Decoder(SMALL, execution=Execution(compile=True))
    decoder.embedding.weight.ds_id = 0
    with pytest.raises(UsageError, match="does not work under ZeRO-3.*--zero 2"):
        decoder(*packed_batch([[16]], 16, SMALL.vocab_size))


def remembered(how: str) -> int:
    """Bytes that a forward pass keeps for the backward pass in the layers' own operations."""
    config = msgspec.structs.replace(SMALL, layers=4)
    decoder = Decoder(config, execution=Execution(recompute=how))
    kept: dict[int, torch.Tensor] = {}
    weights = {parameter.data_ptr() for parameter in decoder.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = decoder(*packed_batch(ROWS, 16, SMALL.vocab_size))
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_whole_layers_recomputed_leave_little_to_remember():
    assert remembered("full") < 0.5 * remembered("none")


def test_selective_recomputation_computes_no_matrix_product_twice(monkeypatch):
    def products(how: str) -> int:
        from torch.utils.flop_counter import FlopCounterMode

        decoder = Decoder(SMALL, execution=Execution(recompute=how))
        with FlopCounterMode(display=False) as counter:
            decoder(*packed_batch([[16]], 16, SMALL.vocab_size))[0].backward()
        return counter.get_total_flops()

    none, selective, full = (products(how) for how in ("none", "selective", "full"))
    assert none == selective < full


def test_attention_over_segments_is_remembered_though_the_first_batch_had_no_segments():
    code = "from ptool.models.recompute import _expensive_operations as found; print(*found())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "torch_attn._varlen_attn.default" in done.stdout, "its module is imported where a batch needs it"


def test_no_gradient_no_checkpoint(monkeypatch):
    monkeypatch.setattr(recompute.checkpoint, "checkpoint", None)  # calling it would fail
    decoder = Decoder(SMALL, execution=Execution(recompute="full"))
    with torch.no_grad():
        assert decoder(*packed_batch([[16]], 16, SMALL.vocab_size))[0] > 0


def loop_over_segments(query, key, value, starts, longest, scale):
    """Flash attention's varlen kernel as a loop: [tokens, heads, head_dim], one segment after the other."""
    mixed = torch.empty_like(query)
    shared = query.shape[1] // key.shape[1]
    for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        assert last - first <= longest
        q, k, v = (vectors[first:last].transpose(0, 1) for vectors in (query, key, value))
        k, v = k.repeat_interleave(shared, 0), v.repeat_interleave(shared, 0)
        mixed[first:last] = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(0, 1)
    return mixed


def qkv(length: int = 16, rows: int = 3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, heads, length, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2)]


@pytest.mark.parametrize("scale", [None, 0.5])
def test_rows_laid_behind_one_another_give_what_the_mask_gives(monkeypatch, scale):
    monkeypatch.setattr(kernels, "_flash_over_segments", loop_over_segments)
    _, _, segments, _ = packed_batch(ROWS, 16, 5)
    inputs = qkv()
    found = attend(*inputs, Spans(starts=segment_starts(segments)), scale)
    expected = attend(*inputs, Spans(mask=segment_mask(segments)), scale)
    torch.testing.assert_close(found, expected)
    toward = torch.randn_like(found)
    for mine, true in zip(
        torch.autograd.grad(found, inputs, toward), torch.autograd.grad(expected, inputs, toward), strict=True
    ):
        torch.testing.assert_close(mine, true)


def test_segments_begin_at_rows_and_where_the_number_changes():
    segments = torch.tensor([[0, 0, 1, -1], [0, 0, 0, 0], [-1, 2, 2, 3]])
    assert segment_starts(segments).tolist() == [0, 2, 3, 4, 8, 9, 11, 12]
    assert segment_starts(segments).dtype == torch.int32


@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_s_forward_pass_gives_what_the_mask_gives(scale):
    _, _, segments, _ = packed_batch(ROWS, 16, 5)
    inputs = [vectors.detach() for vectors in qkv()]
    with torch.no_grad():
        found = attend(*inputs, spans(segments, "flex", HEADS, torch.float32), scale)
    torch.testing.assert_close(found, attend(*inputs, Spans(mask=segment_mask(segments)), scale))


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_a_decoder_under_flex_evaluates_as_one_under_the_mask():
    batch = packed_batch(ROWS, 16, SMALL.vocab_size)
    flex = Decoder(msgspec.structs.replace(SMALL, hidden=32), execution=Execution(attention="flex"))
    plain = Decoder(msgspec.structs.replace(SMALL, hidden=32))
    torch.testing.assert_close(flex.token_losses(*batch), plain.token_losses(*batch))
    with pytest.raises(UsageError, match="no backward pass on the CPU"):
        flex(*batch)


def test_kernels_that_cannot_run_here_are_refused_with_the_reason():
    _, _, segments, _ = packed_batch(ROWS, 16, 5)
    with pytest.raises(UsageError, match="varlen needs a GPU, and this is a cpu"):
        spans(segments, "varlen", HEADS, torch.bfloat16)
    assert spans(segments, "auto", HEADS, torch.bfloat16).mask is not None
    gpu = torch.device("cuda")
    with pytest.raises(UsageError, match="bf16 or fp16, not torch.float32"):
        kernels.require_varlen(gpu, torch.float32, HEADS)
    with pytest.raises(UsageError, match="not 12"):
        kernels.require_varlen(gpu, torch.bfloat16, HEADS._replace(head_dim=12))
    kernels.require_varlen(gpu, torch.bfloat16, HEADS)


@pytest.fixture
def untried():
    kernels.agrees.cache_clear()
    yield
    kernels.agrees.cache_clear()


@pytest.mark.usefixtures("untried")
def test_a_kernel_that_agrees_with_the_mask_is_used(monkeypatch, recwarn):
    monkeypatch.setattr(kernels, "_flash_over_segments", loop_over_segments)
    assert kernels.agrees(CPU, torch.bfloat16, HEADS)
    assert kernels.agrees(CPU, torch.float32, HEADS._replace(scale=0.3))
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.usefixtures("untried")
def test_a_kernel_that_looks_over_a_boundary_is_not_used(monkeypatch):
    def over_boundaries(query, key, value, starts, longest, scale):
        return loop_over_segments(query, key, value, starts[[0, -1]], query.shape[0], scale)

    monkeypatch.setattr(kernels, "_flash_over_segments", over_boundaries)
    with pytest.warns(UserWarning, match="is off by"):
        assert not kernels.agrees(CPU, torch.bfloat16, HEADS)


@pytest.mark.usefixtures("untried")
def test_a_kernel_that_fails_or_makes_nan_is_not_used(monkeypatch):
    def failing(*_):
        raise RuntimeError("no kernel image is available\nfor execution")

    monkeypatch.setattr(kernels, "_flash_over_segments", failing)
    with pytest.warns(UserWarning, match="does not run here: no kernel image is available; masked"):
        assert not kernels.agrees(CPU, torch.bfloat16, HEADS)
    monkeypatch.setattr(kernels, "_flash_over_segments", lambda q, k, v, *_: (q + k.sum() + v.sum()) * math.nan)
    with pytest.warns(UserWarning, match="is off by nan"):
        assert not kernels.agrees(CPU, torch.float16, HEADS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: the real varlen and flex kernels")
@pytest.mark.parametrize("kernel", ["varlen", "flex"])
def test_on_a_gpu_the_real_kernels_train_as_the_mask_does(kernel):
    config = msgspec.structs.replace(SMALL, hidden=256, heads=4)
    batch = [part.cuda() for part in packed_batch([[70, 58], [128]], 128, SMALL.vocab_size)]
    losses, gradients = [], []
    for attention in ("sdpa", kernel):
        decoder = Decoder(config, execution=Execution(attention=attention)).cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss, _ = decoder(*batch)
        losses.append(loss.item())
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(decoder.parameters()))]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert (gradients[1] - gradients[0]).norm() < 0.03 * gradients[0].norm()
