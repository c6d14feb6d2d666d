import math
import subprocess
import sys

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import UsageError
from ptool.models.config import ModelConfig, load_size, size_names
from ptool.models.decoder import Decoder


def module_parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(config).parameters())


@pytest.mark.parametrize("name", size_names())
def test_the_parameter_count_equals_the_module_s_for_every_named_size(name):
    config = load_size(name).model
    assert config.num_parameters() == module_parameters(config)
    other = msgspec.structs.replace(config, vocab_size=12_345)
    assert other.num_parameters() == module_parameters(other)
    assert other.num_non_embedding_parameters() == config.num_non_embedding_parameters()


@settings(max_examples=25, deadline=None)
@given(
    layers=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 4, 6]),
    half_head=st.integers(1, 9),
    shared=st.sampled_from([1, 2]),
    ffn_hidden=st.none() | st.integers(1, 100),
    vocab_size=st.integers(1, 99),
    tied=st.booleans(),
)
def test_the_parameter_count_equals_the_module_s_for_any_shape(
    layers, heads, half_head, shared, ffn_hidden, vocab_size, tied
):
    config = ModelConfig(
        vocab_size=vocab_size,
        layers=layers,
        hidden=2 * half_head * heads,
        heads=heads,
        kv_heads=heads // math.gcd(shared, heads),
        ffn_hidden=ffn_hidden,
        max_seq_len=8,
        tie_embeddings=tied,
    )
    assert config.num_parameters() == module_parameters(config)


def test_the_published_shapes_have_the_published_counts():
    # Llama 2 7B, 13B and 70B; TinyLlama: the counts of their released weights.
    released = {"7b": 6_738_415_616, "13b": 13_015_864_320, "70b": 68_976_648_192, "1b": 1_100_048_384}
    assert {name: load_size(name).model.num_parameters() for name in released} == released


def test_a_size_is_called_by_its_rounded_parameter_count():
    names = size_names()
    assert names == ["10m", "30m", "125m", "350m", "1b", "3b", "7b", "13b", "70b"]
    for name in names:
        called = float(name[:-1]) * {"m": 1e6, "b": 1e9}[name[-1]]
        assert load_size(name).model.num_parameters() == pytest.approx(called, rel=0.11)


def test_every_size_carries_its_training_values():
    for name in size_names():
        size = load_size(name)
        assert size.seq_len <= size.model.max_seq_len
        assert size.batch_tokens % size.seq_len == 0
    assert [load_size(name).peak_lr for name in ("7b", "13b", "70b")] == [3e-4, 3e-4, 1.5e-4]
    assert {load_size(name).batch_tokens for name in ("7b", "13b", "70b")} == {4 * 2**20}


def test_an_unknown_size_names_the_nearest_one():
    with pytest.raises(UsageError, match=r"unknown model size 7bn.*did you mean 7b\?.*10m, 30m"):
        load_size("7bn")
    assert load_size("70B").name == "70b"


def test_an_unknown_key_names_the_nearest_one():
    table = {**load_size("10m").model.as_table(), "layer": 3}
    with pytest.raises(UsageError, match=r"run.toml: unknown key layer in \[model\].*did you mean layers\?"):
        ModelConfig.from_table(table, where="run.toml")


def test_a_mistyped_or_missing_value_is_a_usage_error():
    table = load_size("10m").model.as_table()
    with pytest.raises(UsageError, match="layers"):
        ModelConfig.from_table({**table, "layers": "nine"})
    del table["hidden"]
    with pytest.raises(UsageError, match="hidden"):
        ModelConfig.from_table(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 100, "heads": 3}, r"hidden \(100\) is not divisible.*heads = 2 would fit"),
        ({"hidden": 9, "heads": 3}, "cannot be rotated"),
        ({"heads": 4, "kv_heads": 3}, r"not divisible by model.kv_heads.*kv_heads = [24] would fit"),
        ({"layers": 0}, "layers is 0"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"rope_theta": float("nan")}, "rope_theta is nan"),
        ({"init_std": float("inf")}, "init_std is inf"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(change, message):
    table = {"vocab_size": 10, "layers": 1, "hidden": 8, "heads": 2, "max_seq_len": 8, **change}
    with pytest.raises(UsageError, match=message):
        ModelConfig.from_table(table)


def test_a_resolved_table_reads_back_as_the_same_shape():
    config = ModelConfig(vocab_size=10, layers=1, hidden=8, heads=2, max_seq_len=8)
    table = config.as_table()
    assert None not in table.values()
    assert ModelConfig.from_table(table).as_table() == table


def test_shapes_and_counts_need_no_torch_and_no_numpy():
    code = (
        "import sys; from ptool.models.config import load_size; load_size('70b').model.num_parameters();"
        "sys.exit(' '.join({'torch', 'numpy', 'numba', 'pydantic', 'rich'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
