import msgspec
import pytest
import torch
from torch.nn import functional as F

from ptool.models.decoder import Decoder
from ptool.models.init import CUTOFF, standard_deviation
from tests.models.batches import SMALL, packed_batch


def full_cross_entropy(decoder: Decoder, tokens, positions, segments, targets) -> torch.Tensor:
    logits = decoder.logits(tokens, positions, segments)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def gradients(decoder: Decoder, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    decoder.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in decoder.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_every_gradient_equal_those_of_whole_logits(tied):
    decoder = Decoder(msgspec.structs.replace(SMALL, tie_embeddings=tied), seed=3)
    batch = packed_batch([[7, 9], [5, 1, 4]], 16, SMALL.vocab_size)
    loss, num_targets = decoder(*batch)
    assert num_targets.item() == 26
    assert loss.dtype == torch.float32
    expected = full_cross_entropy(decoder, *batch)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    found, wanted = gradients(decoder, loss / 26), gradients(decoder, expected / 26)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-6, msg=name)
    assert torch.equal(decoder.token_losses(*batch) > 0, batch[3] >= 0)
    torch.testing.assert_close(decoder.token_losses(*batch).sum(), loss)


def test_no_gradient_crosses_a_segment_boundary():
    decoder = Decoder(SMALL, seed=3)
    tokens, positions, segments, targets = packed_batch([[7, 9]], 16, SMALL.vocab_size)
    inputs: list[torch.Tensor] = []

    def remember(_module, args, output):
        if not args[0].is_floating_point():
            output.retain_grad()
            inputs.append(output)

    decoder.embedding.register_forward_hook(remember)
    for first, last, silent in ((0, 7, slice(7, 16)), (7, 16, slice(0, 7))):
        only = torch.full_like(targets, -100)
        only[:, first:last] = targets[:, first:last]
        decoder(tokens, positions, segments, only)[0].backward()
        gradient = inputs.pop().grad[0]
        assert gradient[silent].abs().max() == 0
        assert (gradient[first:last].abs().amax(dim=1) > 0).all()


def test_a_document_has_the_same_losses_packed_as_alone():
    decoder = Decoder(SMALL, seed=3)
    tokens, positions, segments, targets = packed_batch([[7, 9]], 16, SMALL.vocab_size)
    packed = decoder.token_losses(tokens, positions, segments, targets)[0]
    for first, last in ((0, 7), (7, 16)):
        piece = [part[:, first:last] for part in (tokens, positions, segments, targets)]
        torch.testing.assert_close(decoder.token_losses(*piece)[0], packed[first:last], rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing_and_makes_no_nan():
    decoder = Decoder(SMALL, seed=3)
    batch = packed_batch([[5], []], 16, SMALL.vocab_size)
    loss, num_targets = decoder(*batch)
    alone, _ = decoder(*(part[:1, :5] for part in batch))
    assert num_targets.item() == 5
    torch.testing.assert_close(loss, alone)
    assert all(gradient.isfinite().all() for gradient in gradients(decoder, loss).values())


def test_a_step_is_the_same_to_the_bit_when_run_again():
    batch = packed_batch([[7, 9], [5, 1, 4]], 16, SMALL.vocab_size)
    runs = []
    for _ in range(2):
        decoder = Decoder(SMALL, seed=3)
        loss, _ = decoder(*batch)
        runs.append({"loss": loss.detach(), **gradients(decoder, loss)})
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_weights_follow_from_seed_and_name_and_nothing_else():
    first = Decoder(SMALL, seed=5).state_dict()
    torch.manual_seed(99)  # the global generator has no say
    torch.rand(17)
    again = Decoder(SMALL, seed=5).state_dict()
    deeper = Decoder(msgspec.structs.replace(SMALL, layers=3), seed=5).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(first["layers.1.attention.query.weight"], deeper["layers.1.attention.query.weight"])
    assert not torch.equal(first["layers.0.attention.query.weight"], first["layers.1.attention.query.weight"])
    assert not torch.equal(first["embedding.weight"], Decoder(SMALL, seed=6).state_dict()["embedding.weight"])


def test_weights_have_the_stated_spread():
    config = msgspec.structs.replace(SMALL, hidden=96, layers=8, vocab_size=500)
    for name, weight in Decoder(config, seed=1).state_dict().items():
        if weight.dim() == 1:
            assert (weight == 1).all(), name
            continue
        std = 0.02 / 4 if name.endswith(("attention.output.weight", "feed_forward.down.weight")) else 0.02
        assert standard_deviation(name, config) == pytest.approx(std)
        assert weight.abs().max() <= CUTOFF * std
        # cutting at three deviations leaves 0.987 of the spread
        assert weight.std().item() == pytest.approx(0.987 * std, rel=0.05), name


def test_a_fresh_decoder_knows_nothing():
    # The loss of a model that has learnt nothing is near ln(vocabulary).
    batch = packed_batch([[16]] * 8, 16, SMALL.vocab_size)
    loss, num_targets = Decoder(SMALL, seed=0)(*batch)
    assert (loss / num_targets).item() == pytest.approx(torch.tensor(61.0).log().item(), abs=0.05)


def test_autocast_gives_fp32_gradients_close_to_the_exact_ones():
    decoder = Decoder(SMALL, seed=3)
    batch = packed_batch([[7, 9], [5, 1, 4]], 16, SMALL.vocab_size)
    exact, _ = decoder(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = decoder(*batch)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=1e-2)
    mine, true = gradients(decoder, found), gradients(decoder, exact)
    for name in true:
        assert mine[name].dtype == torch.float32
        assert (mine[name] - true[name]).norm() < 0.05 * true[name].norm(), name


def test_a_bf16_model_has_an_fp32_loss_close_to_the_exact_one():
    decoder = Decoder(SMALL, seed=3)
    batch = packed_batch([[7, 9], [5, 1, 4]], 16, SMALL.vocab_size)
    exact = decoder(*batch)[0].item()
    found, _ = decoder.bfloat16()(*batch)
    found.backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact, rel=1e-2)
    assert {parameter.grad.dtype for parameter in decoder.parameters()} == {torch.bfloat16}
