import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import ConfigError, DataError
from harness.formats.integer import Integer
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.tensor.files import TensorFile, header, write_tensor
from harness.tensor.measure import measure

FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
OTHERS = ("int8", "int64", "uint8", "bool", "complex64")


def test_floating_point_tensors_are_told_from_others(tmp_path: Path) -> None:
    path = tmp_path / "types.safetensors"
    save_file({name: torch.ones(2).to(getattr(torch, name)) for name in FLOATS + OTHERS}, path)
    names, others = TensorFile(path).floating("*")
    assert sorted(names) == sorted(FLOATS)
    assert [other.split()[0] for other in others] == sorted(OTHERS)
    assert "int64 (I64)" in others


def test_packed_four_bit_floats_are_left_out_because_an_element_is_two_numbers(
    tmp_path: Path,
) -> None:
    path = tmp_path / "packed.safetensors"
    packed = torch.zeros(2, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    save_file({"packed": packed, "weight": torch.ones(3)}, path)
    assert TensorFile(path).floating("*") == (["weight"], ["packed (F4)"])


def test_a_pattern_chooses_tensors(file: Path) -> None:
    names, others = TensorFile(file).floating("layers.*.weight")
    assert names == ["layers.0.weight", "layers.1.weight"]
    assert others == []


@pytest.mark.parametrize(
    ("pattern", "said"), [("steps", "steps (I64)"), ("nothing", "layers.0.weight")]
)
def test_a_pattern_without_a_float_tensor_is_answered_with_what_there_is(
    file: Path, pattern: str, said: str
) -> None:
    with pytest.raises(DataError, match="--tensor must match") as caught:
        TensorFile(file).floating(pattern)
    assert said in str(caught.value)


def test_a_long_list_of_names_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "many.safetensors"
    save_file({f"t{i:03}": torch.ones(1) for i in range(100)}, path)
    with pytest.raises(DataError, match=r"t000, .* and 92 more"):
        TensorFile(path).floating("weight")


def test_tensors_come_as_they_are_stored(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    opened = TensorFile(file)
    for name, tensor in tensors.items():
        assert opened.shape(name) == tuple(tensor.shape)
        assert opened.read(name).dtype is tensor.dtype
        assert torch.equal(opened.read(name), tensor)


@pytest.mark.parametrize("content", [b"", b"no header", b"\xff" * 64, b"PK\x03\x04" + b"\0" * 99])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"must be a safetensors file, got .*x\.safetensors"):
        TensorFile(path)


def test_a_folder_and_nothing_are_no_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="which is not a file"):
            TensorFile(path)


def test_a_file_that_may_not_be_read_is_called_so(unprivileged: Path) -> None:
    path = unprivileged / "x.safetensors"
    save_file({"a": torch.ones(2)}, path)
    path.chmod(0)
    with pytest.raises(DataError, match=r"x\.safetensors: Permission denied$"):
        TensorFile(path)


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    tensors = {
        'quote " and back\\slash': torch.randn(3, 5),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "ünïcode": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
    }
    path = tmp_path / "out.safetensors"
    with path.open("wb") as stream:
        stream.write(header({name: tuple(tensor.shape) for name, tensor in tensors.items()}))
        for tensor in tensors.values():
            write_tensor(stream, tensor)
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].shape == tensor.shape
        assert torch.equal(read[name].view(torch.int32), tensor.view(torch.int32)), name
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert length % 8 == 0
    json.loads(path.read_bytes()[8 : 8 + length])


def test_a_format_that_cannot_take_a_tensor_is_named_with_it(file: Path) -> None:
    granularity = Granularity(block=(1, 64), tail="error")
    fmt = BlockScaled(element=Integer(bits=8), granularity=granularity)
    with pytest.raises(
        ConfigError, match=r"strict must support every tensor, .*layers\.0\.weight \[24, 200\]"
    ):
        list(measure(TensorFile(file), ["layers.0.weight"], {"strict": fmt}))
