import errno
import os
import pickle
import zipfile
from pathlib import Path

import msgspec
import pytest
import torch

from ptool.errors import DamagedInput, InputError, OutputError
from ptool.models.decoder import Decoder
from ptool.models.tensor_files import key_of, write_tensors
from ptool.models.weights import load_weights, save_weights, weight_shapes
from tests.models.batches import SMALL, packed_batch


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "weights 权重.pt"
    save_weights(path, Decoder(SMALL, seed=7).state_dict(), SMALL)
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_loaded_weights_compute_the_same_to_the_bit(tmp_path, tied):
    config = msgspec.structs.replace(SMALL, tie_embeddings=tied)
    decoder = Decoder(config, seed=7)
    save_weights(tmp_path / "weights.pt", decoder.state_dict(), config)
    loaded = load_weights(tmp_path / "weights.pt", config)
    batch = packed_batch([[7, 9]], 16, SMALL.vocab_size)
    assert torch.equal(loaded(*batch)[0], decoder(*batch)[0])
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert not any(parameter.is_meta for parameter in loaded.parameters())


def test_equal_weights_give_equal_bytes(tmp_path, saved):
    other = tmp_path / "other"
    save_weights(other, Decoder(SMALL, seed=7).state_dict(), SMALL)
    assert other.read_bytes() == saved.read_bytes()


def test_a_view_of_a_large_buffer_is_written_without_the_buffer(tmp_path, saved):
    flat = torch.zeros(1_000_000)
    state = dict(Decoder(SMALL, seed=7).state_dict())
    view = flat[: SMALL.hidden]
    view.copy_(state["norm.weight"])
    save_weights(tmp_path / "views.pt", {**state, "norm.weight": view}, SMALL)
    assert (tmp_path / "views.pt").read_bytes() == saved.read_bytes()


class Malice:
    """Unpickling this runs a command."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("wrap", ["torch", "legacy", "plain"])
def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path, wrap):
    path, trace = tmp_path / "weights.pt", tmp_path / "ran"
    state = {**Decoder(SMALL).state_dict(), "norm.weight": Malice(trace)}
    if wrap == "plain":
        path.write_bytes(pickle.dumps(state["norm.weight"], protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=wrap == "torch")
    with pytest.raises(InputError, match=r"weights\.pt: refused"):
        load_weights(path, SMALL)
    assert not trace.exists()
    torch.load(path, weights_only=False) if wrap != "plain" else pickle.loads(path.read_bytes())
    assert trace.exists()  # the file was able to


def test_weights_of_another_model_are_named(tmp_path, saved):
    for change, message in (
        ({"layers": 3}, r"missing layers\.2\.attention\.key\.weight, .* and \d+ more"),
        ({"layers": 1}, r"unknown layers\.1\."),
        ({"vocab_size": 60}, r"embedding\.weight has shape \[61, 24\], the configuration says \[60, 24\]"),
        ({"tie_embeddings": False}, r"missing head\.weight"),
    ):
        with pytest.raises(InputError, match=message):
            load_weights(saved, msgspec.structs.replace(SMALL, **change))


def test_other_types_than_dense_fp32_tensors_are_named(tmp_path):
    state = dict(Decoder(SMALL).state_dict())
    for wrong, message in (
        (state["norm.weight"].half(), r"norm\.weight is torch\.float16"),
        (state["norm.weight"].to_sparse(), r"norm\.weight is not a dense tensor"),
        ([1.0], r"norm\.weight is not a dense tensor"),
    ):
        with pytest.raises(OutputError, match=message):
            save_weights(tmp_path / "out.pt", {**state, "norm.weight": wrong}, SMALL)
    assert not (tmp_path / "out.pt").exists()
    with (tmp_path / "w.pt").open("wb") as file:
        write_tensors(file, {**state, "norm.weight": state["norm.weight"].half()})
    with pytest.raises(InputError, match=r"norm\.weight holds torch\.float16"):
        load_weights(tmp_path / "w.pt", SMALL)


def test_weights_in_parts_over_several_files_are_put_together(tmp_path, saved):
    state = Decoder(SMALL, seed=7).state_dict()
    cut = 17
    first = {key_of(name, 0): tensor.view(-1)[:cut] for name, tensor in state.items()}
    second = {key_of(name, cut): tensor.view(-1)[cut:] for name, tensor in state.items()}
    paths = [tmp_path / "0", tmp_path / "1"]
    for path, tensors in zip(paths, (second, first), strict=True):
        with path.open("wb") as file:
            write_tensors(file, tensors)
    whole, together = load_weights(saved, SMALL), load_weights(paths, SMALL)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), together.parameters(), strict=True))
    with pytest.raises(InputError, match=r"\w+ has 17 elements"):
        load_weights(paths[1:], SMALL)
    with pytest.raises(DamagedInput, match="missing or doubled"):
        load_weights(paths[:1], SMALL)
    with pytest.raises(DamagedInput, match="missing or doubled"):
        load_weights([*paths, paths[1]], SMALL)


def test_cut_files_other_files_and_missing_files_are_one_clear_error(tmp_path, saved):
    data = saved.read_bytes()
    broken = tmp_path / "broken.pt"
    for size in (0, 1, 7, 200, len(data) // 2, len(data) - 1):
        broken.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"broken\.pt"):
            load_weights(broken, SMALL)
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("something/else", b"x" * 100)
    for other in (broken, Path(__file__), tmp_path, tmp_path / "absent.pt"):
        with pytest.raises(InputError, match=other.name):
            load_weights(other, SMALL)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def full(sink, tensors):
        sink.write(b"begun")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ptool.models.weights.write_tensors", full)
    with pytest.raises(OutputError, match="no space left") as failure:
        save_weights(tmp_path / "w.pt", Decoder(SMALL).state_dict(), SMALL)
    assert failure.value.__cause__.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_shapes_are_known_without_allocating():
    shapes = weight_shapes(SMALL)
    assert shapes == {name: tuple(tensor.shape) for name, tensor in Decoder(SMALL).state_dict().items()}


def test_a_damaged_file_is_called_damaged(tmp_path, saved):
    saved.write_bytes(saved.read_bytes()[:-1])
    with pytest.raises(DamagedInput):
        load_weights(saved, SMALL)
