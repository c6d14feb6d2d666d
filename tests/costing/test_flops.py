import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.costing.estimate import estimate_cost
from ptool.costing.flops import count_flops
from ptool.costing.inputs import Corpus, read_model
from ptool.costing.shapes import Shape, named_shape
from ptool.units import Band

# Korthikanti et al. 2022, table 5 and equation for one step: layers, width, GPUs, batch rows, seconds, MFU in percent.
KORTHIKANTI = [(48, 6144, 8, 4, 1.10, 41.7), (96, 12288, 64, 64, 13.75, 51.4), (105, 20480, 280, 280, 37.83, 56.0),
               (128, 25600, 512, 512, 71.49, 56.3)]  # fmt: skip


@pytest.mark.parametrize(("layers", "hidden", "gpus", "rows", "seconds", "percent"), KORTHIKANTI)
def test_step_times_of_korthikanti_imply_the_mfu_that_the_paper_prints(layers, hidden, gpus, rows, seconds, percent):
    """They count whole attention squares, and the head over a vocabulary of 51,200."""
    shape = Shape(51_200, layers, hidden, hidden // 128, hidden // 128, 128, 4 * hidden, gated=False)
    counted = count_flops(shape, rows * 2048, mean_span=2048)
    assert counted.by("full") / (gpus * 312e12 * seconds) * 100 == pytest.approx(percent, abs=0.15)


# llm-foundry, scripts/train/benchmarking, 512 and 128 H100s, rows of 2,048: layers, width, heads, tokens per second on
# one GPU, MFU in percent with whole attention squares. Its peak is 989 TFLOP/s.
LLM_FOUNDRY = [(80, 8192, 64, 1007, 41.25), (48, 7168, 56, 2115, 40.27), (32, 4096, 32, 9670, 42.2),
               (24, 2048, 16, 44_123, 40.6)]  # fmt: skip


@pytest.mark.parametrize(("layers", "hidden", "heads", "speed", "percent"), LLM_FOUNDRY)
def test_llm_foundrys_table_is_counted_with_whole_squares(layers, hidden, heads, speed, percent):
    shape = Shape(50_432, layers, hidden, heads, heads, hidden // heads, 4 * hidden, gated=False)
    counted = count_flops(shape, speed, mean_span=2048)
    assert counted.by("full") / 989e12 * 100 == pytest.approx(percent, abs=0.12)


def token_by_token(shape, documents):
    """The twin: every matrix and every score, one token at a time."""
    matrices = 2 * shape.hidden**2 + 2 * shape.hidden * shape.kv_heads * shape.head_dim
    matrices = shape.layers * (matrices + 3 * shape.hidden * shape.ffn_hidden) + shape.vocab_size * shape.hidden
    linear = square = 0
    for length in documents:
        for _ in range(length):
            linear += 2 * matrices
            square += shape.layers * 2 * 2 * shape.hidden * length  # scores and mixing, over the whole document
    return 3 * linear, 3 * square


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_packed_documents_are_counted_by_their_squared_lengths(documents):
    shape = Shape(100, 3, 32, 4, 2, 8, 48)
    span = sum(n * n for n in documents) / sum(documents)
    found = count_flops(shape, sum(documents), mean_span=span)
    linear, square = token_by_token(shape, documents)
    assert found.linear == pytest.approx(linear)
    assert found.attention_full == pytest.approx(square)
    assert found.attention == pytest.approx(square / 2)


def test_recomputing_everything_costs_a_third_more():
    found = count_flops(named_shape("7b"), 10**12, mean_span=4096, recompute="full")
    assert found.recompute == pytest.approx(found.by("causal") / 3)
    assert count_flops(named_shape("7b"), 10**12, mean_span=4096, recompute="selective").recompute == pytest.approx(
        found.attention / 3
    )


def test_a_mixture_counts_the_experts_that_a_token_passes():
    arch = "layers=4,hidden=64,heads=4,ffn_hidden=128,vocab_size=100"
    mixture = read_model(arch=f"{arch},experts=8,active_experts=2").shape
    dense = read_model(arch=arch).shape
    router = 4 * 64 * 8
    assert mixture.matmul_parameters() == dense.matmul_parameters() + 4 * 3 * 64 * 128 + router
    assert mixture.num_parameters() - mixture.num_parameters(active=True) == 4 * 6 * 3 * 64 * 128


def test_one_rate_has_three_names_and_the_same_hours():
    model = read_model(name="7b")
    one = estimate_cost(model=model, tokens=10**12, mfu=Band(0.4, 0.4, 0.4), num_gpus=64)
    for convention in ("causal", "full"):
        mfu = one.mfu_by(convention)
        other = estimate_cost(model=model, tokens=10**12, mfu=Band(mfu, mfu, mfu), num_gpus=64, convention=convention)
        assert other.gpu_hours == pytest.approx(one.gpu_hours)
        assert mfu > 0.4


def test_at_65k_the_same_run_reads_8_18_and_29_percent():
    """llm-foundry's 7B at 65k tokens per row: its MFU depends on the name of the convention."""
    shape = Shape(50_432, 32, 4096, 32, 32, 128, 16_384, gated=False, tie_embeddings=True)
    counted = count_flops(shape, 1.0, mean_span=65_536)
    six_nd = 6 * shape.num_parameters()
    assert counted.by("causal") / six_nd == pytest.approx(18.4 / 8.2, rel=0.03)
    assert counted.by("full") / six_nd == pytest.approx(28.6 / 8.2, rel=0.03)
    model = read_model(name="1b")
    long = estimate_cost(model=model, corpus=Corpus(10**12, 65_536.0), num_gpus=64)
    assert "long-sequence" in [warned.code for warned in long.warnings]
    short = estimate_cost(model=model, corpus=Corpus(10**12, 512.0), num_gpus=64)
    assert "long-sequence" not in [warned.code for warned in short.warnings]
