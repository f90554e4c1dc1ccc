"""Parameters stored as packed codes: any format, any shape, any place in a model."""

import contextlib
import copy
import math
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path

import conf_formats
import pytest
import torch
from looped import looped
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from harness.formats.integer import Integer
from harness.formats.minifloat import E2M1
from harness.formats.native import Native
from harness.nn import parametrize
from harness.nn.parametrize import replace_parameter, replace_parameter_prequantized
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.unscaled import Unscaled

FORMATS = {name: fmt for name, fmt in conf_formats.FORMATS.items() if fmt.element.bits <= 8}
SHAPES = [(100,), (16, 130), (3, 6, 70), ()]
each_format = looped("name", FORMATS)
each_shape = looped("shape", SHAPES, ids=str)
INT4 = BlockScaled(element=Integer(bits=4), granularity=Granularity(block=(1, 32)))
INT3_ROW = BlockScaled(element=Integer(bits=3), granularity=Granularity(block=(1, -1)))
ASYMMETRIC = Affine(element=Integer(bits=4, narrow=False), granularity=Granularity(block=(1, 32)))


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Holder(nn.Module):
    """One parameter, which its forward reads several times."""

    def __init__(self, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.kernel = nn.Parameter(sample(*shape, seed=seed).to(dtype))

    def forward(self, reads: int = 3) -> Tensor:
        return torch.stack([self.kernel for _ in range(reads)])


FORMAT_OF = {"up": INT4, "down": ASYMMETRIC, "scale": INT3_ROW}


# Values and storage.


@each_format
@each_shape
def test_attribute_is_what_the_format_stores(name: str, shape: tuple[int, ...]) -> None:
    holder = Holder(*shape)
    expected = quantize(holder.kernel, FORMATS[name]).dequantize()
    returned = replace_parameter(holder, "kernel", FORMATS[name])
    assert holder.kernel.shape == shape
    assert holder.kernel.dtype is torch.float32
    assert not holder.kernel.requires_grad
    assert torch.equal(holder.kernel, expected)
    assert torch.equal(returned.dequantize(), expected)


@each_format
@each_shape
def test_codes_take_no_more_than_their_bits(name: str, shape: tuple[int, ...]) -> None:
    holder, bits = Holder(*shape), FORMATS[name].element.bits
    replace_parameter(holder, "kernel", FORMATS[name])
    [packed] = holder.parameters()
    assert packed.dtype is torch.uint8
    assert packed.nbytes == math.ceil(math.prod(shape) * bits / 8)
    assert packed.untyped_storage().nbytes() == packed.nbytes


@each_format
def test_state_dict_serves_a_fresh_module(name: str, tmp_path: Path) -> None:
    first, second = Holder(3, 6, 70), Holder(3, 6, 70, seed=1)
    quantized = replace_parameter(first, "kernel", FORMATS[name])
    replace_parameter(second, "kernel", FORMATS[name])
    save_file(first.state_dict(), tmp_path / "holder.safetensors")
    state = load_file(tmp_path / "holder.safetensors")
    scales = quantized.scales
    planes = {f"kernel.scale_{level}" for level in range(len(scales.planes))}
    planes |= {"kernel.zero_point"} if scales.zero_point is not None else set()
    planes |= {"kernel.offset"} if scales.offset is not None else set()
    assert state.keys() == {"kernel", "kernel.format", *planes}
    assert not torch.equal(second.kernel, first.kernel)
    second.load_state_dict(state)
    assert torch.equal(second.kernel, first.kernel)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_attribute_has_the_type_of_the_float_parameter(dtype: torch.dtype) -> None:
    holder = Holder(16, 40, dtype=dtype)
    expected = quantize(holder.kernel, INT4).dequantize().to(dtype)
    replace_parameter(holder, "kernel", INT4)
    assert holder.kernel.dtype is dtype
    assert torch.equal(holder.kernel, expected)


def test_linear_layer_computes_with_the_stored_weight() -> None:
    layer, x = nn.Linear(40, 16), sample(5, 40).requires_grad_()
    expected = quantize(layer.weight, INT4).dequantize()
    replace_parameter(layer, "weight", INT4)
    out = layer(x)
    assert torch.equal(out, F.linear(x, expected, layer.bias))
    out.sum().backward()
    torch.testing.assert_close(x.grad, expected.sum(0).expand(5, 40))
    assert layer.bias.grad is not None
    assert isinstance(layer, nn.Linear)


def test_quantized_tensor_takes_the_place_of_a_parameter() -> None:
    holder, other = Holder(16, 40), sample(16, 40, seed=9)
    quantized = quantize(other, ASYMMETRIC, axis=0)
    replace_parameter_prequantized(holder, "kernel", quantized, torch.bfloat16)
    assert torch.equal(holder.kernel, quantized.dequantize().bfloat16())


def test_parameters_of_one_module_have_formats_of_their_own() -> None:
    plain, model = Experts(), nested()
    experts = model["layer"][1]
    for name, fmt in FORMAT_OF.items():
        expected = quantize(getattr(plain, name), fmt).dequantize()
        assert torch.equal(getattr(experts, name), expected), name
    assert torch.equal(experts.left, plain.left)
    assert experts.left.requires_grad


def test_state_dict_of_a_model_has_plain_names_and_loads_into_another() -> None:
    first, second = nested(), nested(seed=5)
    state = first.state_dict()
    at = "layer.1."
    assert state.keys() == {
        *(f"{at}{name}" for name in ("up", "up.scale_0", "down", "down.scale_0")),
        *(f"{at}{name}" for name in ("down.zero_point", "scale", "scale.scale_0", "left")),
        *("layer.0.weight", "layer.0.bias"),
        *(f"{at}{name}.format" for name in ("up", "down", "scale")),
    }
    kept = {key: tensor.clone() for key, tensor in state.items()}
    result = second.load_state_dict(kept)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert kept.keys() == state.keys(), "the caller's dictionary is left as it is"
    for name in (*FORMAT_OF, "left"):
        assert torch.equal(getattr(second["layer"][1], name), getattr(first["layer"][1], name))


def test_loaded_tensors_can_take_the_place_of_those_in_the_module() -> None:
    first, second = nested(), nested(seed=5)
    second.load_state_dict(first.state_dict(), assign=True)
    for name in FORMAT_OF:
        assert torch.equal(getattr(second["layer"][1], name), getattr(first["layer"][1], name))


@pytest.mark.parametrize("lost", ["layer.1.up", "layer.1.down.zero_point"])
def test_state_dict_that_lacks_something_is_refused(lost: str) -> None:
    state = nested().state_dict()
    del state[lost]
    with pytest.raises(RuntimeError, match="Missing key"):
        nested().load_state_dict(state)


@pytest.mark.parametrize("added", ["layer.1.up.scale_1", "layer.1.other"])
def test_state_dict_that_has_too_much_is_refused(added: str) -> None:
    with pytest.raises(RuntimeError, match="Unexpected key"):
        nested().load_state_dict(nested().state_dict() | {added: torch.zeros(1)})


def test_state_dict_of_floats_is_refused() -> None:
    layer = nn.Linear(40, 16)
    state = {key: tensor.clone() for key, tensor in layer.state_dict().items()}
    replace_parameter(layer, "weight", INT4)
    before = layer.weight.clone()
    with pytest.raises(RuntimeError, match=r"Missing key.*\n.*size mismatch"):
        layer.load_state_dict(state)
    assert torch.equal(layer.weight, before)


# When it is dequantized.


def test_parameter_is_dequantized_once_within_forward(dequantizations: list[int]) -> None:
    holder = Holder(16, 40)
    replace_parameter(holder, "kernel", INT4)
    for calls in (1, 2):
        holder(reads=5)
        assert len(dequantizations) == calls


def test_parameter_is_dequantized_at_every_access_elsewhere(dequantizations: list[int]) -> None:
    holder = Holder(16, 40)
    replace_parameter(holder, "kernel", INT4)
    holder()
    dequantizations.clear()
    for calls in (1, 2, 3):
        _ = holder.kernel
        assert len(dequantizations) == calls


def test_parameter_that_forward_does_not_read_is_not_dequantized(
    dequantizations: list[int],
) -> None:
    holder = Holder(16, 40)
    replace_parameter(holder, "kernel", INT4)
    holder.other = nn.Parameter(sample(8))
    replace_parameter(holder, "other", INT4)
    holder()
    assert dequantizations == [16 * 40]


class Reporting(Holder):
    """Hands out a weak reference to what it read, and nothing else."""

    def forward(self, reads: int = 1) -> "weakref.ref[Tensor]":
        return weakref.ref(self.kernel)


def test_memory_is_let_go_of_after_forward() -> None:
    module = Reporting(16, 40)
    replace_parameter(module, "kernel", INT4)
    assert module()() is None


class Recursive(Holder):
    def forward(self, depth: int = 3) -> Tensor:
        before = self.kernel
        inner = self(depth - 1) if depth else before
        return torch.stack([before, inner[0] if depth else inner, self.kernel])


def test_module_that_calls_itself_reads_the_same_values() -> None:
    module = Recursive(16, 40)
    replace_parameter(module, "kernel", INT4)
    expected = module.kernel
    assert all(torch.equal(part, expected) for part in module())
    assert_nothing_is_kept(module)


def assert_nothing_is_kept(module: nn.Module) -> None:
    """Check that a change of the stored scales is seen at once."""
    before = module.kernel
    with torch.no_grad():
        module.parametrizations.kernel[0].scale_0.mul_(2)
    assert torch.equal(module.kernel, 2 * before)
    with torch.no_grad():
        module.parametrizations.kernel[0].scale_0.div_(2)


class Failing(Holder):
    error: type[BaseException] | None = None
    read: "weakref.ref[Tensor] | None" = None

    def forward(self, reads: int = 1) -> Tensor:
        kernel = self.kernel
        self.read = weakref.ref(kernel)
        if self.error is not None:
            raise self.error("on purpose")
        return kernel


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_within_forward_leaves_nothing_behind(error: type[BaseException]) -> None:
    module = Failing(16, 40)
    replace_parameter(module, "kernel", INT4)
    for _ in range(2):
        module.error = error
        with contextlib.suppress(error):
            module()
        # After Ctrl-C torch calls no hooks: only the next forward can let go of the memory.
        assert error is KeyboardInterrupt or module.read() is None
        assert_nothing_is_kept(module)
        module.error = None
        module()
        assert module.read() is None
        assert_nothing_is_kept(module)


def test_failure_of_an_earlier_hook_leaves_nothing_behind(dequantizations: list[int]) -> None:
    module, failing = Holder(16, 40), [True]

    def hook(*_: object) -> None:
        if failing:
            raise RuntimeError("on purpose")

    module.register_forward_pre_hook(hook)
    replace_parameter(module, "kernel", INT4)
    with pytest.raises(RuntimeError, match="on purpose"):
        module()
    assert_nothing_is_kept(module)
    failing.clear()
    dequantizations.clear()
    module(reads=5)
    assert len(dequantizations) == 1
    assert_nothing_is_kept(module)


# Copies, types, pickles.


def test_deep_copy_is_independent() -> None:
    model, x = nn.Sequential(nn.Linear(40, 16)), sample(5, 40)
    replace_parameter(model[0], "weight", INT4)
    before = model(x)
    other = copy.deepcopy(model)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        other[0].parametrizations.weight[0].scale_0.mul_(2)
        other[0].parametrizations.weight.original.zero_()
    assert other[0].weight.eq(0).all()
    assert torch.equal(model(x), before)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), before)


@looped("dtype", [torch.bfloat16, torch.float16, torch.float64])
@looped("name", ["int4_group", "mxfp4", "int4_asym_group", "nf4_b64_dq", "hif4"])
def test_cast_of_the_module_changes_the_type_of_the_attribute_and_nothing_stored(
    dtype: torch.dtype, name: str
) -> None:
    layer = nn.Linear(130, 16)
    with torch.no_grad():
        layer.weight.mul_(1e-6)  # scales that float16 cannot hold
    replace_parameter(layer, "weight", FORMATS[name])
    expected = layer.weight.to(dtype)
    layer.to(dtype)
    assert layer.weight.dtype is dtype
    assert torch.equal(layer.weight, expected)
    x = sample(5, 130).to(dtype)
    assert torch.equal(layer(x), F.linear(x, expected, layer.bias))


def test_everything_stored_moves_with_the_module() -> None:
    layer = nn.Linear(40, 16)
    replace_parameter(layer, "weight", ASYMMETRIC)
    layer.to("meta")
    state = layer.state_dict()
    devices = {key: tensor.device.type for key, tensor in state.items()}
    assert devices.pop("weight.format") == "cpu", "a text has no place on a device"
    assert set(devices.values()) == {"meta"}


def test_state_of_another_format_with_the_same_shapes_is_refused() -> None:
    first, second = Holder(16, 128), Holder(16, 128)
    replace_parameter(first, "kernel", INT4)
    codes = BlockScaled(element=E2M1, granularity=INT4.granularity)
    replace_parameter(second, "kernel", codes)
    said = r"kernel must be stored as fp4_e2m1 of shape .*, got int4 of shape"
    with pytest.raises(RuntimeError, match=said):
        second.load_state_dict(first.state_dict())


def test_pickling_is_refused_by_torch_and_state_dicts_are_the_way() -> None:
    layer = nn.Linear(40, 16)
    replace_parameter(layer, "weight", INT4)
    with pytest.raises(RuntimeError, match="only supported through state_dict"):
        pickle.dumps(layer)


# Errors.


@pytest.mark.parametrize(
    "call",
    [
        lambda module, name: replace_parameter(module, name, INT4),
        lambda module, name: replace_parameter_prequantized(
            module, name, quantize(sample(16, 40), INT4), torch.float32
        ),
    ],
    ids=["float", "prequantized"],
)
def test_what_is_no_parameter_is_refused(call: Callable[[nn.Module, str], object]) -> None:
    layer = nn.Linear(40, 16)
    layer.register_buffer("table", sample(16, 40))
    with pytest.raises(AttributeError, match="parameter 'wieght', got only: weight, bias"):
        call(layer, "wieght")
    with pytest.raises(AttributeError, match="got only: none"):
        call(nn.ReLU(), "weight")
    for name in ("table", "in_features"):
        with pytest.raises(TypeError, match=rf"Linear\.{name} must be an nn\.Parameter"):
            call(layer, name)
    call(layer, "weight")
    with pytest.raises(TypeError, match=r"weight must be an nn\.Parameter, got Tensor"):
        call(layer, "weight")


def test_integer_parameter_is_refused() -> None:
    module = nn.Module()
    module.index = nn.Parameter(torch.arange(3), requires_grad=False)
    with pytest.raises(TypeError, match=r"floating-point parameter, got torch\.int64"):
        replace_parameter(module, "index", INT4)


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_codes_wider_than_a_byte_are_refused(name: str) -> None:
    layer = nn.Linear(40, 16)
    weight = layer.weight
    with pytest.raises(ValueError, match=f"at most 8 bits .*, got {name}"):
        replace_parameter(layer, "weight", Unscaled(element=Native(name=name)))
    assert layer.weight is weight


def test_shape_that_the_format_cannot_take_is_refused() -> None:
    layer = nn.Linear(40, 16)
    weight = layer.weight
    whole = BlockScaled(
        element=Integer(bits=4), granularity=Granularity(block=(1, 64), tail="error")
    )
    with pytest.raises(ValueError, match="block must divide the tensor"):
        replace_parameter(layer, "weight", whole)
    quantized = quantize(sample(16, 41), INT4)
    with pytest.raises(ValueError, match=r"of its shape \(16, 40\), got \(16, 41\)"):
        replace_parameter_prequantized(layer, "weight", quantized, torch.float32)
    assert layer.weight is weight


class Experts(nn.Module):
    """A stack, a matrix and a vector in one module, inside of others."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.up = nn.Parameter(sample(3, 16, 40, seed=seed))
        self.down = nn.Parameter(sample(40, 16, seed=seed + 1))
        self.scale = nn.Parameter(sample(40, seed=seed + 2))
        self.left = nn.Parameter(sample(4, seed=seed + 3))


def nested(seed: int = 0) -> nn.Module:
    """Return experts two levels down, their parameters quantized."""
    experts = Experts(seed)
    for name, fmt in FORMAT_OF.items():
        replace_parameter(experts, name, fmt)
    return nn.ModuleDict({"layer": nn.ModuleList([nn.Linear(2, 2), experts])})


@pytest.fixture
def dequantizations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets longer with every dequantization."""
    calls: list[int] = []
    original = parametrize.unpack

    def counting(packed: Tensor, bits: int, count: int) -> Tensor:
        calls.append(count)
        return original(packed, bits, count)

    monkeypatch.setattr(parametrize, "unpack", counting)
    return calls
