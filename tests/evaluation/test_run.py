import json
import math
import os
import shutil
from pathlib import Path

import msgspec
import pytest
import torch

from ptool.errors import BadDocument, DamagedInput, InputError, UsageError
from ptool.evaluation.run import EvalConfig, evaluate
from ptool.formats.artefacts import list_files, read_folder_manifest
from ptool.formats.manifests import encode_manifest, new_manifest
from ptool.models.decoder import Decoder
from ptool.text.batch import Keys
from tests.evaluation.runs import SOURCES, TEXTS, SmallRun, make_run, pack_texts, train_tokenizer, write_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SmallRun:
    return make_run(tmp_path_factory.mktemp("eval") / "with space")


@pytest.fixture
def small(made: SmallRun, tmp_path: Path) -> SmallRun:
    """A copy that a test may damage; its packed data is still the shared one."""
    return made._replace(run=Path(shutil.copytree(made.run, tmp_path / "run")))


def write_stream(path: Path, texts: list[str], sources: list[str | None]) -> Path:
    lines = [
        {"id": str(number), "text": text} | ({"source": source} if source else {})
        for number, (text, source) in enumerate(zip(texts, sources, strict=True))
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def nats_of(decoder: Decoder, tokens: list[int], eod_id: int) -> float:
    """The twin: one document at a time, one window at a time, whole logits."""
    total, sequence, length = 0.0, [eod_id, *tokens], decoder.config.max_seq_len
    for first in range(0, len(tokens), length):
        window = torch.tensor([sequence[first : first + length + 1]])
        inputs, targets = window[:, :-1], window[0, 1:]
        positions = torch.arange(inputs.shape[1])[None]
        with torch.no_grad():
            logits = decoder.logits(inputs, positions, torch.zeros_like(positions))[0].double()
        total -= torch.log_softmax(logits, dim=1)[range(len(targets)), targets].sum().item()
    return total


def test_held_out_documents_score_as_one_by_one(made):
    report = evaluate(made.run)
    assert (report.step, report.trained_tokens, report.data, report.window) == (10, 640, "holdout", 32)
    assert report.digest == made.packed.fingerprint
    assert list(report.sources) == ["-", "manual", "poem", "web"]
    encoded = [ids.tolist() for ids in made.tokenizer.encode_batch(TEXTS)]
    assert max(map(len, encoded)) > 2 * 32  # several windows
    nats = [nats_of(made.decoder, tokens, made.tokenizer.eos_id) for tokens in encoded]
    for name, score in report.sources.items():
        mine = [n for n, source in enumerate(SOURCES) if (source or "-") == name]
        num_tokens, num_bytes = (sum(map(len, (xs[n] for n in mine))) for xs in (encoded, [t.encode() for t in TEXTS]))
        assert (score.num_documents, score.num_tokens, score.num_bytes) == (len(mine), num_tokens, num_bytes)
        loss_sum = sum(nats[n] for n in mine)
        assert score.loss == pytest.approx(loss_sum / num_tokens, rel=1e-5)
        assert score.perplexity == pytest.approx(math.exp(loss_sum / num_tokens), rel=1e-4)
        assert score.bits_per_byte == pytest.approx(loss_sum / math.log(2) / num_bytes, rel=1e-5)
    assert report.total.num_bytes == sum(len(text.encode()) for text in TEXTS)
    assert report.total.loss == pytest.approx(sum(nats) / report.total.num_tokens, rel=1e-5)


def test_the_held_out_documents_of_every_folder_of_a_run_are_scored(small, tmp_path):
    other = pack_texts(tmp_path / "other", small.tokenizer, eod=True)
    (small.run / "config.toml").write_text(f'[data]\npacked = ["{small.packed.folder}", "{other.folder}"]\n')
    one, both = evaluate(small.run, config=EvalConfig(packed=other.folder)), evaluate(small.run)
    assert both.total.num_documents == one.total.num_documents + len(TEXTS)
    assert both.digest != one.digest


def test_a_stream_of_the_held_out_texts_scores_the_same(made, tmp_path):
    stream = write_stream(tmp_path / "held.jsonl", TEXTS, SOURCES)
    found, held = evaluate(made.run, stream), evaluate(made.run)
    assert (found.data, found.digest[:9]) == ("stream", "xxh3-128:")
    assert found.sources.keys() == held.sources.keys()
    for name in held.sources:
        assert found.sources[name].num_bytes == held.sources[name].num_bytes
        assert found.sources[name].loss == pytest.approx(held.sources[name].loss, rel=1e-6)


def test_progress_ends_at_its_total(made):
    seen: list[tuple[int, int | None]] = []

    class Watching:
        def notice(self, text):
            raise AssertionError(text)

        def progress(self, done, total, *, unit, detail=""):
            seen.append((done, total))

    report = evaluate(made.run, reporter=Watching())
    assert seen[-1] == (report.total.num_tokens, report.total.num_tokens)


def test_the_batch_size_does_not_change_the_result(made):
    whole = evaluate(made.run)
    for batch_tokens in (1, 50, 333):
        part = evaluate(made.run, config=EvalConfig(batch_tokens=batch_tokens))
        assert part.total.loss == pytest.approx(whole.total.loss, rel=1e-6)
    assert evaluate(made.run) == whole  # and the same call gives the same bits


def test_rows_without_eod_charge_the_first_token_as_a_guess(tmp_path):
    without = make_run(tmp_path / "x", eod=False)
    report = evaluate(without.run)
    encoded = [ids.tolist() for ids in without.tokenizer.encode_batch(TEXTS)]
    assert report.total.num_tokens == sum(map(len, encoded))
    guess = math.log(without.decoder.config.vocab_size)
    nats = sum(guess + nats_of(without.decoder, tokens[1:], tokens[0]) for tokens in encoded if tokens)
    assert report.total.loss == pytest.approx(nats / report.total.num_tokens, rel=1e-5)


def test_a_checkpoint_can_be_chosen_by_step(made):
    assert evaluate(made.run, config=EvalConfig(checkpoint=2)).step == 2
    assert evaluate(made.run, config=EvalConfig(checkpoint=2)).total.loss != evaluate(made.run).total.loss
    with pytest.raises(UsageError, match="step 7 .*2, 10"):
        evaluate(made.run, config=EvalConfig(checkpoint=7))


def test_a_damaged_newest_checkpoint_is_stepped_over(small):
    weights = small.run / "checkpoints/step_00000010/weights_00000.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert evaluate(small.run).step == 2


def test_a_run_without_a_checkpoint_is_an_error(small):
    shutil.rmtree(small.run / "checkpoints")
    with pytest.raises(InputError, match="checkpoint"):
        evaluate(small.run)
    with pytest.raises(InputError):
        evaluate(small.run.parent)


def test_packed_data_that_moved_is_named_with_the_way_out(small, tmp_path):
    moved = shutil.copytree(small.packed.folder, tmp_path / "moved")
    (small.run / "config.toml").write_text('[data]\npacked = ["/nowhere/packed"]\n')
    with pytest.raises(InputError, match=r"/nowhere/packed: .* no longer there .*--packed FOLDER"):
        evaluate(small.run)
    assert evaluate(small.run, config=EvalConfig(packed=moved)) == evaluate(small.run, config=EvalConfig(packed=moved))
    for text in ("[data]\n", "no toml ["):
        (small.run / "config.toml").write_text(text)
        with pytest.raises(DamagedInput, match=r"config\.toml"):
            evaluate(small.run)


def test_other_packed_data_is_refused_unless_it_is_asked_for(small, tmp_path):
    other = pack_texts(tmp_path / "other", small.tokenizer, held_out=2)
    (small.run / "config.toml").write_text(f'[data]\npacked = ["{other.folder}"]\n')
    with pytest.raises(InputError, match="no longer the data"):
        evaluate(small.run)
    notices: list[str] = []

    class Listening:
        def notice(self, text):
            notices.append(text)

        def progress(self, done, total, *, unit, detail=""):
            pass

    report = evaluate(small.run, config=EvalConfig(packed=other.folder), reporter=Listening())
    assert report.total.num_documents == 2
    assert len(notices) == 1


def test_packed_data_of_another_tokenizer_is_refused(small, tmp_path):
    tokenizer = train_tokenizer(tmp_path / "tok.model")
    tokenizer.fingerprint = "sha256:" + "0" * 64
    other = pack_texts(tmp_path / "other", tokenizer)
    with pytest.raises(InputError, match="another tokenizer"):
        evaluate(small.run, config=EvalConfig(packed=other.folder))


def test_nothing_held_out_says_what_to_do(small, tmp_path):
    bare = pack_texts(tmp_path / "bare", small.tokenizer, held_out=0)
    shutil.rmtree(small.run / "checkpoints")
    write_checkpoint(small.run, 1, small.decoder, bare)
    (small.run / "config.toml").write_text(f'[data]\npacked = ["{bare.folder}"]\n')
    with pytest.raises(InputError, match=r"no documents were held out .*--holdout"):
        evaluate(small.run)


def test_a_replaced_tokenizer_is_noticed(small, tmp_path):
    stream = write_stream(tmp_path / "s.jsonl", ["text"], [None])
    train_tokenizer(small.run / "tok.model", vocab_size=390)
    with pytest.raises(DamagedInput, match=r"tok\.model: this is not the tokenizer"):
        evaluate(small.run, stream)
    (small.run / "tok.model").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"tok\.model"):
        evaluate(small.run, stream)
    (small.run / "tok.model").unlink()
    with pytest.raises(InputError, match=r"tok\.model"):
        evaluate(small.run, stream)


def test_without_a_history_the_packed_folder_tells_the_end_token(small, tmp_path):
    stream = write_stream(tmp_path / "s.jsonl", TEXTS, SOURCES)
    expected = evaluate(small.run, stream)
    shutil.rmtree(small.run / "checkpoints")
    write_checkpoint(small.run, 10, small.decoder, small.packed, history=False)
    assert evaluate(small.run, stream) == expected
    moved = shutil.copytree(small.packed.folder, tmp_path / "moved")
    (small.run / "config.toml").unlink()
    with pytest.raises(InputError, match="--packed FOLDER"):
        evaluate(small.run, stream)
    assert evaluate(small.run, stream, config=EvalConfig(packed=moved)) == expected
    # the finished run carries the history, so its text needs no packed folder
    for upstream, found in (
        (pack_texts(tmp_path / "other", small.tokenizer, held_out=1).manifest, False),
        (small.packed.manifest, True),
    ):
        finished = new_manifest("train", {}, upstream=[new_manifest("x", {}, upstream=[upstream])])
        (small.run / "manifest.json").write_bytes(encode_manifest(finished))
        if found:
            assert evaluate(small.run, stream) == expected
        else:
            with pytest.raises(InputError, match="--packed FOLDER"):
                evaluate(small.run, stream)


def test_bad_streams_are_one_clear_error(made, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": 3}\n')
    with pytest.raises(BadDocument, match=r"bad\.jsonl:2"):
        evaluate(made.run, bad)
    bad.write_text("")
    with pytest.raises(InputError):
        evaluate(made.run, bad)
    bad.write_text("\n\n")
    with pytest.raises(InputError, match="no document"):
        evaluate(made.run, bad)
    with pytest.raises(InputError, match="absent"):
        evaluate(made.run, tmp_path / "absent.jsonl")


def test_foreign_field_names_are_mapped(made, tmp_path):
    stream = tmp_path / "foreign.jsonl"
    stream.write_text('{"content": "The cat sat.", "domain": "web"}\n')
    report = evaluate(made.run, stream, config=EvalConfig(keys=Keys(text="content", source="domain")))
    assert list(report.sources) == ["web"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_usage_error(made):
    with pytest.raises(UsageError, match="--device cpu"):
        evaluate(made.run, config=EvalConfig(device="cuda"))


def test_senseless_batches_are_refused(made):
    with pytest.raises(UsageError, match="batch-tokens"):
        evaluate(made.run, config=EvalConfig(batch_tokens=0))


class Malice:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_malicious_checkpoint_with_a_fitting_manifest_is_refused_and_nothing_runs(small, tmp_path):
    folder = small.run / "checkpoints/step_00000010"
    torch.save(
        {**small.decoder.state_dict(), "norm.weight": Malice(tmp_path / "ran")}, folder / "weights_00000.safetensors"
    )
    manifest = read_folder_manifest(folder)
    fitting = msgspec.structs.replace(manifest, files=list_files(folder, ["weights_00000.safetensors"]))
    (folder / "manifest.json").write_bytes(encode_manifest(fitting))
    with pytest.raises(InputError, match="refused"):
        evaluate(small.run)
    assert not (tmp_path / "ran").exists()


def test_a_manifest_without_a_shape_is_damage(small):
    folder = small.run / "checkpoints/step_00000010"
    manifest = read_folder_manifest(folder)
    (folder / "manifest.json").write_bytes(encode_manifest(msgspec.structs.replace(manifest, config={"model": {}})))
    with pytest.raises(DamagedInput, match="shape"):
        evaluate(small.run)


def test_a_source_called_dash_is_counted_with_those_that_have_none(made, tmp_path):
    stream = write_stream(tmp_path / "s.jsonl", ["The cat", "The dog"], ["-", None])
    report = evaluate(made.run, stream)
    assert report.sources == {"-": report.total}
    assert report.total.num_documents == 2
