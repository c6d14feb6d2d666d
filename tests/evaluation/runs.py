"""A small finished run on disk: tokenizer, packed data, two checkpoints, all as the other stages write them."""

from pathlib import Path
from typing import NamedTuple

import sentencepiece
import torch

from ptool.formats.artefacts import list_files
from ptool.formats.atomic import write_bytes
from ptool.formats.manifests import encode_manifest, new_manifest
from ptool.formats.packed import PackedDataset
from ptool.formats.packed_writer import write_packed
from ptool.models.config import ModelConfig
from ptool.models.decoder import Decoder
from ptool.models.weights import save_weights
from ptool.tokenizers.loading import Tokenizer, load_tokenizer

TEXTS = [
    "The cat sat on the mat, and the dog sat on the cat.",
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。",
    "A second line\nfollows the first; spaces   stay.",
    "",
    "Every document that was held out is scored whole, in windows where it is longer than the model can see. " * 4,
    "naïve café – 😀",
]
SOURCES = ["web", "poem", "web", "web", "manual", None]


class SmallRun(NamedTuple):
    run: Path
    packed: PackedDataset
    tokenizer: Tokenizer
    decoder: Decoder


def train_tokenizer(path: Path, *, vocab_size: int = 400) -> Tokenizer:
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text for text in TEXTS if text] * 3),
            model_writer=file,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return load_tokenizer(path)


def pack_texts(folder: Path, tokenizer: Tokenizer, *, held_out: int = len(TEXTS), eod: bool = True) -> PackedDataset:
    """The first `held_out` texts are held out; the rest, twice, is there to train on."""
    encoded = [ids.tolist() for ids in tokenizer.encode_batch(TEXTS)]
    end = [tokenizer.eos_id] if eod else []
    documents = [
        (f"{kind}-{number}", SOURCES[number], len(text.encode()), [*encoded[number], *end])
        for kind in ("held", "train")
        for number, text in enumerate(TEXTS)
    ]
    write_packed(
        folder,
        documents,
        seq_len=32,
        vocab_size=tokenizer.vocab_size,
        eod_id=tokenizer.eos_id if eod else None,
        holdout=lambda name: name.startswith("held") and int(name.split("-")[1]) < held_out,
        tokenizer=tokenizer.file,
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
    return PackedDataset.open(folder)


def make_run(folder: Path, *, eod: bool = True) -> SmallRun:
    folder.mkdir()
    tokenizer = train_tokenizer(folder / "tok.model")
    packed = pack_texts(folder / "packed data", tokenizer, eod=eod)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, layers=1, hidden=16, heads=2, max_seq_len=32)
    run = folder / "运行 a"
    run.mkdir()
    write_bytes(run / "tok.model", tokenizer.file.read_bytes())
    write_bytes(run / "config.toml", f'[data]\npacked = ["{packed.folder}"]\n'.encode())
    decoder = Decoder(config, seed=1)
    for step in (2, 10):
        decoder = Decoder(config, seed=step)
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.mul_(8 if parameter.dim() > 1 else 1)
        write_checkpoint(run, step, decoder, packed)
    return SmallRun(run, packed, tokenizer, decoder)


def write_checkpoint(run: Path, step: int, decoder: Decoder, packed: PackedDataset, *, history: bool = True) -> Path:
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    save_weights(folder / "weights_00000.safetensors", decoder.state_dict(), decoder.config)
    manifest = new_manifest(
        "checkpoint",
        {
            "model": decoder.config.as_table(),
            "data": {"packed": [str(packed.folder)], "fingerprints": [packed.fingerprint]},
        },
        num_tokens=step * 64,
        details={"step": step, "tokens": step * 64},
        files=list_files(folder, ["weights_00000.safetensors"]),
        upstream=[packed.manifest] if history else [],
    )
    write_bytes(folder / "manifest.json", encode_manifest(manifest) + b"\n")
    return folder
