"""Each variant against a decoder written again as plain formulas, and what must not change with any of them."""

import math

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ptool.errors import UsageError
from ptool.models.config import VARIANTS, ModelConfig, load_size
from ptool.models.decoder import Decoder
from ptool.models.init import standard_deviation
from ptool.models.weights import load_weights, save_weights
from tests.models.batches import SMALL, packed_batch
from tests.models.variants import EVERYTHING, configs


def module_parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(config).parameters())


def plain_norm(config: ModelConfig, weights, name: str, x):
    if config.norm == "layer":
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + config.norm_eps).sqrt()
        return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return x / (x.square().mean(-1, keepdim=True) + config.norm_eps).sqrt() * weights[f"{name}.weight"]


def rms(x, gain, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain


def turned(x, positions, theta):
    """Each pair (i, i + half) as a complex number turned by its angle."""
    half = x.shape[-1] // 2
    rates = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = positions.double()[:, None] * rates
    numbers = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([numbers.real, numbers.imag], -1)


def plain_attention(config: ModelConfig, weights, prefix: str, x, positions, allowed):
    size, group = config.head_dim, config.heads // config.num_kv_heads
    base = config.mup_base_head_dim
    scale = 1 / math.sqrt(size) if base is None else math.sqrt(base) / size
    mixed = []
    for head in range(config.heads):
        query = (x @ weights[f"{prefix}.query.weight"].T)[:, head * size : (head + 1) * size]
        shared = slice(head // group * size, (head // group + 1) * size)
        key = (x @ weights[f"{prefix}.key.weight"].T)[:, shared]
        value = (x @ weights[f"{prefix}.value.weight"].T)[:, shared]
        if config.qk_norm:
            query = rms(query, weights[f"{prefix}.query_norm.weight"], config.norm_eps)
            key = rms(key, weights[f"{prefix}.key_norm.weight"], config.norm_eps)
        if config.positions == "rope":
            query, key = turned(query, positions, config.rope_theta), turned(key, positions, config.rope_theta)
        scores = (query @ key.T * scale).masked_fill(~allowed, -math.inf)
        mixed.append(scores.softmax(-1) @ value)
    return torch.cat(mixed, -1) @ weights[f"{prefix}.output.weight"].T


def plain_feed_forward(config: ModelConfig, weights, prefix: str, x):
    up = x @ weights[f"{prefix}.up.weight"].T
    if config.feed_forward == "swiglu":
        gate = x @ weights[f"{prefix}.gate.weight"].T
        inner = gate / (1 + (-gate).exp()) * up
    else:
        inner = 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
    return inner @ weights[f"{prefix}.down.weight"].T


def plain_logits(config: ModelConfig, weights, tokens, positions, segments):
    """Logits of one row, fp64."""
    length = len(tokens)
    if not config.document_mask:
        positions, segments = torch.arange(length), torch.where(segments < 0, -1, 0)
    allowed = (segments[:, None] == segments[None]) & (torch.arange(length)[:, None] >= torch.arange(length)[None])
    x = weights["embedding.weight"][tokens] * config.embedding_scale
    if config.positions == "learned":
        x = x + weights["position_embedding.weight"][positions.long()]
    for layer in range(config.layers):
        name = f"layers.{layer}"

        def normed(x, which, name=name):
            return plain_norm(config, weights, f"{name}.{which}_norm", x)

        def attended(x, name=name):
            return plain_attention(config, weights, f"{name}.attention", x, positions, allowed)

        def fed(x, name=name):
            return plain_feed_forward(config, weights, f"{name}.feed_forward", x)

        if config.norm_position == "pre":
            x = x + attended(normed(x, "attention"))
            x = x + fed(normed(x, "feed_forward"))
        else:
            x = normed(x + attended(x), "attention")
            x = normed(x + fed(x), "feed_forward")
    if config.norm_position == "pre":
        x = plain_norm(config, weights, "norm", x)
    if config.mup_base_hidden is not None:
        x = x * config.mup_base_hidden / config.hidden
    return x @ weights["embedding.weight" if config.tie_embeddings else "head.weight"].T


@settings(max_examples=60, deadline=None)
@given(config=configs(), seed=st.integers(0, 99))
def test_every_variant_computes_what_its_formulas_say(config, seed):
    torch.manual_seed(seed)
    decoder = Decoder(config, seed=seed)
    with torch.no_grad():  # gains and biases that do something, weights that are not small
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    weights = {name: value.double() for name, value in decoder.state_dict().items()}
    batch = packed_batch([[7, 4, 3], [16]], 16, config.vocab_size, seed=seed)
    tokens, positions, segments, targets = batch
    found = decoder.logits(tokens, positions, segments)
    loss = 0.0
    for row in range(2):
        expected = plain_logits(config, weights, tokens[row], positions[row], segments[row])
        real = segments[row] >= 0
        torch.testing.assert_close(found[row, real].double(), expected[real], rtol=2e-3, atol=2e-3)
        log_sum = expected.logsumexp(-1)
        scored = targets[row] >= 0
        terms = log_sum - expected.gather(1, targets[row].clamp(min=0)[:, None])[:, 0] + config.z_loss * log_sum**2
        loss += terms[scored].sum().item()
    assert decoder(*batch)[0].item() == pytest.approx(loss, rel=1e-3, abs=1e-2)


@settings(max_examples=150, deadline=None)
@given(config=configs())
def test_the_parameter_count_equals_the_module_s_for_every_mixture_of_variants(config):
    assert config.num_parameters() == module_parameters(config)
    assert ModelConfig.from_table(config.as_table()) == msgspec.structs.replace(
        config, kv_heads=config.num_kv_heads, ffn_hidden=config.ffn_size
    )
    assert None not in config.as_table().values()  # TOML has no null


@settings(max_examples=30, deadline=None)
@given(config=configs(document_mask=True), seed=st.integers(0, 99))
def test_a_document_s_loss_is_the_one_it_has_alone_in_a_row(config, seed):
    decoder = Decoder(config, seed=seed)
    tokens, positions, segments, targets = packed_batch([[6, 10]], 16, config.vocab_size, seed=seed)
    together = decoder.token_losses(tokens, positions, segments, targets)
    for part in (slice(0, 6), slice(6, 16)):
        alone = decoder.token_losses(*(given[:, part] for given in (tokens, positions, segments, targets)))
        torch.testing.assert_close(together[:, part], alone, rtol=1e-4, atol=1e-4)


def test_without_a_document_mask_a_row_is_one_text():
    config = msgspec.structs.replace(SMALL, document_mask=False)
    decoder = Decoder(config, seed=1)
    tokens, positions, segments, _ = packed_batch([[6, 5]], 16, SMALL.vocab_size)
    one = packed_batch([[11]], 16, SMALL.vocab_size)
    assert torch.equal(tokens, one[0])
    found = decoder.logits(tokens, positions, segments)
    assert torch.equal(found[:, :11], Decoder(SMALL, seed=1).logits(tokens, one[1], one[2])[:, :11])
    assert not torch.allclose(found[:, 6:11], Decoder(SMALL, seed=1).logits(tokens, positions, segments)[:, 6:11])


def test_the_default_decoder_is_the_one_of_the_first_version():
    # Runs made before the variants existed must load and go on: names, table and loss as they were then.
    names = ["embedding.weight", "norm.weight"]
    for layer in range(2):
        parts = ["attention_norm", "feed_forward_norm"]
        parts += [f"attention.{part}" for part in ("query", "key", "value", "output")]
        parts += [f"feed_forward.{part}" for part in ("gate", "up", "down")]
        names += [f"layers.{layer}.{part}.weight" for part in parts]
    decoder = Decoder(SMALL, seed=3)
    assert sorted(decoder.state_dict()) == sorted(names)
    table = load_size("10m").model.as_table()
    assert list(table) == [
        "vocab_size", "layers", "hidden", "heads", "max_seq_len", "kv_heads", "ffn_hidden", "rope_theta", "norm_eps",
        "tie_embeddings", "init_std",
    ]  # fmt: skip
    loss = decoder(*packed_batch([[7, 9], [5, 1, 4], [16]], 16, 61))[0].item()
    assert loss == pytest.approx(172.47084045410156, rel=1e-6)  # computed by the first version


def test_every_variant_has_a_default_and_changes_the_table():
    assert set(EVERYTHING) - {"tie_embeddings"} == set(VARIANTS) - {"mup_base_head_dim"}
    config = msgspec.structs.replace(SMALL, **EVERYTHING)
    assert {**config.as_table(), **EVERYTHING} == config.as_table()


def test_weights_of_every_variant_come_back_from_disk(tmp_path):
    config = msgspec.structs.replace(SMALL, **EVERYTHING)
    decoder = Decoder(config, seed=2)
    save_weights(tmp_path / "w.pt", decoder.state_dict(), config)
    batch = packed_batch([[7, 9]], 16, SMALL.vocab_size)
    assert torch.equal(load_weights(tmp_path / "w.pt", config)(*batch)[0], decoder(*batch)[0])


def test_z_loss_has_the_gradient_of_its_formula_and_acts_in_training_only():
    config = msgspec.structs.replace(SMALL, z_loss=0.01)
    decoder, plain = Decoder(config, seed=4), Decoder(SMALL, seed=4)
    batch = packed_batch([[7, 9], [5, 1, 4]], 16, SMALL.vocab_size)
    logits = plain.logits(*batch[:3]).flatten(0, 1)
    targets = batch[3].flatten()
    log_sum = logits.logsumexp(-1)
    expected = F.cross_entropy(logits, targets, reduction="sum") + 0.01 * log_sum[targets >= 0].square().sum()
    found = decoder(*batch)[0]
    torch.testing.assert_close(found, expected)
    mine = torch.autograd.grad(found, list(decoder.parameters()))
    true = torch.autograd.grad(expected, list(plain.parameters()))
    for one, other in zip(mine, true, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert torch.equal(decoder.eval()(*batch)[0], plain(*batch)[0])


def test_biases_start_at_zero_gains_at_one_and_the_rest_with_its_stated_spread():
    config = msgspec.structs.replace(SMALL, **EVERYTHING, hidden=192, layers=2, vocab_size=300)
    ratio, wide = 192 / 12, 1 / math.sqrt(12)
    for name, weight in Decoder(config, seed=1).state_dict().items():
        if weight.dim() == 1:
            assert (weight == (0 if name.endswith("bias") else 1)).all(), name
            continue
        std = wide if "embedding" in name or name == "head.weight" else wide / math.sqrt(ratio)
        if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
            std /= 2
        assert standard_deviation(name, config) == pytest.approx(std)
        assert weight.std().item() == pytest.approx(0.987 * std, rel=0.06), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "batch"}, "norm"),
        ({"z_loss": -1.0}, "z_loss is -1.0; it must be 0 or a positive number"),
        ({"embedding_scale": 0.0}, "embedding_scale"),
        ({"mup_base_hidden": 0}, "mup_base_hidden is 0"),
        ({"mup_base_head_dim": 8}, "means nothing without model.mup_base_hidden"),
    ],
)
def test_variants_that_make_no_sense_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        ModelConfig.from_table({**SMALL.as_table(), **change})


def test_an_odd_head_can_have_learned_positions():
    shape = {"vocab_size": 5, "layers": 1, "hidden": 9, "heads": 3, "max_seq_len": 4}
    with pytest.raises(UsageError, match='positions = "learned"'):
        ModelConfig(**shape)
    assert ModelConfig(**shape, positions="learned").head_dim == 3


@pytest.mark.parametrize("change", [{}, EVERYTHING], ids=["plain", "variants"])
def test_parameters_are_used_only_inside_the_forward_of_the_module_that_owns_them(change):
    # ZeRO-3 gathers a module's parameters when its forward is entered and takes them away when it is left.
    config = msgspec.structs.replace(SMALL, **change)
    decoder = Decoder(config, seed=5)
    batch = packed_batch([[7, 9], [5, 1, 4]], 16, SMALL.vocab_size)
    expected = decoder(*batch)[0].item()
    whole = {parameter: parameter.data for parameter in decoder.parameters()}

    def gather(module, _given):
        for parameter in module.parameters(recurse=False):
            parameter.data = whole[parameter]

    def drop(module, _given, _result=None):
        for parameter in module.parameters(recurse=False):
            parameter.data = torch.empty(0)

    for module in decoder.modules():
        drop(module, None)
        module.register_forward_pre_hook(gather)
        module.register_forward_hook(drop)
    with torch.no_grad():
        assert decoder(*batch)[0].item() == expected


def test_every_variant_runs_in_bf16():
    config = msgspec.structs.replace(SMALL, **EVERYTHING)
    decoder = Decoder(config, seed=3)
    batch = packed_batch([[7, 9], [5, 1, 4]], 16, SMALL.vocab_size)
    exact = decoder(*batch)[0].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decoder(*batch)[0].item() == pytest.approx(exact, rel=1e-2)
    found, _ = decoder.bfloat16()(*batch)
    found.backward()
    assert found.item() == pytest.approx(exact, rel=1e-2)
    assert {parameter.grad.dtype for parameter in decoder.parameters()} == {torch.bfloat16}
