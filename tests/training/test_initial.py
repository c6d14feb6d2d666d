"""Weights to begin with: whose shape the run takes, what may be asked besides, and that they are the same later."""

from __future__ import annotations

import msgspec
import pytest
import torch

from ptool.errors import InputError, UsageError
from ptool.formats.artefacts import FolderWriter
from ptool.formats.manifests import new_manifest
from ptool.models.config import ModelConfig
from ptool.models.decoder import Decoder
from ptool.models.execution import Execution
from ptool.models.llama_folder import write_folder
from ptool.training import initial
from ptool.training.initial import find, settings_with_initial
from ptool.training.resolving import DataFacts, MachineFacts, check, resolve
from tests.training import plans

SHAPE = ModelConfig(vocab_size=70, layers=2, hidden=16, heads=2, max_seq_len=16, norm_eps=1e-6)
LAPTOP = MachineFacts(device="cpu", num_gpus=0, num_cpus=2, fast_bf16=False)


def hugging_face(folder, seed=1, shape=SHAPE):
    decoder = Decoder(shape, seed=seed)
    with FolderWriter(folder, stage="export", config={}) as writer:
        write_folder(writer, decoder.state_dict(), shape, eos_id=0)
        writer.commit(new_manifest("export", {}))
    return folder


@pytest.fixture
def folder(tmp_path):
    return hugging_face(tmp_path / "模型 hf")


def planned(folder, *, vocab_size=64, seq_len=32, **tables):
    given = check({**tables, "run": {"init": str(folder), "max_steps": 2}})
    data = DataFacts(folders=(plans.folder(seq_len=seq_len),), vocab_size=vocab_size)
    return resolve(settings_with_initial(given, seq_len=seq_len, vocab_size=vocab_size), data, LAPTOP)


def test_the_run_takes_the_shape_of_the_weights_and_records_their_digest(folder):
    config = planned(folder)
    assert config.model_config == msgspec.structs.replace(SHAPE, max_seq_len=32, kv_heads=2, ffn_hidden=64)
    assert (config.run.init, config.run.init_digest) == (str(folder.resolve()), find(folder).digest)
    assert planned(folder, seq_len=8).model_config.max_seq_len == 16, "and keeps its length"
    assert planned(folder / "manifest.json") == config


def test_the_weights_come_back_to_the_bit(folder):
    decoder = initial.load(planned(folder, model={"z_loss": 1e-4}), execution=Execution(recompute="full"))
    expected = Decoder(SHAPE, seed=1).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in decoder.state_dict().items())
    assert (decoder.config.z_loss, decoder.execution.recompute) == (1e-4, "full")
    assert all(parameter.requires_grad for parameter in decoder.parameters())


@pytest.mark.parametrize("change", ["weights", "config.json"])
def test_weights_that_changed_since_planning_are_refused(folder, change):
    config = planned(folder)
    if change == "weights":
        (folder / "model.safetensors").rename(folder / "away")
        hugging_face(folder.parent / "other", seed=2)
        (folder.parent / "other" / "model.safetensors").rename(folder / "model.safetensors")
    else:
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace("10000.0", "50000.0"))
    with pytest.raises(InputError, match="the weights to begin with changed"):
        initial.load(config, execution=Execution())


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"hidden": 32}, "model.hidden is 32, and the weights have 16"),
        ({"tie_embeddings": False}, "model.tie_embeddings is False"),
        ({"size": "10m"}, "no --model beside --init"),
    ],
)
def test_another_shape_is_refused(folder, model, told):
    with pytest.raises(UsageError, match=told):
        planned(folder, model=model)


def test_what_no_weight_depends_on_may_be_asked(folder):
    asked = {"z_loss": 1e-4, "document_mask": False, "max_seq_len": 64, "rope_theta": 5e5, "hidden": 16}
    model = planned(folder, model=asked).model_config
    assert {name: getattr(model, name) for name in asked} == asked


def test_a_larger_vocabulary_in_the_data_is_refused_and_a_smaller_one_is_not(folder):
    assert planned(folder, vocab_size=70).model_config.vocab_size == 70
    with pytest.raises(UsageError, match="need a vocabulary of 71, and the weights have 70"):
        planned(folder, vocab_size=71)


def test_a_folder_without_weights_says_what_would_do(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find(tmp_path / "gone")
    with pytest.raises(InputError, match=r"no weights to begin with.*a Hugging Face Llama folder, a run folder"):
        find(tmp_path)


def test_without_a_folder_nothing_changes():
    given = {"run": {"seed": 1}, "model": {"size": "10m"}}
    assert settings_with_initial(given, seq_len=8, vocab_size=9) is given
