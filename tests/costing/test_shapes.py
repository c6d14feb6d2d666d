import json

import pytest

from ptool.costing.configs import read_config
from ptool.costing.shapes import named_shape, parse_shape, sizes, step_tokens
from ptool.errors import InputError, UsageError
from ptool.models.config import load_size, size_names

LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}

# Parameter counts as the repositories' safetensors headers give them (without DeepSeek's extra prediction layer).
PUBLISHED = {
    "llama-3-8b": (
        {**LLAMA, "vocab_size": 128256, "num_key_value_heads": 8, "intermediate_size": 14336}, 8_030_261_248, None,
    ),
    "llama-2-7b": ({**LLAMA, "vocab_size": 32000, "intermediate_size": 11008}, 6_738_415_616, None),
    "qwen2.5-7b": (
        {"model_type": "qwen2", "vocab_size": 152064, "num_hidden_layers": 28, "hidden_size": 3584,
         "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944},
        7_615_616_512, None,
    ),
    "qwen3-8b": (
        {"model_type": "qwen3", "vocab_size": 151936, "num_hidden_layers": 36, "hidden_size": 4096,
         "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288},
        8_190_735_360, None,
    ),
    "mixtral-8x7b": (
        {**LLAMA, "model_type": "mixtral", "vocab_size": 32000, "num_key_value_heads": 8, "intermediate_size": 14336,
         "num_local_experts": 8, "num_experts_per_tok": 2},
        46_702_792_704, 12_879_925_248,
    ),
    "gpt2": (
        {"model_type": "gpt2", "vocab_size": 50257, "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024},
        124_439_808, None,
    ),
    "pythia-12b": (
        {"model_type": "gpt_neox", "vocab_size": 50688, "num_hidden_layers": 36, "hidden_size": 5120,
         "num_attention_heads": 40, "intermediate_size": 20480},
        11_846_072_320, None,
    ),
    "olmoe": (
        {"model_type": "olmoe", "vocab_size": 50304, "num_hidden_layers": 16, "hidden_size": 2048,
         "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 1024, "num_experts": 64,
         "num_experts_per_tok": 8},
        6_919_161_856, None,
    ),
    "deepseek-v3": (
        {"model_type": "deepseek_v3", "vocab_size": 129280, "num_hidden_layers": 61, "hidden_size": 7168,
         "num_attention_heads": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048,
         "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
         "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
         "v_head_dim": 128, "topk_method": "noaux_tc"},
        671_026_419_200, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_configuration_has_its_published_number_of_parameters(name, tmp_path):
    config, params, active = PUBLISHED[name]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    found = read_config(path)
    assert found.doubt is None
    assert found.shape.num_parameters() == params
    if active:
        assert found.shape.num_parameters(active=True) == active


def test_deepseek_v3_has_37_billion_active_parameters(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["deepseek-v3"][0]))
    active = read_config(tmp_path / "config.json").shape.num_parameters(active=True)
    assert round(active / 1e9) in (37, 38)


@pytest.mark.parametrize("name", size_names())
def test_every_named_size_is_the_one_that_train_builds(name):
    config = load_size(name).model
    assert named_shape(name).num_parameters() == config.num_parameters()
    assert step_tokens(name) == load_size(name).batch_tokens
    assert list(sizes()) == size_names()


@pytest.mark.parametrize("name", ["10m", "1b", "70b"])
def test_the_count_is_the_modules_own(name):
    import torch

    from ptool.models.decoder import Decoder

    with torch.device("meta"):
        module = Decoder(load_size(name).model)
    assert sum(p.numel() for p in module.parameters()) == named_shape(name).num_parameters()


def test_a_toml_of_ours_and_the_same_shape_typed_out_agree(tmp_path):
    (tmp_path / "run.toml").write_text('[model]\nsize = "7b"\nlayers = 16\n[data]\nseq_len = 5\n')
    written = read_config(tmp_path / "run.toml").shape
    typed = parse_shape("layers=16,hidden=4096,heads=32,ffn_hidden=11008,tie_embeddings=false")
    assert written.num_parameters() == typed.num_parameters()
    assert parse_shape("layers=2,hidden=256,heads=4,vocab_size=1K").ffn_hidden == 704  # 8/3, up to a multiple of 64


def test_an_unknown_family_is_counted_like_llama_and_says_so(tmp_path):
    config = {**PUBLISHED["llama-3-8b"][0], "model_type": "llama9"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_config(tmp_path / "config.json")
    assert found.shape.num_parameters() == 8_030_261_248
    assert "llama9" in found.doubt


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", InputError, "neither JSON nor TOML"),
        ("5", InputError, "neither JSON nor TOML"),
        ("[1]", UsageError, "unknown key"),
        ('{"hidden_size": 5}', UsageError, "not a Hugging Face"),
        ("[model]\nlayers = 2\n", UsageError, "lacks hidden, heads"),
        ("[model]\nlayer = 2\n", UsageError, "did you mean layers"),
        ('[model]\nsize = "8b"\n', UsageError, "unknown model size"),
        ("[model]\nlayers = 2\nhidden = 100\nheads = 3\n", UsageError, "divide evenly"),
    ],
)
def test_a_file_without_a_shape_is_refused_with_the_reason(text, error, message, tmp_path):
    (tmp_path / "a config").write_text(text)
    with pytest.raises(error) as raised:
        read_config(tmp_path / "a config")
    assert message in str(raised.value)


def test_a_file_that_is_not_there_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_config(tmp_path / "nothing.json")
