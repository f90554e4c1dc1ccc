"""Formats and matmuls of fake_quant_ops: stored results bit for bit, and its formulas in numpy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from golden import stored_tensors, whole
from looped import looped
from torch import Tensor

from harness.formats.minifloat import Minifloat
from harness.nn import fake_quant_ops as fqo
from harness.nn.ops import Cast, MatmulFormats, baddbmm, fake_quantize_ste, matmul, qkv
from harness.quant.granularity import Granularity
from harness.quant.primitives import fake_quantize, quantize
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.block_scaled import BlockScaled

ELEMENTS = {
    "e4m3": {"exponent_bits": 4, "mantissa_bits": 3, "specials": "nan"},
    "e5m2": {"exponent_bits": 5, "mantissa_bits": 2, "specials": "ieee"},
    "e2m1": {"exponent_bits": 2, "mantissa_bits": 1},
}


def mx(name: str, block: int = 32) -> BlockScaled:
    """Return the MX format of an element, such as `fp8_e4m3`, rounded as in fake_quant_ops."""
    return BlockScaled(
        element=Minifloat(**ELEMENTS[name.rpartition("_")[-1]], rounding="half_away"),
        granularity=Granularity(block=(1, block)),
        scale=PowerOfTwoScale(),
    )


@dataclass(frozen=True, kw_only=True)
class Call:
    """This project's form of a function of fake_quant_ops, and the names of its stored inputs."""

    function: Callable[..., Tensor]
    inputs: str
    grad: str


SCALARS = {"beta": 0.5, "alpha": 2.0}


def product(formats: MatmulFormats) -> Call:
    return Call(function=partial(matmul, formats=formats), inputs="A B", grad="G")


def sum_of_products(formats: MatmulFormats) -> Call:
    function = partial(baddbmm, formats=formats, **SCALARS)
    return Call(function=function, inputs="I3 A3 B3", grad="G3")


def of_one(function: Callable[..., Tensor]) -> Call:
    return Call(function=function, inputs="QK", grad="GQ")


def of_rounded(product: Callable[..., Tensor], q: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return product(*map(q, inputs))


def first_of_qkv(x: Tensor, **options: Any) -> Tensor:
    return qkv(x, x, x, **options)[0]


def in_bfloat16(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return function(*inputs).bfloat16()


def of_microscaling() -> Iterator[tuple[str, Call]]:
    for name in ("fp8_e4m3", "fp8_e5m2", "fp4_e2m1"):
        yield f"fqo_head/mxfp_matmul/{name}", product(fqo.head(mx(name)))
        yield f"fqo_a7c/mxfp_matmul/{name}", product(fqo.readme(mx(name)))
        yield f"fqo_a7c/mxfp_baddbmm/{name}", sum_of_products(fqo.readme(mx(name)))
    ste, query = (
        partial(fake_quantize_ste, fmt=mx("e5m2", 16)),
        partial(first_of_qkv, fmt=mx("e4m3", 16)),
    )
    yield "fqo_a7c/quant_dequant_tensor/fp8_e5m2", of_one(ste)
    yield "fqo_a7c/quant_dequant_qkv/fp8_e4m3", of_one(query)
    for name in ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp4_e2m1"):
        fmt = mx(name, 16 if "fp4" in name else 32)
        both = {"fmt": fmt, "backward": Cast(format=fmt)}
        ste, query = partial(fake_quantize_ste, **both), partial(first_of_qkv, **both)
        yield f"fqo_head/quant_dequant_tensor_with_backward/{name}", of_one(ste)
        yield f"fqo_head/quant_dequant_qkv/{name}", of_one(partial(in_bfloat16, query))
        once = partial(of_rounded, torch.matmul, ste)
        yield f"fqo_head/quant_matmul/{name}", Call(function=once, inputs="A B", grad="G")
        added = partial(of_rounded, partial(torch.baddbmm, **SCALARS), ste)
        yield (
            f"fqo_head/quant_baddbmm/{name}",
            Call(function=added, inputs="I3 A3 B3", grad="G3"),
        )


def of_one_scale() -> Iterator[tuple[str, Call]]:
    hif8 = fqo.head(fqo.hif8(), torch.bfloat16)
    yield "fqo_head/hifp_matmul", product(hif8)
    yield "fqo_head/hifp_baddbmm", sum_of_products(hif8)
    ste = partial(fake_quantize_ste, fmt=fqo.hif8())
    yield "fqo_head/quant_hif8_ste", of_one(partial(in_bfloat16, ste))
    nvfp8, nvfp4 = (make(fqo.EPSILON_OF_MATMULS) for make in (fqo.nvfp8, fqo.nvfp4))
    yield "fqo_head/nvfp_matmul/nvfp8_e4m3", product(fqo.head(nvfp8))
    yield "fqo_head/nvfp_matmul/nvfp4_e2m1", product(fqo.head(nvfp4))


CALLS = dict(of_microscaling()) | dict(of_one_scale())


def test_every_stored_entry_has_its_call() -> None:
    entries = [e["id"] for e in whole() if e["file"] == "autograd.safetensors"]
    assert sorted(entries) == sorted([*CALLS, "inputs"])
    keys = {key.rpartition("/")[0] for key in stored_tensors("autograd")}
    assert keys == {*CALLS, "inputs"}


def order_of_sums(inputs: list[Tensor], stored: Tensor, *, via_bfloat16: bool) -> Tensor:
    """Return how far elements of a matmul may lie from those that another processor summed.

    In another order a sum of K terms differs by K 2^-24 |a| |b| at most. Rounded to bfloat16,
    before or after something is added, it may become the next number.
    """
    terms = max(size for x in inputs for size in x.shape[-2:])
    longest = max(float(x.norm(dim=axis).max()) for x in inputs for axis in (-1, -2))
    bound = torch.full(stored.shape, terms * 2.0**-24 * longest**2)
    added = max(float(x.abs().max()) for x in inputs)
    return bound + 2.0**-7 * (stored.float().abs() + added) if via_bfloat16 else bound


@looped("name", CALLS)
def test_values_and_gradients_equal_the_stored_ones(name: str) -> None:
    [entry] = [e for e in whole() if e["id"] == name]
    stored, call = stored_tensors("autograd"), CALLS[name]
    inputs = [stored[f"inputs/{key}"].float().clone() for key in call.inputs.split()]
    for x in inputs:
        x.requires_grad_()
    out = call.function(*inputs)
    out.backward(stored[f"inputs/{call.grad}"].to(out.dtype))
    assert str(out.dtype) == entry["format"]
    found = {"out": out.detach()} | {f"grad{i}": x.grad for i, x in enumerate(inputs)}
    assert found.keys() == entry["sha256_16"].keys()
    if "matmul" not in name and "baddbmm" not in name:
        for role, tensor in found.items():
            assert torch.equal(tensor.float(), stored[f"{name}/{role}"].float()), role
        return
    operands = [x.detach() for x in inputs] + [stored[f"inputs/{call.grad}"].float()]
    for role, tensor in found.items():
        theirs = stored[f"{name}/{role}"]
        via = "hifp" in name or theirs.dtype is torch.bfloat16
        bound = order_of_sums(operands, theirs, via_bfloat16=via)
        beyond = (tensor.float() - theirs.float()).abs() > bound
        # These gradients are rounded to the format after the sum: a tie may fall to either side.
        ties = len(beyond.flatten()) // 100 if "/quant_" in name and role != "out" else 0
        assert beyond.sum() <= ties, role


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fp8(units: np.ndarray) -> np.ndarray:
    return units.astype(ml_dtypes.float8_e4m3fn).astype("f4")


def nvfp4(units: np.ndarray) -> np.ndarray:
    """Steps of 1/8 below 1, 1/4 below 2, 1/2 below 4, 1 to 6; halves away from zero."""
    magnitude = np.abs(units)
    step = np.select([magnitude < 1, magnitude < 2, magnitude < 4], [1 / 8, 1 / 4, 1 / 2], 1.0)
    steps = np.floor(magnitude.astype("f8") / step + 0.5)
    return (np.sign(units) * np.minimum(steps * step, 6)).astype("f4")


def hif8(units: np.ndarray) -> np.ndarray:
    """Round magnitudes up to 8: 3 mantissa bits from 1/8 on, 2 from 2^-7 on, 1 from 2^-15 on."""
    magnitude = np.abs(units).astype("f8")
    exponent = np.floor(np.log2(np.maximum(magnitude, 2.0**-15)))
    bits = np.select([np.abs(exponent) <= 3, np.abs(exponent) <= 7], [3, 2], 1)
    step = 2.0 ** (exponent - bits)
    return (np.sign(units) * np.floor(magnitude / step + 0.5) * step).astype("f4")


each_format = looped(
    ("make", "target", "grid"),
    [(fqo.hif8, 8, hif8), (fqo.nvfp8, 448, fp8), (fqo.nvfp4, 6, nvfp4)],
)
Make, Grid = Callable[[], BlockScaled], Callable[[np.ndarray], np.ndarray]


@each_format
@looped("shape", [(40, 100), (3, 20, 50), (777,)], ids=str)
@looped("size", [1.0, 1e-4, 300.0])
def test_values_are_rounded_under_one_scale_for_the_whole_tensor(
    make: Make, target: int, grid: Grid, shape: tuple[int, ...], size: float
) -> None:
    x = size * sample(*shape)
    array = x.numpy()
    # A number over a tensor is a product with the reciprocal in torch.
    scale = np.float32(1) / (np.abs(array).max() + np.float32(2.0**-23)) * np.float32(target)
    expected = grid(array * scale) / scale
    np.testing.assert_array_equal(fake_quantize(x, make()).numpy(), expected)
    np.testing.assert_array_equal(quantize(x, make()).dequantize().numpy(), expected)


@each_format
def test_zeros_stay_zeros_and_names_are_not_those_of_the_standards(
    make: Make, target: int, grid: Grid
) -> None:
    assert fake_quantize(torch.zeros(3, 5), make()).eq(0).all()
    assert make().name.startswith("fqo_")


def test_its_nvfp4_has_19_magnitudes_of_which_4_bits_hold_8() -> None:
    values = fqo.nvfp4().element.values()
    assert len(values) == 2 * 19 - 1
    assert torch.equal(values, -values.flip(0))
    grid = torch.linspace(-6, 6, 100_001)
    assert torch.equal(values.unique(), torch.from_numpy(nvfp4(grid.numpy())).unique() + 0.0)
    assert fqo.nvfp4().element.bits == 6


def test_epsilon_of_products_is_smaller() -> None:
    x = torch.tensor([[1e-6, 0.5e-6]])
    wide, narrow = fqo.nvfp8(), fqo.nvfp8(fqo.EPSILON_OF_MATMULS)
    largest = fake_quantize(x, narrow).max().item()
    assert largest == pytest.approx(1e-6, rel=1e-5)
    assert quantize(x, wide).scales.planes[0].values.item() == pytest.approx(448 / (1e-6 + 2**-23))
    assert quantize(x, narrow).scales.planes[0].values.item() == pytest.approx(448e6)


def test_readme_leaves_gradients_in_float_and_head_rounds_along_the_forward_axes() -> None:
    fmt = mx("e2m1", 16)
    rows, columns = (partial(fake_quantize, fmt=fmt, axis=axis) for axis in (-1, -2))
    i, a, b = sample(2, 6, 70, seed=3), sample(2, 6, 40), sample(2, 40, 70, seed=1)
    grad = sample(2, 6, 70, seed=2)
    expected = {
        fqo.readme: (0.5 * grad, 2 * grad @ b.mT, 2 * a.mT @ grad),
        fqo.head: (
            0.5 * rows(grad),
            2 * rows(grad) @ columns(b).mT,
            2 * rows(a).mT @ rows(grad),
        ),
    }
    for make, gradients in expected.items():
        leaves = [x.clone().requires_grad_() for x in (i, a, b)]
        out = baddbmm(*leaves, make(fmt), **SCALARS)
        torch.testing.assert_close(out, 0.5 * i + 2 * rows(a) @ columns(b))
        out.backward(grad)
        # float32 sums of up to 70 products, in another order.
        for leaf, gradient in zip(leaves, gradients, strict=True):
            torch.testing.assert_close(leaf.grad, gradient, rtol=1e-5, atol=1e-5)
