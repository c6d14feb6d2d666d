import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import InputError
from ptool.evaluation.perplexity import Document, score_documents
from ptool.evaluation.scores import Tally
from ptool.models.config import ModelConfig
from ptool.models.decoder import Decoder

CONFIG = ModelConfig(vocab_size=23, layers=1, hidden=16, heads=2, ffn_hidden=24, max_seq_len=8)
EOD = 2


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    made = Decoder(CONFIG, seed=4)
    with torch.no_grad():  # larger weights, so that every token has a loss of its own
        for parameter in made.parameters():
            parameter.mul_(12 if parameter.dim() > 1 else 1)
    return made


def loss_one_token_at_a_time(decoder: Decoder, tokens: list[int], eod_id: int | None) -> float:
    """The twin: for each token of the text, the whole window before it, one row, one softmax."""
    sequence = tokens if eod_id is None else [eod_id, *tokens]
    total = math.log(CONFIG.vocab_size) if eod_id is None and tokens else 0.0
    for place in range(1, len(sequence)):
        start = (place - 1) // CONFIG.max_seq_len * CONFIG.max_seq_len
        seen = torch.tensor([sequence[start:place]])
        positions = torch.arange(seen.shape[1])[None]
        logits = decoder.logits(seen, positions, torch.zeros_like(positions))[0, -1]
        total -= torch.log_softmax(logits.double(), dim=0)[sequence[place]].item()
    return total


def documents(
    lengths: list[int], seed: int = 0, sources: tuple[str | None, ...] = ("web", None, "书")
) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [
        Document(f"d{n}", sources[n % len(sources)], 3 * length, rng.integers(3, CONFIG.vocab_size, length))
        for n, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("eod_id", [EOD, None])
@pytest.mark.parametrize("batch_tokens", [1, 16, 10_000])
def test_losses_equal_those_of_a_loop_over_single_tokens(decoder, eod_id, batch_tokens):
    docs = documents([1, 0, 7, 8, 9, 16, 17, 30, 2, 3])
    found = score_documents(decoder, docs, eod_id=eod_id, batch_tokens=batch_tokens)
    assert list(found) == ["web", None, "书"]
    for source, tally in found.items():
        mine = [doc for doc in docs if doc.source == source]
        expected = sum(loss_one_token_at_a_time(decoder, doc.tokens.tolist(), eod_id) for doc in mine)
        assert tally.num_documents == len(mine)
        assert tally.num_tokens == sum(len(doc.tokens) for doc in mine)
        assert tally.num_bytes == 3 * tally.num_tokens
        assert tally.loss_sum == pytest.approx(expected, rel=1e-5)


def test_a_model_without_a_final_norm_is_scored_too():
    bare = Decoder(msgspec.structs.replace(CONFIG, norm_position="post", positions="learned"), seed=4)
    (doc,) = documents([9])
    tally = score_documents(bare, [doc], eod_id=EOD, batch_tokens=64)["web"]
    assert tally.loss_sum == pytest.approx(loss_one_token_at_a_time(bare, doc.tokens.tolist(), EOD), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 30), max_size=12), batch_tokens=st.integers(1, 64), seed=st.integers(0, 99))
def test_the_batch_size_and_the_order_of_documents_change_nothing_but_rounding(decoder, lengths, batch_tokens, seed):
    docs = documents(lengths, seed)
    whole = score_documents(decoder, docs, eod_id=EOD)
    parts = score_documents(decoder, docs[::-1], eod_id=EOD, batch_tokens=batch_tokens)
    assert set(whole) == set(parts)
    for source in whole:
        assert parts[source].loss_sum == pytest.approx(whole[source].loss_sum, rel=1e-5)
        assert parts[source].num_tokens == whole[source].num_tokens


def test_averages_are_those_of_the_sums(decoder):
    docs = documents([5, 12, 20], sources=("one",))
    tally = score_documents(decoder, docs, eod_id=EOD)["one"]
    score = tally.score()
    assert score.loss == pytest.approx(tally.loss_sum / 37)
    assert score.perplexity == pytest.approx(math.exp(tally.loss_sum / 37))
    assert score.bits_per_byte == pytest.approx(tally.loss_sum / math.log(2) / (3 * 37))


def test_a_total_weighs_tokens_not_documents_or_sources():
    total = Tally()
    total.add(Tally(num_documents=1, num_tokens=10, num_bytes=40, loss_sum=10.0))
    total.add(Tally(num_documents=5, num_tokens=30, num_bytes=60, loss_sum=90.0))
    score = total.score()
    assert (score.num_documents, score.num_tokens, score.num_bytes) == (6, 40, 100)
    assert score.loss == 2.5
    assert score.bits_per_byte == pytest.approx(1.0 / math.log(2))


def test_unknown_bytes_leave_bits_per_byte_undefined_and_the_rest_alone(decoder):
    docs = documents([5, 6], sources=("one",))
    docs[1] = docs[1]._replace(num_bytes=0)
    score = score_documents(decoder, docs, eod_id=EOD)["one"].score()
    assert (score.num_bytes, score.bits_per_byte) == (None, None)
    assert score.loss is not None


def test_nothing_to_score_gives_no_numbers(decoder):
    assert score_documents(decoder, [], eod_id=EOD) == {}
    score = score_documents(decoder, documents([0], sources=("empty",)), eod_id=EOD)["empty"].score()
    assert (score.num_documents, score.num_tokens, score.num_bytes) == (1, 0, 0)
    assert (score.loss, score.perplexity, score.bits_per_byte) == (None, None, None)
    assert Tally(num_tokens=1, loss_sum=1e4).score().perplexity is None


@pytest.mark.parametrize("outside", [23, -1])
def test_a_token_outside_the_vocabulary_is_named_with_its_document(decoder, outside):
    with pytest.raises(InputError, match=rf"document x: token {outside} is outside .* vocabulary of 23"):
        score_documents(decoder, [Document("x", None, 3, np.array([5, outside]))], eod_id=EOD)


def test_weights_with_a_nan_are_said_and_not_averaged():
    broken = Decoder(CONFIG, seed=0)
    with torch.no_grad():
        broken.embedding.weight[7, 0] = float("nan")
    with pytest.raises(InputError, match="document x: the loss is nan"):
        score_documents(broken, [Document("x", None, 3, np.array([7, 7]))], eod_id=EOD)


def test_a_long_document_is_not_held_back_until_the_end(decoder):
    seen: list[tuple[int, int | None, str]] = []

    class Watching:
        def notice(self, text):
            raise AssertionError(text)

        def progress(self, done, total, *, unit, detail=""):
            seen.append((done, total, unit))

    score_documents(decoder, documents([2000] * 2), eod_id=EOD, batch_tokens=64, reporter=Watching(), total_tokens=4000)
    assert len(seen) > 2
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert {(total, unit) for _, total, unit in seen} == {(4000, "tokens")}
