"""Tensor files against the library that defines them, and parts against the whole."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import DamagedInput, InputError
from ptool.formats.artefacts import DigestingFile, file_digest
from ptool.models.tensor_files import Tensors, key_of, write_tensors

KINDS = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.int8]


def write(path, tensors):
    with path.open("wb") as file:
        write_tensors(file, tensors)
    return path


def test_the_library_reads_what_is_written_and_writes_the_same_bytes(tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = {f"{kind}"[6:]: torch.arange(7).to(kind).view(7, 1) for kind in KINDS}
    tensors |= {"nothing": torch.zeros(0), "number": torch.tensor(3.5), "名": torch.ones(2, 3).T}
    path = write(tmp_path / "ours", tensors)
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs")
    assert len(path.read_bytes()) == len((tmp_path / "theirs").read_bytes())


def test_the_digest_taken_on_the_way_is_that_of_the_file(tmp_path):
    path = tmp_path / "digested"
    with path.open("wb") as file:
        sink = DigestingFile(file)
        write_tensors(sink, {"large": torch.randn(9 << 20), "small": torch.ones(3)})
    digest, size = sink.finish()
    assert (digest, size) == (file_digest(path), path.stat().st_size)


def test_what_a_nearly_full_disk_takes_only_in_part_is_written_again_and_never_left_out(tmp_path):
    class Reluctant:
        """As an unbuffered file: it says how much it took."""

        def __init__(self):
            self.taken = b""

        def write(self, data):
            self.taken += bytes(data[:1000])
            return min(len(data), 1000)

    tensors = {"large": torch.randn(1500), "small": torch.ones(3)}
    file = Reluctant()
    sink = DigestingFile(file)
    write_tensors(sink, tensors)
    digest, size = sink.finish()
    path = write(tmp_path / "whole", tensors)
    assert file.taken == path.read_bytes()
    assert (digest, size) == (file_digest(path), path.stat().st_size)


@given(st.data())
def test_any_stretch_comes_out_of_any_cut(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    count = data.draw(st.integers(1, 40))
    tensor = torch.randn(count)
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, count), max_size=4))), count]
    files: list[dict[str, torch.Tensor]] = [{}, {}]
    for first, last in itertools.pairwise(cuts):
        if first < last:
            data.draw(st.sampled_from(files))[key_of("x", first)] = tensor[first:last]
    found = Tensors([write(folder / str(number), part) for number, part in enumerate(files)])
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first, count))
    out = torch.full((last - first,), torch.nan)
    found.fill("x", first, out)
    assert torch.equal(out, tensor[first:last])
    assert found.size("x") == count


def test_what_is_missing_doubled_or_of_another_kind_is_damage(tmp_path):
    one = write(tmp_path / "one", {key_of("x", 0): torch.ones(4), key_of("x", 6): torch.ones(2)})
    two = write(tmp_path / "two", {key_of("x", 3): torch.ones(3)})
    odd = write(tmp_path / "odd", {"x@y": torch.ones(3)})
    for paths, start, count in (([one], 0, 8), ([one, two], 0, 8), ([one], 7, 2), ([two], 0, 1)):
        with pytest.raises(DamagedInput, match="missing or doubled"):
            Tensors(paths).fill("x", start, torch.empty(count))
    with pytest.raises(DamagedInput, match="holds torch.float32, not torch.float64"):
        Tensors([one]).fill("x", 0, torch.empty(2, dtype=torch.float64))
    with pytest.raises(DamagedInput, match="no part"):
        Tensors([odd])
    with pytest.raises(DamagedInput, match="not there once and whole"):
        Tensors([one]).whole("x")
    with pytest.raises(InputError, match="no such file"):
        Tensors([tmp_path / "none"])


@given(cut=st.integers(0, 300), flipped=st.integers(0, 120))
def test_a_cut_file_or_a_changed_header_never_reads_outside(tmp_path_factory, cut, flipped):
    folder = tmp_path_factory.mktemp("broken")
    whole = write(folder / "whole", {"x": torch.arange(16.0), "y@3": torch.arange(8.0)}).read_bytes()
    (folder / "broken").write_bytes(whole[:cut])
    if cut < len(whole):
        with pytest.raises(InputError):
            Tensors([folder / "broken"])
    changed = bytearray(whole)
    changed[flipped] ^= 1 << (cut % 8)
    (folder / "broken").write_bytes(changed)
    try:
        found = Tensors([folder / "broken"])
        sizes = {name: found.size(name) for name in found.names}
        for name, size in sizes.items():
            found.fill(name, 0, torch.empty(min(size, 64)))
    except InputError:
        return
    assert sum(sizes.values()) * 4 <= len(whole), "what can be read lies in the file"
