"""Rounded products and their gradients, against numpy on every block and against autograd.

Stored results of another implementation of them are in test_fake_quant_ops.py.
"""

from functools import partial

import ml_dtypes
import numpy as np
import pytest
import torch
from looped import looped
from torch import Tensor

from harness.formats.codebook import Codebook
from harness.formats.integer import Integer
from harness.formats.minifloat import E2M1
from harness.nn.ops import (
    Cast,
    MatmulFormats,
    along_contraction,
    baddbmm,
    fake_quantize_ste,
    in_range,
    matmul,
    qkv,
)
from harness.quant.granularity import Granularity
from harness.quant.primitives import fit
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import QLoRAScale
from harness.quant.tensor import TensorFormat


def int_blocks(bits: int, rows: int, columns: int) -> BlockScaled:
    return BlockScaled(element=Integer(bits=bits), granularity=Granularity(block=(rows, columns)))


NF4 = BlockScaled(
    element=Codebook(name="nf4"),
    granularity=Granularity(block=(1, 64), flat=True),
    scale=QLoRAScale(),
)
INT4, INT8_TENSOR = int_blocks(4, 1, 16), int_blocks(8, -1, -1)
MXFP4 = BlockScaled(
    element=E2M1,
    granularity=Granularity(block=(1, 32)),
    scale=PowerOfTwoScale(),
)
INT8_ASYMMETRIC = Affine(
    element=Integer(bits=8, narrow=False), granularity=Granularity(block=(-1, -1))
)


# Blocks along the axis that is summed over, rounded one by one with numpy.


each_format = looped("fmt", [INT4, MXFP4, INT8_TENSOR], ids=lambda f: f.name)
each_rank = looped("leading", [(), (3,), (2, 3)], ids=str)
# 16 and 32 divide none of these: the last blocks are short.
M, K, N = 6, 40, 70
# float64 sums of float32 operands are exact to this; a wrong axis is off by 0.1.
close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


@each_format
@each_rank
@looped(("of_a", "of_b"), [(True, False), (False, True), (True, True)])
def test_forward_blocks_run_along_the_contraction_axis(
    fmt: TensorFormat, leading: tuple[int, ...], of_a: bool, of_b: bool
) -> None:
    a, b = sample(*leading, M, K), sample(*leading, K, N, seed=1)
    formats = along_contraction(fmt if of_a else None, fmt if of_b else None)
    rounded_a = rounded_by_hand(a, fmt, -1) if of_a else a
    rounded_b = rounded_by_hand(b, fmt, -2) if of_b else b
    close(matmul(a, b, formats), torch.einsum("...mk,...kn->...mn", rounded_a, rounded_b))


@each_format
def test_gradients_are_those_of_the_float_product_without_a_backward_format(
    fmt: TensorFormat,
) -> None:
    a, b, grad = sample(3, M, K), sample(3, K, N, seed=1), sample(3, M, N, seed=2).detach()
    matmul(a, b, along_contraction(fmt, fmt)).backward(grad)
    close(a.grad, torch.einsum("emn,ekn->emk", grad, b))
    close(b.grad, torch.einsum("emk,emn->ekn", a, grad))


@each_format
@each_rank
def test_backward_blocks_run_along_the_axes_that_the_gradients_sum_over(
    fmt: TensorFormat, leading: tuple[int, ...]
) -> None:
    a, b = sample(*leading, M, K), sample(*leading, K, N, seed=1)
    grad = sample(*leading, M, N, seed=2).detach()
    out = matmul(a, b, along_contraction(None, None, backward=fmt))
    close(out, torch.einsum("...mk,...kn->...mn", a, b))
    out.backward(grad)
    # dA sums over N, the last axis of G and of B; dB sums over M, the last but one of A and of G.
    for_a = rounded_by_hand(grad, fmt, -1), rounded_by_hand(b, fmt, -1)
    for_b = rounded_by_hand(a, fmt, -2), rounded_by_hand(grad, fmt, -2)
    close(a.grad, torch.einsum("...mn,...kn->...mk", *for_a))
    close(b.grad, torch.einsum("...mk,...mn->...kn", *for_b))


def test_every_operand_has_its_own_format() -> None:
    operands = ("a", "b", "grad_for_a", "b_for_a", "a_for_b", "grad_for_b", "grad_for_input")
    for name in operands:
        i, a, b = sample(M, N, seed=3), sample(M, K), sample(K, N, seed=1)
        grad = sample(M, N, seed=2).detach()
        baddbmm(i, a, b, MatmulFormats(**{name: Cast(format=INT4)})).backward(grad)

        def part(operand: str, x: Tensor, name: str = name) -> Tensor:
            return rounded_by_hand(x, INT4, -1) if operand == name else x

        close(i.grad, part("grad_for_input", grad))
        close(a.grad, part("grad_for_a", grad) @ part("b_for_a", b).T)
        close(b.grad, part("a_for_b", a).T @ part("grad_for_b", grad))


def test_beta_and_alpha_scale_both_terms_and_every_gradient() -> None:
    i, a, b = sample(3, M, N, seed=3), sample(3, M, K), sample(3, K, N, seed=1)
    grad = sample(3, M, N, seed=2).detach()
    formats = along_contraction(INT4, MXFP4, backward=INT4)
    out = baddbmm(i, a, b, formats, beta=-0.25, alpha=3.0)
    rounded_a, rounded_b = rounded_by_hand(a, INT4, -1), rounded_by_hand(b, MXFP4, -2)
    close(out, torch.baddbmm(i, rounded_a, rounded_b, beta=-0.25, alpha=3.0))
    out.backward(grad)
    close(i.grad, -0.25 * grad)
    close(a.grad, 3 * rounded_by_hand(grad, INT4, -1) @ rounded_by_hand(b, INT4, -1).mT)
    close(b.grad, 3 * rounded_by_hand(a, INT4, -2).mT @ rounded_by_hand(grad, INT4, -2))


def test_bfloat16_operands_are_rounded_in_float32_and_multiplied_in_bfloat16() -> None:
    a, b = sample(M, K, dtype=torch.bfloat16), sample(K, N, seed=1, dtype=torch.bfloat16)
    out = matmul(a, b, along_contraction(INT4, INT4))
    assert torch.equal(out, rounded_by_hand(a, INT4, -1) @ rounded_by_hand(b, INT4, -2))
    out.backward(torch.ones_like(out))
    assert (out.dtype, a.grad.dtype, b.grad.dtype) == (torch.bfloat16,) * 3
    assert torch.equal(a.grad, torch.ones_like(out) @ b.detach().T)


@looped("own", [torch.bfloat16, torch.float32])
@looped("compute", [torch.bfloat16, torch.float32, torch.float64])
def test_product_is_computed_and_returned_in_the_compute_type(
    own: torch.dtype, compute: torch.dtype
) -> None:
    a, b = sample(M, K, dtype=own), sample(K, N, seed=1, dtype=own)
    grad = sample(M, N, seed=2, dtype=compute).detach()
    cast = Cast(format=INT4)
    out = matmul(a, b, MatmulFormats(a=cast, compute_dtype=compute))
    assert out.dtype is compute
    assert torch.equal(out, rounded_by_hand(a, INT4, -1).to(compute) @ b.to(compute))
    out.backward(grad)
    assert torch.equal(a.grad, (grad @ b.detach().to(compute).T).to(own))
    assert torch.equal(b.grad, (a.detach().to(compute).T @ grad).to(own))


@each_rank
def test_without_formats_a_product_is_that_of_torch(leading: tuple[int, ...]) -> None:
    a, b, i = (sample(*leading, *shape, seed=s) for s, shape in enumerate([(3, 4), (4, 5), (3, 5)]))
    plain = MatmulFormats()
    assert torch.autograd.gradcheck(partial(matmul, formats=plain), (a, b))
    added = partial(baddbmm, formats=plain, beta=0.5, alpha=2.0)
    assert torch.autograd.gradcheck(added, (i, a, b))
    close(matmul(a, b, plain), a @ b)
    close(added(i, a, b), 0.5 * i + 2 * (a @ b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_formats_gradients_are_those_of_autograd(dtype: torch.dtype) -> None:
    a, b = sample(3, M, K, dtype=dtype), sample(3, K, N, seed=1, dtype=dtype)
    grad = sample(3, M, N, seed=2, dtype=dtype).detach()
    ours = torch.autograd.grad(matmul(a, b, MatmulFormats()), (a, b), grad)
    theirs = torch.autograd.grad(a @ b, (a, b), grad)
    # Sums of 6 or 70 products, perhaps in another order.
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_input_of_a_sum_may_be_a_row() -> None:
    i, a, b = sample(N), sample(3, M, K, seed=1), sample(3, K, N, seed=2)
    out = baddbmm(i, a, b, MatmulFormats(), beta=0.5)
    grad = sample(*out.shape, seed=3).detach()
    out.backward(grad)
    close(i.grad, 0.5 * grad.sum((0, 1)))


USES = {
    "input": ("grad_for_input",),
    "a": ("grad_for_a", "b_for_a"),
    "b": ("a_for_b", "grad_for_b"),
}


@pytest.mark.parametrize(
    "wanted", [("a", "b"), ("input",), ("a",), ("b",), ("a", "input")], ids="+".join
)
def test_only_wanted_gradients_are_computed(wanted: tuple[str, ...]) -> None:
    shapes, grad = {"input": (M, N), "a": (M, K), "b": (K, N)}, sample(M, N, seed=3).detach()
    leaves = {name: sample(*shape, seed=s) for s, (name, shape) in enumerate(shapes.items())}
    casts = {field: Cast(format=INT4) for fields in USES.values() for field in fields}
    baddbmm(**leaves, formats=MatmulFormats(**casts)).backward(grad)
    asked = {name: leaf.detach().requires_grad_(name in wanted) for name, leaf in leaves.items()}
    # No operand has an axis 5: what rounds along it fails.
    casts |= {f: Cast(format=INT4, axis=5) for n in shapes.keys() - wanted for f in USES[n]}
    baddbmm(**asked, formats=MatmulFormats(**casts)).backward(grad)
    for name in shapes:
        if name in wanted:
            assert torch.equal(asked[name].grad, leaves[name].grad)
        else:
            assert asked[name].grad is None


def test_product_of_constants_needs_no_gradient() -> None:
    a, b = sample(M, K).detach(), sample(K, N).detach()
    assert not matmul(a, b, along_contraction(INT4, INT4, backward=INT4)).requires_grad


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 3), (4, 5)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 2, 3), (3, 4)), ((2, 2, 3), (3, 3, 4))],
)
def test_shapes_that_do_not_fit_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a and b must be \[.., M, K\] and \[.., K, N\]"):
        matmul(torch.zeros(a), torch.zeros(b), MatmulFormats())
    with pytest.raises(ValueError, match=r"got \(.*\) and \("):
        baddbmm(torch.zeros(1), torch.zeros(a), torch.zeros(b), MatmulFormats())


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be floating point, got torch\.int32"):
        fake_quantize_ste(torch.ones(3, dtype=torch.int32), INT4)


def test_a_gradient_of_the_gradient_is_refused() -> None:
    x = sample(M, K)
    grads = torch.autograd.grad(fake_quantize_ste(x, INT4).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grads[0].sum().backward()


# Straight through.


@looped("dtype", [torch.float32, torch.bfloat16, torch.float64])
@looped("axis", [-1, 0, 1])
@looped("fmt", [INT4, MXFP4], ids=lambda f: f.name)
def test_rounding_passes_the_gradient_straight_through(
    fmt: TensorFormat, axis: int, dtype: torch.dtype
) -> None:
    x, grad = sample(5, 33, 40, dtype=dtype), sample(5, 33, 40, seed=1, dtype=dtype).detach()
    out = fake_quantize_ste(x, fmt, axis=axis)
    assert out.dtype is dtype
    assert torch.equal(out, rounded_by_hand(x, fmt, axis))
    out.backward(grad)
    assert torch.equal(x.grad, grad)


@pytest.mark.parametrize("axis", [-1, -2])
def test_gradient_is_rounded_to_its_own_format_along_its_own_axis(axis: int) -> None:
    x, grad = sample(33, 40), sample(33, 40, seed=1).detach()
    backward = Cast(format=MXFP4, axis=axis)
    out = fake_quantize_ste(x, INT4, backward=backward)
    assert torch.equal(out, rounded_by_hand(x, INT4, -1))
    out.backward(grad)
    assert torch.equal(x.grad, rounded_by_hand(grad, MXFP4, axis))


def test_numbers_beyond_given_scales_are_clipped_and_get_no_gradient() -> None:
    reach = torch.tensor([[1.0, 4.0]])
    fmt = int_blocks(8, -1, 16)
    scales = fit(reach.repeat_interleave(16, 1), fmt)
    x = 3 * sample(40, 32, dtype=torch.float32).detach()
    # Well inside or well outside of the last step, which is 1/127 of the reach.
    ratio = x.abs() / reach.repeat_interleave(16, 1)
    x = torch.where((ratio - 1).abs() < 0.02, 0.0, x).requires_grad_()
    grad = sample(40, 32, seed=1, dtype=torch.float32).detach()
    outside = x.detach().abs() > reach.repeat_interleave(16, 1)
    assert 0.1 < outside.float().mean() < 0.9
    for masked in (True, False):
        x.grad = None
        out = fake_quantize_ste(x, fmt, scales=scales, mask_clipped=masked)
        assert torch.equal(
            out[outside].abs(), reach.repeat_interleave(16, 1).expand(40, 32)[outside]
        )
        out.backward(grad)
        assert torch.equal(x.grad, grad.masked_fill(outside, 0) if masked else grad)


def test_mask_of_a_zero_point_has_two_different_ends() -> None:
    scales = fit(torch.tensor([[-1.0, 3.0]]), INT8_ASYMMETRIC)
    x = torch.tensor([[-9.0, -1.1, -0.9, 0.0, 2.9, 3.1, 9.0]], requires_grad=True)
    fake_quantize_ste(x, INT8_ASYMMETRIC, scales=scales, mask_clipped=True).sum().backward()
    assert x.grad.tolist() == [[0, 0, 1, 1, 1, 0, 0]]


def test_mask_goes_on_top_of_the_rounded_gradient() -> None:
    fmt = int_blocks(8, -1, -1)
    x, grad = sample(6, 40), 1 + sample(6, 40, seed=1).detach().abs()
    scales = fit(torch.ones(6, 40), fmt)
    backward = Cast(format=INT4)
    fake_quantize_ste(x, fmt, scales=scales, backward=backward, mask_clipped=True).backward(grad)
    expected = rounded_by_hand(grad, INT4, -1)
    clear = (x.abs() - 1).abs() > 0.01
    assert torch.equal(x.grad[clear], (expected * (x.abs() < 1))[clear])


def test_mask_follows_the_axis_of_the_blocks() -> None:
    x = sample(32, 5).detach()
    fmt = int_blocks(8, 1, 16)
    half = fit(x / 2, fmt, axis=0)
    found = in_range(x, fmt, half, axis=0)
    maxima = x.view(2, 16, 5).abs().amax(1, keepdim=True) / 2
    clear = (x.view(2, 16, 5).abs() - maxima).abs() > 0.02 * maxima
    assert torch.equal(found.view(2, 16, 5)[clear], (x.view(2, 16, 5).abs() < maxima)[clear])


@pytest.mark.parametrize("shape", [(4, 64), (3, 100), (130,), (2, 3, 50)], ids=str)
def test_mask_of_blocks_that_run_on_from_row_to_row(shape: tuple[int, ...]) -> None:
    x = sample(*shape, dtype=torch.float32).detach()
    maxima = [block.abs().amax().expand(len(block)) for block in x.flatten().split(64)]
    ratio = x.abs() / torch.cat(maxima).view(shape)
    found = in_range(x, NF4, fit(x / 2, NF4))
    # NF4's last step is 0.28 wide: nothing is asserted around the end of the range.
    clear = (ratio - 0.5).abs() > 0.1
    assert torch.equal(found[clear], (ratio < 0.5)[clear])


@pytest.mark.parametrize("bits", [4, 8])
def test_numbers_that_set_the_range_are_not_clipped(bits: int) -> None:
    # The scale is a rounded quotient: times the largest code it may be below the largest number.
    x = torch.linspace(1, 2, 10_000)[:, None].requires_grad_()
    fake_quantize_ste(x, int_blocks(bits, 1, 1), mask_clipped=True).sum().backward()
    assert (x.grad == 0).sum() == 0


@pytest.mark.parametrize("ends", [(-1.37, 1.0), (-1.0, 1.9), (0.0, 2.0)], ids=str)
def test_mask_of_a_zero_point_is_that_of_torch(ends: tuple[float, float]) -> None:
    # torch clips numbers whose codes are beyond the ends; the zero point moves them by half a step.
    scales = fit(torch.tensor([ends]), INT8_ASYMMETRIC)
    zero = int(scales.zero_point.values)
    x = sample(1, 10_000, dtype=torch.float32)
    fake_quantize_ste(x, INT8_ASYMMETRIC, scales=scales, mask_clipped=True).sum().backward()
    other = x.detach().requires_grad_()
    scale = float(scales.planes[0].values)
    torch.fake_quantize_per_tensor_affine(other, scale, zero, -128, 127).sum().backward()
    assert torch.equal(x.grad, other.grad)


# Attention.


def test_query_key_and_value_are_rounded_along_their_last_axis() -> None:
    q, k, v = (sample(2, 3, 5, 40, seed=s, dtype=torch.bfloat16) for s in range(3))
    grad = sample(2, 3, 5, 40, seed=4, dtype=torch.bfloat16).detach()
    for backward in (None, Cast(format=MXFP4)):
        for x, out in zip((q, k, v), qkv(q, k, v, INT4, backward=backward), strict=True):
            assert torch.equal(out, rounded_by_hand(x, INT4, -1))
            x.grad = None
            out.backward(grad)
            expected = grad if backward is None else rounded_by_hand(grad, MXFP4, -1)
            assert torch.equal(x.grad, expected)


def sample(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return normal numbers that float32 holds exactly, as a leaf."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).requires_grad_()


def integers_of(block: np.ndarray, largest: int) -> np.ndarray:
    scale = np.abs(block).max() / np.float32(largest)
    return np.rint(block / scale) * scale


def mxfp4_of(block: np.ndarray) -> np.ndarray:
    scale = np.float32(2.0) ** (np.floor(np.log2(np.abs(block).max())) - 2)
    return np.clip(block / scale, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype("f4") * scale


def rounded_by_hand(x: Tensor, fmt: TensorFormat | None, axis: int) -> Tensor:
    """Round every line along an axis block by block; INT8 has one block for each matrix."""
    array = x.detach().float().numpy()
    if fmt is None:
        found = array
    elif fmt is INT8_TENSOR:
        whole = array.reshape(-1, *array.shape[-2:])
        found = np.stack([integers_of(matrix, 127) for matrix in whole]).reshape(array.shape)
    else:
        one, size = (partial(integers_of, largest=7), 16) if fmt is INT4 else (mxfp4_of, 32)

        def line(numbers: np.ndarray) -> np.ndarray:
            starts = range(0, len(numbers), size)
            return np.concatenate([one(numbers[i : i + size]) for i in starts])

        found = np.apply_along_axis(line, axis, array)
    return torch.from_numpy(found).to(x.dtype)
