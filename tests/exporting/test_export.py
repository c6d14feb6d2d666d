"""A run exported as a command and read back: by ptool, by the tokenizers library, by transformers where it is there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptool.errors import DamagedInput, InputError, UsageError
from ptool.exporting.run import export_run
from ptool.exporting.tokenizer_json import tokenizer_json
from ptool.formats.artefacts import open_artefact
from ptool.formats.manifests import encode_manifest, new_manifest
from ptool.models.decoder import Decoder
from ptool.models.llama_folder import load_folder
from ptool.tokenizers.byte_values import CONTENT
from ptool.tokenizers.loading import load_tokenizer
from tests.evaluation.runs import SmallRun, make_run, write_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> SmallRun:
    return make_run(tmp_path_factory.mktemp("runs") / "a")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "导出 folder"
    export_run(run.run, folder)
    return folder


def test_the_newest_checkpoint_is_exported_to_the_bit(run, exported):
    loaded = load_folder(exported)
    assert loaded.config == msgspec.structs.replace(
        run.decoder.config, kv_heads=run.decoder.config.heads, ffn_hidden=run.decoder.config.ffn_size
    )
    state = run.decoder.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in loaded.state_dict().items())


def test_the_folder_is_an_artefact_with_the_model_s_history(run, exported):
    manifest = open_artefact(exported, stage="export", verify=True)
    assert manifest.details["num_parameters"] == run.decoder.config.num_parameters()
    assert [upstream.stage for upstream in manifest.upstream] == ["checkpoint"]
    assert sorted(entry.path for entry in manifest.files) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer.model",
        "tokenizer_config.json",
    ]  # fmt: skip
    eos = run.tokenizer.eos_id
    assert json.loads((exported / "config.json").read_text())["eos_token_id"] == eos
    assert json.loads((exported / "tokenizer_config.json").read_text())["eos_token"] == "</s>"


def test_another_step_and_type_can_be_asked_for_and_a_second_time_is_up_to_date(run, tmp_path):
    report = export_run(run.run, tmp_path / "hf", step=2, dtype="bfloat16")
    assert report.manifest.details["step"] == 2
    whole = (tmp_path / "hf" / "model.safetensors").stat().st_size
    assert whole < 0.6 * 4 * run.decoder.config.num_parameters()
    expected = Decoder(run.decoder.config, seed=2).state_dict()["embedding.weight"] * 8
    torch.testing.assert_close(load_folder(tmp_path / "hf").embedding.weight.detach(), expected, rtol=0.01, atol=0)
    before = (tmp_path / "hf" / "model.safetensors").stat().st_mtime_ns
    again = export_run(run.run, tmp_path / "hf", step=2, dtype="bfloat16")
    assert again.up_to_date
    assert (tmp_path / "hf" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="--force replaces it"):
        export_run(run.run, tmp_path / "hf")
    assert not export_run(run.run, tmp_path / "hf", force=True).up_to_date


def test_what_cannot_be_exported_is_said_and_leaves_nothing(run, tmp_path):
    with pytest.raises(UsageError, match=r"no checkpoint of step 3.*steps with one: 2, 10"):
        export_run(run.run, tmp_path / "hf", step=3)
    other = tmp_path / "run"
    shutil.copytree(run.run, other)
    config = msgspec.structs.replace(run.decoder.config, norm="layer")
    write_checkpoint(other, 11, Decoder(config), run.packed)
    with pytest.raises(UsageError, match='has norm = "layer"'):
        export_run(other, tmp_path / "hf")
    (other / "tok.model").write_bytes(b"another")
    with pytest.raises(DamagedInput, match="not the tokenizer the run was trained with"):
        export_run(other, tmp_path / "hf", step=10)
    (other / "tok.model").unlink()
    with pytest.raises(InputError, match="tokenizer is missing"):
        export_run(other, tmp_path / "hf", step=10)
    with pytest.raises(InputError, match="no checkpoint that can be read"):
        export_run(tmp_path, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_the_command_prints_the_line_of_the_folder(run, tmp_path):
    line = json.dumps({"artefact": str(run.run), "manifest": {}})
    done = subprocess.run(
        [sys.executable, "-m", "ptool", "export", "-o", str(tmp_path / "hf out")],
        input=line,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["artefact"] == str((tmp_path / "hf out").resolve())
    assert found["manifest"]["stage"] == "export"
    assert "LlamaForCausalLM" in done.stderr


def corpus() -> str:
    line = "the quick brown fox jumps over a lazy dog while 日本 sleeps and Zürich shines; in 1984, don't"
    words = line.split(" ")
    return "\n".join(" ".join(words[(a * b) % len(words)] for a in range(1, 18)) for b in range(1, 60))


def trained(folder: Path, **options) -> Path:
    import sentencepiece

    (folder / "corpus.txt").write_text(corpus(), encoding="utf-8")
    defaults = {
        "model_type": "bpe", "vocab_size": 400, "byte_fallback": True, "normalization_rule_name": "identity",
        "add_dummy_prefix": False, "remove_extra_whitespaces": False,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tok"),
        hard_vocab_limit=False,
        minloglevel=2,
        **{**defaults, **options},
    )
    return folder / "tok.model"


@pytest.fixture(scope="module", params=["bpe", "unigram", "bpe with a space first"])
def pair(request, tmp_path_factory):
    """The SentencePiece tokenizer and the library's reading of the file made from it."""
    from tokenizers import Tokenizer

    kind = request.param.split()[0]
    options = {"add_dummy_prefix": True} if "space" in request.param else {}
    file = trained(tmp_path_factory.mktemp("tok"), model_type=kind, **options)
    mine = load_tokenizer(file)
    found = tokenizer_json(file.read_bytes(), mine)
    assert found is not None
    return mine, Tokenizer.from_str(found.decode())


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581<"), max_size=60)


@settings(max_examples=150, deadline=None)
@given(text=TEXT | st.lists(st.sampled_from(corpus().split()), max_size=12).map(" ".join))
def test_tokenizer_json_gives_the_ids_and_the_text_of_the_model(pair, text):
    mine, theirs = pair
    ids = mine.encode_batch([text])[0].tolist()
    assert theirs.encode(text, add_special_tokens=False).ids == ids
    assert theirs.decode(ids) == mine.decode(ids)


@pytest.mark.parametrize(
    "options",
    [
        {"normalization_rule_name": "nmt_nfkc"},
        {"remove_extra_whitespaces": True},
        {"user_defined_symbols": ["<mask>"]},
        {"model_type": "char"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_models_that_mean_something_else_there_get_no_tokenizer_json(tmp_path, options):
    file = trained(tmp_path, **options)
    assert tokenizer_json(file.read_bytes(), load_tokenizer(file)) is None


def test_a_file_whose_ids_differ_is_not_handed_out(tmp_path):
    file = trained(tmp_path)
    other = load_tokenizer(trained(tmp_path_of(tmp_path, "other"), model_type="unigram"))
    assert tokenizer_json(file.read_bytes(), other) is None


def tmp_path_of(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def test_transformers_loads_model_and_tokenizer_from_the_folder(run, exported):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'ptool[bench]'"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    model = transformers.AutoModelForCausalLM.from_pretrained(exported)
    text = "the quick brown fox 日本"
    ids = run.tokenizer.encode_batch([text])[0].tolist()
    assert tokenizer(text, add_special_tokens=False).input_ids == tokenizer(text).input_ids == ids
    assert tokenizer.eos_token_id == run.tokenizer.eos_id == model.config.eos_token_id
    tokens = torch.tensor([[run.tokenizer.eos_id, *ids][:32]])
    positions = torch.arange(tokens.shape[1])[None]
    with torch.no_grad():
        expected = run.decoder.logits(tokens, positions, torch.zeros_like(tokens))
        torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-4, atol=1e-4)
    assert model.generate(tokens, max_new_tokens=4, do_sample=False, pad_token_id=0).shape[1] <= tokens.shape[1] + 4


def test_the_history_of_a_run_is_found_where_its_checkpoints_have_none_as_those_of_train(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.run, copy)
    write_checkpoint(copy, 12, run.decoder, run.packed, history=False)
    notices = []

    class Listener:
        def notice(self, text: str) -> None:
            notices.append(text)

    report = export_run(copy, tmp_path / "by folder", reporter=Listener())
    assert report.manifest.details["tokenizer"] == ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
    assert json.loads((tmp_path / "by folder" / "config.json").read_text())["eos_token_id"] == run.tokenizer.eos_id
    assert [one.stage for one in report.manifest.upstream[0].upstream] == ["pack"]
    away = run.packed.folder.rename(tmp_path / "away")
    try:
        export_run(copy, tmp_path / "unknown", reporter=Listener())
        assert not (tmp_path / "unknown" / "tokenizer.json").exists()
        assert ["not to be found" in notice for notice in notices] == [True]
        finished = new_manifest("train", {}, upstream=[run.packed.manifest])
        (copy / "manifest.json").write_bytes(encode_manifest(finished))
        by_run = export_run(copy, tmp_path / "by run", reporter=Listener())
    finally:
        away.rename(run.packed.folder)
    assert by_run.manifest == report.manifest


def test_bytes_are_no_tokenizer_json_and_the_reader_is_told(run, tmp_path, monkeypatch):
    file = tmp_path / "tokenizer.bytes.json"
    file.write_bytes(CONTENT)
    monkeypatch.setattr("ptool.exporting.run._tokenizer", lambda *_: (file, load_tokenizer(file), 256))
    notices = []
    monkeypatch.setattr("ptool.reporting._Silent.notice", lambda _, text: notices.append(text))
    report = export_run(run.run, tmp_path / "hf")
    assert report.manifest.details["tokenizer"] == ["tokenizer.bytes.json"]
    assert not (tmp_path / "hf" / "tokenizer.json").exists()
    assert any("transformers cannot load the tokenizer" in notice for notice in notices)
