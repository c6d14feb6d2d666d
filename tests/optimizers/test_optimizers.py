"""Each optimiser against torch's own, or against its paper's lines written for one number at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import UsageError
from ptool.models.config import ModelConfig
from ptool.models.decoder import Decoder
from ptool.models.mup import learning_rate_factor
from ptool.optimizers import muon
from ptool.optimizers.adafactor import Adafactor
from ptool.optimizers.adamw import AdamW
from ptool.optimizers.building import constructor_arguments, optimizer_class
from ptool.optimizers.choices import KINDS, kind_of, require_zero_stage
from ptool.optimizers.groups import parameter_groups
from ptool.optimizers.lamb import Lamb
from ptool.optimizers.lion import Lion
from ptool.optimizers.muon import Muon, orthogonalise
from tests.models.variants import EVERYTHING

SHAPES = [(4, 6), (7,), (6, 3), (1, 5)]
STEPS = 12


def tensors(seed: int, shapes=SHAPES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def trained(make, seed: int, lr: float = 0.01, steps: int = STEPS, shapes=SHAPES, dtype=torch.float64):
    """Parameters after some steps on gradients that follow from `seed`, one parameter without a gradient at times."""
    parameters = [torch.nn.Parameter(value) for value in tensors(seed, shapes, dtype)]
    optimizer = make(parameters)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + step) / steps
        for place, (parameter, gradient) in enumerate(
            zip(parameters, tensors(1000 * seed + step + 1, shapes, dtype), strict=True)
        ):
            parameter.grad = None if place == 1 and step % 3 == 1 else gradient * 10.0 ** (step % 4 - 2)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def assert_equal(mine, theirs, rtol=1e-9, atol=1e-12):
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), weight_decay=st.sampled_from([0.0, 0.1]))
def test_adamw_is_torch_s(seed, weight_decay):
    options = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": weight_decay}
    mine = trained(lambda p: AdamW(p, **options), seed)
    assert_equal(mine, trained(lambda p: torch.optim.AdamW(p, lr=0.0, **options), seed))
    assert_equal(mine, trained(lambda p: torch.optim.AdamW(p, lr=0.0, fused=True, **options), seed))
    # and what Muon does to everything that is not a hidden matrix
    assert_equal(mine, trained(lambda p: Muon(p, **options), seed))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), weight_decay=st.sampled_from([0.0, 0.1]))
def test_adafactor_is_torch_s_where_torch_uses_the_rate_as_given(seed, weight_decay):
    # torch takes min(lr, 1/sqrt(step)): 0.01 is the smaller one for the first 10,000 steps
    mine = trained(lambda p: Adafactor(p, weight_decay=weight_decay), seed)
    assert_equal(mine, trained(lambda p: torch.optim.Adafactor(p, lr=0.0, weight_decay=weight_decay), seed))


def lion_one_by_one(parameters, seed, lr, beta1, beta2, wd):
    """Algorithm 2 of the paper for single numbers."""
    results = []
    for place, value in enumerate(parameters):
        numbers = []
        for at, x in enumerate(value.flatten().tolist()):
            m = 0.0
            for step in range(STEPS):
                if place == 1 and step % 3 == 1:
                    continue
                g = tensors(1000 * seed + step + 1)[place].flatten()[at].item() * 10.0 ** (step % 4 - 2)
                rate = lr * (1 + step) / STEPS
                direction = beta1 * m + (1 - beta1) * g
                x = x - rate * (math.copysign(1.0, direction) if direction else 0.0) - rate * wd * x
                m = beta2 * m + (1 - beta2) * g
            numbers.append(x)
        results.append(torch.tensor(numbers, dtype=torch.float64).view_as(value))
    return results


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_lion_is_its_paper_s_algorithm(weight_decay):
    mine = trained(lambda p: Lion(p, betas=(0.9, 0.99), weight_decay=weight_decay), 3)
    assert_equal(mine, lion_one_by_one(tensors(3), 3, 0.01, 0.9, 0.99, weight_decay))


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_lamb_is_its_paper_s_algorithm(weight_decay):
    betas, eps, lr = (0.9, 0.999), 1e-6, 0.01
    mine = trained(lambda p: Lamb(p, betas=betas, eps=eps, weight_decay=weight_decay), 4)
    for place, start in enumerate(tensors(4)):
        x = start.flatten().tolist()
        m, v, t = [0.0] * len(x), [0.0] * len(x), 0
        for step in range(STEPS):
            if place == 1 and step % 3 == 1:
                continue
            t += 1
            g = (tensors(4000 + step + 1)[place] * 10.0 ** (step % 4 - 2)).flatten().tolist()
            m = [betas[0] * a + (1 - betas[0]) * b for a, b in zip(m, g, strict=True)]
            v = [betas[1] * a + (1 - betas[1]) * b * b for a, b in zip(v, g, strict=True)]
            u = [
                a / (1 - betas[0] ** t) / (math.sqrt(b / (1 - betas[1] ** t)) + eps) + weight_decay * c
                for a, b, c in zip(m, v, x, strict=True)
            ]
            ratio = math.hypot(*x) / math.hypot(*u)
            x = [c - lr * (1 + step) / STEPS * ratio * d for c, d in zip(x, u, strict=True)]
        torch.testing.assert_close(mine[place].flatten(), torch.tensor(x, dtype=torch.float64), rtol=1e-7, atol=1e-10)


def test_lamb_leaves_a_tensor_of_zeros_a_plain_step():
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = Lamb([parameter], eps=0.0)
    optimizer.param_groups[0]["lr"] = 0.5
    parameter.grad = torch.tensor([1.0, -2.0, 4.0])
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([-0.5, 0.5, -0.5]))


MATRICES = [(4, 6), (6, 4), (5, 5), (1, 8)]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), weight_decay=st.sampled_from([0.0, 0.1]))
def test_muon_is_torch_s_on_hidden_matrices(seed, weight_decay):
    def theirs(parameters):
        return torch.optim.Muon(
            parameters, lr=0.0, momentum=0.95, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )

    mine = trained(
        lambda p: Muon(p, hidden=True, weight_decay=weight_decay), seed, shapes=MATRICES, dtype=torch.float32
    )
    found = trained(theirs, seed, shapes=MATRICES, dtype=torch.float32)
    # torch orthogonalises in bf16: each of 12 steps of up to 0.01 * 0.2 * sqrt(8) is off by at most a few per cent
    assert_equal(mine, found, rtol=0, atol=0.004)
    start = tensors(seed, MATRICES, torch.float32)
    moved = sum(float((one - other).norm()) for one, other in zip(mine, start, strict=True))
    apart = sum(float((one - other).norm()) for one, other in zip(mine, found, strict=True))
    assert apart < 0.08 * moved


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 99), size=st.sampled_from([1e-3, 1, 1e4])
)
def test_orthogonalising_keeps_directions_and_evens_out_their_sizes(rows, columns, seed, size):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalise(matrix)
    sizes = torch.diagonal(left.T @ found @ right.T)
    torch.testing.assert_close(left @ torch.diag(sizes) @ right, found, rtol=1e-3, atol=1e-3)
    # five steps lift shares of the norm above about 0.02 into the band; the smallest take more
    assert ((sizes > 0.6) & (sizes < 1.3))[values > 0.02 * values.norm()].all()
    assert orthogonalise(torch.zeros(3, 2)).abs().max() == 0


def test_muon_refuses_a_hidden_parameter_that_is_no_matrix():
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.ones(3)
    with pytest.raises(ValueError, match="has 1 dimensions"):
        Muon([parameter], hidden=True).step()


@pytest.mark.parametrize("name", [name for name in KINDS if name != "adam8bit"])
def test_an_optimiser_goes_on_from_its_saved_state_to_the_bit(name, tmp_path):
    def start():
        parameters = [torch.nn.Parameter(value) for value in tensors(1, dtype=torch.float32)]
        groups = [
            {"params": [p for p in parameters if p.dim() == 2], "hidden": True, "lr": 1e-2},
            {"params": [p for p in parameters if p.dim() == 1], "hidden": False, "lr": 1e-2},
        ]
        options = constructor_arguments(name, betas=None, eps=None, weight_decay=0.1)
        return parameters, optimizer_class(name)(groups, **options)

    def steps(parameters, optimizer, numbers):
        for number in numbers:
            for parameter, gradient in zip(parameters, tensors(50 + number, dtype=torch.float32), strict=True):
                parameter.grad = gradient
            optimizer.step()

    parameters, optimizer = start()
    steps(parameters, optimizer, range(4))
    torch.save([optimizer.state_dict(), parameters], tmp_path / "state.pt")
    steps(parameters, optimizer, range(4, 8))
    again, other = start()
    state, saved = torch.load(tmp_path / "state.pt", weights_only=True)
    with torch.no_grad():
        for parameter, value in zip(again, saved, strict=True):
            parameter.copy_(value)
    other.load_state_dict(state)
    steps(again, other, range(4, 8))
    assert all(torch.equal(one, two) for one, two in zip(parameters, again, strict=True))


@pytest.mark.parametrize("name", [name for name in KINDS if name != "adam8bit"])
def test_what_is_said_of_flat_shards_is_so(name):
    """Two tensors as they are, and laid behind one another and cut in three equal parts, as ZeRO does."""

    def run(parameters):
        options = constructor_arguments(name, betas=None, eps=None, weight_decay=0.1)
        hidden = all(parameter.dim() == 2 for parameter in parameters)
        optimizer = optimizer_class(name)([{"params": parameters, "hidden": hidden, "lr": 0.05}], **options)
        for step in range(5):
            flat = torch.cat([gradient.flatten() for gradient in tensors(step + 9, whole, torch.float32)])
            for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                parameter.grad = part.view_as(parameter).clone()
            optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in parameters])

    whole = [(4, 6), (6, 2)]
    start = tensors(2, whole, torch.float32)
    cut = torch.cat([value.flatten() for value in start]).chunk(3)
    together = run([torch.nn.Parameter(value.clone()) for value in start])
    apart = run([torch.nn.Parameter(value.clone()) for value in cut])
    same = torch.allclose(together, apart, rtol=1e-4, atol=1e-6)
    assert same == KINDS[name].stands_shards


def test_optimisers_that_lose_their_meaning_are_refused_under_zero():
    for name in ("adamw", "lion", "adam8bit"):
        require_zero_stage(name, 3)
    for name, reason in (
        ("lamb", "tensor's own norm"),
        ("adafactor", "rows and columns"),
        ("muon", "rows and columns"),
    ):
        require_zero_stage(name, 0)
        assert optimizer_class(name, zero=0)
        with pytest.raises(
            UsageError, match=rf"{name} does not work under ZeRO-2.*{reason}.*--zero 0, or one of adamw"
        ):
            optimizer_class(name, zero=2)


def test_an_unknown_optimiser_names_the_nearest_one():
    with pytest.raises(UsageError, match=r"unknown optimizer adamv \(did you mean adamw\? known: adamw, lion"):
        kind_of("adamv")


def test_eight_bit_adam_says_what_it_lacks(monkeypatch):
    import sys
    import types

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UsageError, match="bitsandbytes, which is not installed"):
        optimizer_class("adam8bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="needs a GPU"):
        optimizer_class("adam8bit")


def test_every_parameter_is_in_one_group_and_only_hidden_matrices_are_hidden():
    config = ModelConfig(
        vocab_size=30,
        layers=2,
        hidden=24,
        heads=4,
        ffn_hidden=40,
        max_seq_len=8,
        **{**EVERYTHING, "mup_base_hidden": 12},
    )
    with torch.device("meta"):
        decoder = Decoder(config)
    groups = parameter_groups(
        decoder.named_parameters(), 0.1, lr_factor=lambda name: learning_rate_factor(name, config)
    )
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(of) == len(list(decoder.parameters()))
    for name, parameter in decoder.named_parameters():
        group = of[id(parameter)]
        is_matrix = parameter.dim() == 2 and "embedding" not in name
        assert group["weight_decay"] == (0.1 if is_matrix else 0.0), name
        assert group["hidden"] == (is_matrix and name != "head.weight"), name
        assert group["lr_factor"] == (0.5 if group["hidden"] else 1.0), name
    assert [group["weight_decay"] for group in groups] == sorted((g["weight_decay"] for g in groups), reverse=True)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "adam8bit"])
def test_every_optimiser_learns(name):
    config = ModelConfig(vocab_size=20, layers=1, hidden=16, heads=2, max_seq_len=16)
    decoder = Decoder(config, seed=0)
    groups = parameter_groups(decoder.named_parameters(), 0.01)
    options = constructor_arguments(name, betas=None, eps=None, weight_decay=0.01)
    optimizer = optimizer_class(name)(groups, **options)
    rate = {"lion": 1e-2, "adafactor": 0.1, "lamb": 0.1}.get(name, 1e-2)
    tokens = torch.arange(16).expand(4, 16) % 7
    batch = tokens, torch.arange(16).expand(4, 16), torch.zeros(4, 16, dtype=torch.int32), tokens.roll(-1, 1)
    losses = []
    for _ in range(40):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss, num_targets = decoder(*batch)
        (loss / num_targets).backward()
        optimizer.step()
        losses.append((loss / num_targets).item())
    assert losses[-1] < 0.5 * losses[0], losses


def test_the_constants_of_the_iteration_keep_the_band_they_promise():
    a, b, c = muon.COEFFICIENTS
    x = torch.linspace(0.02, 1, 10_000, dtype=torch.float64)
    for _ in range(muon.STEPS):
        x = a * x + b * x**3 + c * x**5
    assert 0.65 < x.min() < x.max() < 1.21
