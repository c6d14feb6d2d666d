"""Hugging Face folders: what transformers computes from an export, and what an import must refuse."""

import json
import os
import pickle
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import DamagedInput, InputError, UsageError
from ptool.formats.artefacts import FolderWriter
from ptool.formats.manifests import new_manifest
from ptool.models import llama_folder
from ptool.models.config import ModelConfig
from ptool.models.decoder import Decoder
from ptool.models.huggingface import config_json, read_config
from ptool.models.llama_folder import folder_config, load_folder, write_folder
from tests.models.batches import SMALL, packed_batch

UNTIED = msgspec.structs.replace(SMALL, tie_embeddings=False)
FOLDED = {"embedding_scale": 3.0, "mup_base_hidden": 8, "mup_base_head_dim": 4}


def export(folder: Path, decoder: Decoder, **options) -> Path:
    with FolderWriter(folder, stage="export", config={}) as writer:
        write_folder(writer, decoder.state_dict(), decoder.config, eos_id=options.pop("eos_id", 2), **options)
        writer.commit(new_manifest("export", {}))
    return folder


def noisy(config: ModelConfig, seed: int = 1) -> Decoder:
    """A decoder whose gains are not all one."""
    decoder = Decoder(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return decoder


def their_logits(folder: Path, tokens: torch.Tensor, **options) -> torch.Tensor:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'ptool[bench]'"
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    with torch.no_grad():
        return model(tokens).logits


def our_logits(decoder: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    with torch.no_grad():
        return decoder.logits(tokens, positions, torch.zeros_like(tokens))


TOKENS = torch.randint(61, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"tie_embeddings": False},
        {"kv_heads": 1, "rope_theta": 500.0, "norm_eps": 1e-3},
        {"qk_norm": True},
        FOLDED,
        {**FOLDED, "tie_embeddings": False},
        {**FOLDED, "qk_norm": True},
        {"z_loss": 0.1, "document_mask": False, "init": "width"},
    ],
    ids=["tied", "untied", "multi-query", "qk-norm", "folded", "folded untied", "folded qk-norm", "training only"],
)
def test_transformers_computes_the_same_logits_from_an_export(tmp_path, change):
    decoder = noisy(msgspec.structs.replace(SMALL, **change))
    folder = export(tmp_path / "导出 hf", decoder)
    expected = our_logits(decoder, TOKENS)
    assert expected.std() > 0.01
    torch.testing.assert_close(their_logits(folder, TOKENS), expected, rtol=1e-4, atol=1e-5)
    # and the folder itself, without transformers
    torch.testing.assert_close(our_logits(load_folder(folder), TOKENS), expected, rtol=1e-4, atol=1e-5)


def test_bf16_exports_compute_nearly_the_same(tmp_path):
    decoder = noisy(SMALL)
    folder = export(tmp_path / "hf", decoder, dtype="bfloat16")
    found = their_logits(folder, TOKENS, dtype=torch.float32)
    expected = our_logits(decoder, TOKENS)
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_written_by_transformers_computes_the_same_here(tmp_path, kind, tied):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'ptool[bench]'"
    )
    torch.manual_seed(0)
    shape = {
        "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 16, "tie_word_embeddings": tied,
    }  # fmt: skip
    config = {"llama": transformers.LlamaConfig, "qwen3": transformers.Qwen3Config}[kind](**shape)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "hf", max_shard_size="10KB")
    assert (tmp_path / "hf" / "model.safetensors.index.json").is_file()
    with torch.no_grad():
        expected = model(TOKENS).logits
    torch.testing.assert_close(our_logits(load_folder(tmp_path / "hf"), TOKENS), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_folder_that_transformers_wrote_gives_the_logits_that_transformers_gave(kind):
    # data/KIND: written by transformers 5.23.0 (save_pretrained, random weights); logits.json: its logits of 0..15
    folder = Path(__file__).parent / "data" / kind
    expected = torch.tensor(json.loads((folder / "logits.json").read_text()))
    found = our_logits(load_folder(folder), torch.arange(16)[None])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    tied=st.booleans(),
    qk_norm=st.booleans(),
    kv_heads=st.sampled_from([1, 2, 4]),
    layers=st.integers(1, 3),
    shard_bytes=st.sampled_from([1, 5_000, 10**9]),
)
def test_weights_come_back_to_the_bit_from_any_number_of_files(
    tmp_path_factory, tied, qk_norm, kv_heads, layers, shard_bytes
):
    config = msgspec.structs.replace(SMALL, tie_embeddings=tied, qk_norm=qk_norm, kv_heads=kv_heads, layers=layers)
    decoder = noisy(config)
    folder = export(tmp_path_factory.mktemp("hf") / "out", decoder, shard_bytes=shard_bytes)
    loaded = load_folder(folder)
    assert loaded.config == config
    state = loaded.state_dict()
    assert state.keys() == decoder.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in decoder.state_dict().items())
    index = folder / "model.safetensors.index.json"
    assert index.is_file() == (shard_bytes < 10**9)
    assert loaded(*packed_batch([[7, 9]], 16, 61))[0].requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "layer"}, 'no Hugging Face Llama has norm = "layer"'),
        ({"norm_position": "post"}, 'norm_position = "post"'),
        ({"positions": "learned"}, 'positions = "learned"'),
        ({"feed_forward": "gelu"}, 'feed_forward = "gelu"'),
    ],
)
def test_variants_without_a_llama_are_refused_and_leave_nothing(tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        export(tmp_path / "hf", Decoder(msgspec.structs.replace(SMALL, **change)))
    assert not (tmp_path / "hf").exists()


LLAMA = config_json(SMALL, eos_id=2, dtype="float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "type gpt2, which is not read.*llama, mistral, qwen3"),
        ({"model_type": None}, "type None"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "scaled by llama3"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None}, "scaled by linear"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "scaled by yarn"),
        ({"attention_bias": True}, "biases in attention"),
        ({"mlp_bias": True}, "biases in the feed-forward"),
        ({"hidden_act": "gelu"}, "the activation gelu"),
        ({"head_dim": 8}, "heads of 8 numbers"),
        ({"model_type": "mistral", "sliding_window": 4096}, "a sliding window of 4096"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"num_attention_heads": 5, "head_dim": None}, "does not fit together"),
        ({"num_key_value_heads": 3}, "not divisible"),
        ({"rms_norm_eps": "small"}, "does not fit together"),
    ],
)
def test_models_with_parts_we_lack_are_refused_by_name(change, message):
    with pytest.raises(InputError, match=f"(?s)here.json: .*({message})") as refusal:
        read_config({**LLAMA, **change}, where="here.json")
    assert not isinstance(refusal.value, UsageError)


def test_old_and_new_spellings_of_a_config_are_read_alike():
    old = {**LLAMA, "rope_parameters": None, "rope_scaling": None, "rope_theta": 500.0}
    new = {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    del new["rope_theta"], new["num_key_value_heads"], old["head_dim"]
    assert read_config(old, where="x").rope_theta == read_config(new, where="x").rope_theta == 500.0
    assert read_config(new, where="x").num_kv_heads == SMALL.heads
    assert read_config(LLAMA, where="x") == SMALL


def rewrite(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_weights_of_another_model_are_named(tmp_path):
    folder = export(tmp_path / "hf", noisy(SMALL))
    for change, message in (
        ({"num_hidden_layers": 3}, r"missing layers\.2\."),
        ({"num_hidden_layers": 1}, r"unknown model\.layers\.1\."),
        ({"vocab_size": 60}, r"embedding\.weight has shape \[61, 24\], the configuration says \[60, 24\]"),
        ({"tie_word_embeddings": False}, r"missing head\.weight"),
    ):
        rewrite(folder, **{**LLAMA, **change})
        assert folder_config(folder) != SMALL
        with pytest.raises(InputError, match=message):
            load_folder(folder)


def test_a_tied_head_written_twice_must_be_the_embedding(tmp_path):
    folder = export(tmp_path / "hf", noisy(UNTIED))
    rewrite(folder, tie_word_embeddings=True)
    with pytest.raises(InputError, match="differs from the embedding"):
        load_folder(folder)
    decoder = noisy(UNTIED)
    with torch.no_grad():
        decoder.head.weight.copy_(decoder.embedding.weight)
    folder = export(tmp_path / "twice", decoder)
    rewrite(folder, tie_word_embeddings=True)
    assert load_folder(folder).head is None


class Malice:
    """Unpickling this runs a command."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_pickled_weights_are_refused_and_nothing_runs(tmp_path):
    folder = export(tmp_path / "hf", noisy(SMALL))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Malice(tmp_path / "ran")))
    with pytest.raises(InputError, match="only pickled weights are there"):
        load_folder(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Malice(tmp_path / "ran")))
    with pytest.raises(DamagedInput, match="not a readable safetensors file"):
        load_folder(folder)
    assert not (tmp_path / "ran").exists()


def test_cut_and_missing_files_are_one_clear_error(tmp_path):
    folder = export(tmp_path / "hf", noisy(SMALL))
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    for size in (0, 4, 100, len(data) - 1):
        weights.write_bytes(data[:size])
        with pytest.raises(DamagedInput, match="safetensors"):
            load_folder(folder)
    weights.unlink()
    with pytest.raises(InputError, match="no model.safetensors"):
        load_folder(folder)
    for text, kind in (("{", DamagedInput), ("[]", InputError), ("[" * 100_000, DamagedInput)):
        (folder / "config.json").write_text(text)
        with pytest.raises(kind, match=r"config\.json"):
            load_folder(folder)
    with pytest.raises(InputError, match="a Hugging Face model folder has one"):
        load_folder(tmp_path)


def test_an_index_that_leaves_its_folder_or_lies_is_refused(tmp_path):
    folder = export(tmp_path / "hf", noisy(SMALL), shard_bytes=5_000)
    index = folder / llama_folder.INDEX
    table = json.loads(index.read_text())
    for name in ("../other.safetensors", "/etc/passwd", "", 7):
        index.write_text(json.dumps({**table, "weight_map": {**table["weight_map"], "model.norm.weight": name}}))
        with pytest.raises(InputError, match="outside its folder"):
            load_folder(folder)
    files = sorted(set(table["weight_map"].values()))
    moved = dict.fromkeys(table["weight_map"], files[0])
    index.write_text(json.dumps({**table, "weight_map": moved}))
    with pytest.raises(DamagedInput, match="does not hold what"):
        load_folder(folder)
    index.write_text(json.dumps({**table, "weight_map": {"model.norm.weight": "absent.safetensors"}}))
    with pytest.raises(InputError, match="not there"):
        load_folder(folder)
