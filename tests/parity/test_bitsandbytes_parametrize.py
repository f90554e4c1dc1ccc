"""`replace_parameter` and bitsandbytes' `replace_parameter_4bit` on the same module."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from looped import looped
from torch import nn

from harness.formats.codebook import Codebook
from harness.nn.parametrize import replace_parameter, replace_parameter_prequantized
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import QLoRAScale

with warnings.catch_warnings():
    # It decorates a method with torch.jit as it is imported.
    warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
    library = pytest.importorskip("bitsandbytes.nn.parametrize")

SETTINGS = [("nf4", 64), ("fp4", 64), ("nf4", 128)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Replace = Callable[..., Any]


def ours(module: nn.Module, name: str, kind: str = "nf4", size: int = 64) -> None:
    replace_parameter(module, name, format_of(kind, size))


def theirs(module: nn.Module, name: str, kind: str = "nf4", size: int = 64) -> None:
    library.replace_parameter_4bit(module, name, quant_type=kind, blocksize=size)


def format_of(kind: str, size: int, *, double_quantization: bool = False) -> BlockScaled:
    return BlockScaled(
        element=Codebook(name=kind),
        granularity=Granularity(block=(1, size), flat=True),
        scale=QLoRAScale(double_quantization=double_quantization),
    )


each_way = looped("replace", [ours, theirs])


@looped("dtype", DTYPES, ids=str)
@looped(("kind", "size"), SETTINGS)
@looped("name", ["up", "gain"])
def test_values_on_access_are_the_same(name: str, kind: str, size: int, dtype: torch.dtype) -> None:
    a, b, plain = Experts(dtype), Experts(dtype), Experts(dtype)
    ours(a, name, kind, size)
    theirs(b, name, kind, size)
    found, expected, float_one = (getattr(module, name) for module in (a, b, plain))
    assert found.shape == float_one.shape
    assert found.dtype == expected.dtype == dtype
    assert not found.requires_grad
    assert not expected.requires_grad
    # A vector comes back as one row there.
    assert torch.equal(found, expected.view(found.shape))
    assert not torch.equal(found, float_one)


def test_double_quantization_differs_by_the_bins_of_bitsandbytes() -> None:
    """A stored statistic is at most one of 65536 bins further off than the nearest."""
    a, b = Experts(), Experts()
    stored = replace_parameter(a, "up", format_of("nf4", 64, double_quantization=True))
    library.replace_parameter_4bit(b, "up", compress_statistics=True, blocksize=64)
    assert stored.scales.unrounded is not None
    exact = stored.scales.unrounded.values
    span = (exact - exact.mean()).abs().max()
    assert (a.up - b.up).abs().max() <= 2 / 65535 * span + 1e-6
    assert (a.up == b.up).double().mean() > 0.98


@each_way
def test_what_is_kept_is_one_parameter_of_packed_codes(replace: Replace) -> None:
    module = Experts()
    replace(module, "up")
    kept = {name: parameter for name, parameter in module.named_parameters() if "up" in name}
    (packed,) = kept.values()
    assert packed.dtype == torch.uint8
    assert packed.numel() == 4 * 32 * 128 / 2
    assert not packed.requires_grad


@each_way
def test_two_parameters_of_a_module_have_settings_of_their_own(replace: Replace) -> None:
    both, up, down = Experts(), Experts(), Experts()
    replace(both, "up", "nf4", 64)
    replace(both, "down", "fp4", 32)
    replace(up, "up", "nf4", 64)
    replace(down, "down", "fp4", 32)
    assert torch.equal(both.up, up.up)
    assert torch.equal(both.down, down.down)
    assert isinstance(both.gain, nn.Parameter)


@each_way
def test_state_dict_has_the_name_of_the_parameter_and_nothing_of_torch(replace: Replace) -> None:
    module = nn.ModuleDict({"experts": Experts()})
    replace(module["experts"], "up")
    replace(module["experts"], "gain")
    state = module.state_dict()
    assert not [key for key in state if "parametrizations" in key or "original" in key]
    assert {"experts.up", "experts.gain", "experts.down", "experts.steps"} <= state.keys()
    assert {key.split(".")[1] for key in state} == {"up", "gain", "down", "steps"}
    assert state["experts.up"].dtype == torch.uint8


def test_state_dicts_hold_the_same_codes_and_statistics() -> None:
    a, b = Experts(), Experts()
    ours(a, "up")
    theirs(b, "up")
    mine, other = a.state_dict(), b.state_dict()
    # The first of two codes is in the low nibble here, in the high one there.
    swapped = (mine["up"] << 4) | (mine["up"] >> 4)
    assert torch.equal(swapped.flatten(), other["up"].flatten())
    assert torch.equal(mine["up.scale_0"].flatten(), other["up.absmax"])


def test_a_saved_module_comes_back_the_same_in_both_ways() -> None:
    a, b = Experts(), Experts()
    ours(a, "up")
    theirs(b, "up")
    fresh = Experts()
    nn.init.zeros_(fresh.up)
    ours(fresh, "up")
    fresh.load_state_dict(a.state_dict())
    state = b.state_dict()
    other = Experts()
    other.up = nn.Parameter(state["up"], requires_grad=False)
    parts = {key.removeprefix("up."): state[key] for key in state if key.startswith("up.")}
    library.replace_parameter_4bit_prequantized(other, "up", parts, torch.device("cpu"))
    assert torch.equal(fresh.up, a.up)
    assert torch.equal(fresh.up, other.up)


def test_quantized_beforehand_is_the_same_as_on_the_spot() -> None:
    a, b = Experts(), Experts()
    ours(a, "up")
    quantized = quantize(b.up, format_of("nf4", 64))
    replace_parameter_prequantized(b, "up", quantized, torch.float32)
    theirs(c := Experts(), "up")
    assert torch.equal(a.up, b.up)
    assert torch.equal(b.up, c.up)


@each_way
def test_a_missing_name_is_an_attribute_error(replace: Replace) -> None:
    with pytest.raises(AttributeError, match="gate"):
        replace(Experts(), "gate")


@each_way
@looped("name", ["steps", "seen", "forward"])
def test_what_is_no_parameter_is_a_type_error(replace: Replace, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        replace(Experts(), name)


@each_way
def test_quantizing_twice_is_a_type_error(replace: Replace) -> None:
    module = Experts()
    replace(module, "up")
    once = module.up
    with pytest.raises(TypeError, match="up"):
        replace(module, "up")
    assert torch.equal(module.up, once)


@each_way
def test_parameter_is_dequantized_once_in_a_forward_and_anew_outside(replace: Replace) -> None:
    module = Experts()
    replace(module, "up")
    for _ in range(2):
        module(torch.ones(2, 128))
        first, second, third = module.seen
        assert first is second is third
        assert module.up is not module.up
        assert module.up is not first


@each_way
def test_a_forward_that_fails_keeps_nothing(replace: Replace) -> None:
    module = Experts()
    replace(module, "up")
    with pytest.raises(RuntimeError):
        module(torch.ones(2, 5))
    assert module.up is not module.up


@each_way
def test_gradient_reaches_the_input_and_the_other_parameters_only(replace: Replace) -> None:
    module = Experts()
    replace(module, "up")
    x = torch.ones(2, 128, requires_grad=True)
    (module(x) * module.gain[:32]).sum().backward()
    expected = torch.einsum("ehk,h->k", module.up, module.gain[:32])
    torch.testing.assert_close(x.grad, expected.expand(2, -1))
    assert module.gain.grad is not None
    kept = [parameter for name, parameter in module.named_parameters() if "up" in name]
    assert [parameter.grad for parameter in kept] == [None]


@each_way
def test_products_are_those_of_the_dequantized_parameter(replace: Replace) -> None:
    module, plain = Experts(), Experts()
    replace(module, "up")
    plain.up = nn.Parameter(module.up.clone())
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(module(x), plain(x))


@each_way
def test_a_deep_copy_is_a_module_of_its_own(replace: Replace) -> None:
    module = Experts()
    replace(module, "up")
    twin = copy.deepcopy(module)
    assert torch.equal(twin.up, module.up)
    assert twin.state_dict().keys() == module.state_dict().keys()
    twin(torch.ones(2, 128))
    assert twin.seen[0] is twin.seen[1]


@each_way
def test_a_cast_of_the_module_changes_nothing_that_is_stored(replace: Replace) -> None:
    module = Experts()
    replace(module, "up")
    values, before = module.up, module.state_dict()
    module.to(torch.bfloat16)
    assert module.down.dtype == torch.bfloat16
    after = module.state_dict()
    assert after.keys() == before.keys()
    for key in (key for key in before if key.startswith("up")):
        assert after[key].dtype == before[key].dtype
        assert torch.equal(after[key], before[key])
    assert torch.equal(module.up, values.to(module.up.dtype))


@pytest.fixture(autouse=True, scope="module")
def eager() -> Iterator[None]:
    """Let the library not compile what it calls a few times."""
    with torch.compiler.set_stance("force_eager"):
        yield


class Experts(nn.Module):
    """Two stacks of expert weights and a vector, as models with several experts have them."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator).to(dtype))

        self.up, self.down, self.gain = random(4, 32, 128), random(4, 128, 32), random(256)
        self.register_buffer("steps", torch.zeros(3))
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = [self.up, self.up, self.up]
        return torch.einsum("ehk,bk->beh", self.up, x)
