"""The linear layer with formats: each mode and each preset against plain loops over blocks."""

import copy
from typing import Any

import pytest
import torch
from conf_formats import each_format
from linear_by_hand import IN, OUT, by_hand, ints, linear, sample
from looped import looped
from torch import nn
from torch.nn import functional as F

from harness.formats.integer import Integer
from harness.formats.minifloat import E4M3
from harness.nn.fake_quant_linear import FakeQuantLinear, quantize_activation
from harness.nn.linear import set_mode
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.range import Percentile
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.hif4 import HiF
from harness.quant.tensor import TensorFormat

ROW, TENSOR, COLUMN_GROUPS = ints(8, 1, -1), ints(8, -1, -1), ints(8, -1, 64)
ASYMMETRIC = Affine(element=Integer(bits=8, narrow=False), granularity=Granularity(block=(-1, 64)))
FP8 = BlockScaled(
    element=E4M3,
    granularity=Granularity(block=(-1, -1)),
)


# Modes.


def test_modes_float_calibrate_and_fake_quant() -> None:
    plain, x = linear(), sample(7, IN)
    layer = FakeQuantLinear.from_module(plain, ROW, TENSOR, static_input=True)
    exact = plain(x)
    set_mode(layer, "float")
    assert torch.equal(layer(x), exact)
    assert not layer.input_high.any()
    set_mode(layer, "calibrate")
    assert torch.equal(layer(x), exact)
    assert layer.input_low.item() == x.min()
    assert layer.input_high.item() == x.max()
    set_mode(layer, "fake_quant")
    expected = F.linear(by_hand(x, 8, -1, -1), by_hand(plain.weight, 8, 1, -1), plain.bias)
    assert torch.equal(layer(x), expected)


def test_layer_starts_in_the_mode_that_it_can_run_in() -> None:
    assert layer_of(ROW, ROW).mode == "fake_quant"
    assert layer_of(ROW, TENSOR, static_input=True).mode == "calibrate"


@each_format
def test_output_is_the_product_of_what_the_formats_store(fmt: Any) -> None:
    plain, x = linear(), sample(3, 5, IN)
    stored = quantize(plain.weight, fmt).dequantize()
    tokens = quantize(x.view(15, IN), fmt).dequantize().view(3, 5, IN)
    for weight, input, expected in [
        (fmt, None, F.linear(x, stored, plain.bias)),
        (None, fmt, F.linear(tokens, plain.weight, plain.bias)),
        (fmt, fmt, F.linear(tokens, stored, plain.bias)),
    ]:
        layer = FakeQuantLinear.from_module(plain, weight, input)
        with torch.no_grad():
            assert torch.equal(layer(x), expected)
        assert torch.equal(layer(x), expected), "in training too"


@looped("shape", [(), (1,), (2, 3), (0,), (2, 0, 3)], ids=str)
@looped("fmt", [ROW, TENSOR, COLUMN_GROUPS, ints(8, 4, 64)], ids=lambda f: f.name)
def test_input_of_any_shape_is_one_matrix_of_tokens(
    shape: tuple[int, ...], fmt: TensorFormat
) -> None:
    x = sample(*shape, IN)
    layer = layer_of(None, fmt)
    found = layer(x)
    assert found.shape == (*shape, OUT)
    tokens = x.reshape(-1, IN)
    expected = by_hand(tokens, 8, *fmt.granularity.block) if x.numel() else tokens
    assert torch.equal(found, F.linear(expected.view(x.shape), layer.weight, layer.bias))


def test_input_need_not_be_contiguous() -> None:
    x = sample(IN, 6).T
    assert torch.equal(quantize_activation(x, ROW), by_hand(x.contiguous(), 8, 1, -1))


def test_bfloat16_layer_computes_with_values_rounded_in_float32() -> None:
    plain, x = linear(torch.bfloat16), sample(7, IN).bfloat16()
    layer = FakeQuantLinear.from_module(plain, ROW, ROW)
    expected = F.linear(by_hand(x, 8, 1, -1), by_hand(plain.weight, 8, 1, -1), plain.bias)
    assert layer(x).dtype is torch.bfloat16
    assert torch.equal(layer(x), expected)


# Static ranges.


@pytest.mark.parametrize("fmt", [TENSOR, COLUMN_GROUPS, FP8, ASYMMETRIC], ids=lambda f: f.name)
def test_calibration_over_batches_equals_one_over_all_of_them(fmt: TensorFormat) -> None:
    batches = [sample(4, 3, IN, seed=1), 3 * sample(1, IN, seed=2) + 1, sample(IN, seed=3)]
    layer = layer_of(ROW, fmt, static_input=True)
    for batch in batches:
        layer(batch)
    whole = quantize(torch.cat([batch.reshape(-1, IN) for batch in batches]), fmt).scales
    found = layer.input_scales()
    assert torch.equal(found.planes[0].values, whole.planes[0].values)
    if whole.zero_point is not None:
        assert torch.equal(found.zero_point.values, whole.zero_point.values)


def test_static_scales_stay_and_dynamic_ones_follow_the_input() -> None:
    calibration, x = sample(20, IN), 4 * sample(5, IN, seed=1)
    static, dynamic = layer_of(None, TENSOR, static_input=True), layer_of(None, TENSOR)
    static(calibration)
    set_mode(static, "fake_quant")
    largest = calibration.abs().max()
    scale = largest / 127
    clipped = (x / scale).round().clamp(-127, 127) * scale
    assert (x.abs() > largest).any()
    assert torch.equal(static(x), F.linear(clipped, static.weight, static.bias))
    assert torch.equal(dynamic(x), F.linear(by_hand(x, 8, -1, -1), dynamic.weight, dynamic.bias))
    assert dynamic.input_scales() is None
    assert static.input_high == calibration.max(), "fake_quant does not record"


def test_what_static_scales_clip_gets_no_gradient() -> None:
    layer = layer_of(None, TENSOR, static_input=True)
    layer(torch.tensor([[-1.0, 1.0] * (IN // 2)]))
    set_mode(layer, "fake_quant")
    x = sample(5, IN)
    x = x.masked_fill((x.abs() - 1).abs() < 0.01, 0).requires_grad_()
    layer(x).sum().backward()
    expected = layer.weight.detach().sum(0) * (x.detach().abs() < 1)
    torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-4)
    assert x.grad.eq(0).any()


def test_percentile_of_each_batch_is_covered() -> None:
    fmt = ints(8, -1, -1, range=Percentile(percent=50))
    layer = layer_of(None, fmt, static_input=True)
    for factor in (1, 3, 2):
        layer(factor * torch.arange(1.0, IN + 1))
    assert layer.input_high.item() == 3 * IN / 2


@pytest.mark.parametrize(
    ("fmt", "got"),
    [
        (ROW, "int8_row"),
        (ints(8, 1, 64), "int8_g64"),
        (ints(8, 128, 128), "int8_128x128"),
        (HiF(), "hif4"),
        (None, "no input format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_static_scales_of_single_tokens_are_refused(fmt: TensorFormat | None, got: str) -> None:
    with pytest.raises(ValueError, match=f"that all tokens share .*, got {got}; use static_input"):
        layer_of(ROW, fmt, static_input=True)


def test_static_layer_that_saw_nothing_is_refused() -> None:
    layer = layer_of(ROW, TENSOR, static_input=True)
    set_mode(layer, "fake_quant")
    with pytest.raises(RuntimeError, match="must be calibrated before mode fake_quant"):
        layer(sample(2, IN))


def test_static_ranges_are_in_the_state_dict_and_serve_a_fresh_layer() -> None:
    layer, fresh = (layer_of(ROW, COLUMN_GROUPS, static_input=True) for _ in range(2))
    layer(sample(9, IN))
    assert layer.state_dict().keys() == {"weight", "bias", "input_low", "input_high"}
    assert layer_of(ROW, ROW).state_dict().keys() == {"weight", "bias"}
    state = {key: tensor.clone() for key, tensor in layer.state_dict().items()}
    fresh.load_state_dict(state)
    set_mode(nn.ModuleList([layer, fresh]), "fake_quant")
    x = sample(4, IN, seed=5)
    assert torch.equal(fresh(x), layer(x))


def test_calibration_without_gradients_leaves_a_layer_that_can_load_and_train() -> None:
    layer = layer_of(ROW, TENSOR, static_input=True)
    with torch.inference_mode():
        layer(sample(9, IN))
    layer.load_state_dict({key: tensor.clone() for key, tensor in layer.state_dict().items()})
    set_mode(layer, "fake_quant")
    layer(sample(4, IN)).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_type_of_the_layer_does_not_change_recorded_ranges(dtype: torch.dtype) -> None:
    layer = layer_of(None, TENSOR, static_input=True)
    layer(1e5 * sample(9, IN))
    before = layer.input_low.clone(), layer.input_high.clone()
    layer.to(dtype)
    assert torch.equal(layer.input_low, before[0])
    assert torch.equal(layer.input_high, before[1])


# Parameters, gradients, the kept weight.


def test_parameters_are_those_of_the_float_layer() -> None:
    for bias in (True, False):
        plain = linear(bias=bias)
        layer = FakeQuantLinear.from_module(plain, ROW)
        assert layer.weight is plain.weight
        assert layer.bias is plain.bias
        assert isinstance(layer, nn.Linear)
        assert layer.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("training", [True, False])
def test_layer_trains_if_the_float_one_does(training: bool) -> None:
    assert FakeQuantLinear.from_module(linear().train(training), ROW).training is training


def test_gradient_goes_straight_through_to_weight_input_and_bias() -> None:
    layer, x = layer_of(ROW, ROW), sample(6, IN).requires_grad_()
    grad = sample(6, OUT, seed=1)
    layer(x).backward(grad)
    rounded_x, rounded_w = by_hand(x.detach(), 8, 1, -1), by_hand(layer.weight.detach(), 8, 1, -1)
    torch.testing.assert_close(x.grad, grad @ rounded_w)
    torch.testing.assert_close(layer.weight.grad, grad.T @ rounded_x)
    torch.testing.assert_close(layer.bias.grad, grad.sum(0))


def test_training_lowers_the_loss_and_moves_the_rounded_weight() -> None:
    layer, x, target = layer_of(ints(4, 1, 64), ROW), sample(64, IN), sample(64, OUT, seed=1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=10)
    first = layer.rounded_weight().detach().clone()
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.mse_loss(layer(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert not torch.equal(layer.rounded_weight(), first)
    with torch.no_grad():
        assert torch.equal(layer.rounded_weight(), by_hand(layer.weight, 4, 1, 64))


@torch.no_grad()
def test_rounded_weight_is_made_once() -> None:
    layer = layer_of(ROW)
    assert layer.rounded_weight() is layer.rounded_weight()
    stored = quantize(layer.weight, ROW).scales.planes[0].values
    assert torch.equal(layer.weight_scales().planes[0].values, stored)
    assert layer_of(None).weight_scales() is None


def doubled(layer: FakeQuantLinear) -> None:
    layer.weight.mul_(2)


def loaded(layer: FakeQuantLinear) -> None:
    layer.load_state_dict({"weight": 3 * layer.weight, "bias": layer.bias.clone()})


def stepped(layer: FakeQuantLinear) -> None:
    layer.weight.grad = torch.ones_like(layer.weight)
    torch.optim.SGD([layer.weight], lr=0.5).step()


def replaced(layer: FakeQuantLinear) -> None:
    layer.weight = nn.Parameter(sample(*layer.weight.shape, seed=9))


def there_and_back(layer: FakeQuantLinear) -> None:
    layer.to(torch.bfloat16).to(torch.float32)


def element_set(layer: FakeQuantLinear) -> None:
    layer.weight[3, 5] = 100


@looped("change", [doubled, loaded, stepped, replaced, there_and_back, element_set])
def test_changed_weight_is_rounded_anew(change: object) -> None:
    # Whether freed memory is used again, at the same address, is a matter of chance: hence so many.
    layers = [FakeQuantLinear.from_module(nn.Linear(20, 8), ROW) for _ in range(40)]
    stale = 0
    with torch.no_grad():
        for layer in layers:
            layer(sample(2, 20))
            change(layer)
            stale += not torch.equal(layer.rounded_weight(), by_hand(layer.weight, 8, 1, -1))
    assert stale == 0


def test_inference_leaves_a_layer_through_which_gradients_flow() -> None:
    layer = layer_of(ROW).requires_grad_(False)
    with torch.inference_mode():
        layer(sample(2, IN))
    x = sample(2, IN).requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad[0], by_hand(layer.weight, 8, 1, -1).sum(0))


def test_layer_made_in_inference_mode_runs() -> None:
    with torch.inference_mode():
        layer, x = layer_of(ROW), sample(2, IN)
        expected = F.linear(x, by_hand(layer.weight, 8, 1, -1), layer.bias)
        assert torch.equal(layer(x), expected)


@torch.no_grad()
def test_deep_copy_has_a_weight_of_its_own() -> None:
    layer, x = layer_of(ROW, TENSOR, static_input=True), sample(4, IN)
    layer(x)
    set_mode(layer, "fake_quant")
    before = layer(x)
    other = copy.deepcopy(layer)
    assert torch.equal(other(x), before)
    other.weight.mul_(2)
    other.input_high.mul_(2)
    assert torch.equal(other.rounded_weight(), by_hand(2 * layer.weight, 8, 1, -1))
    assert torch.equal(layer(x), before)


def test_layer_follows_its_type() -> None:
    layer, x = layer_of(ROW, ROW), sample(4, IN)
    layer(x)
    layer.to(torch.float64)
    expected = F.linear(by_hand(x.double(), 8, 1, -1), by_hand(layer.weight, 8, 1, -1), layer.bias)
    assert torch.equal(layer(x.double()), expected)


def test_text_says_formats_and_mode() -> None:
    text = repr(layer_of(ROW, TENSOR, static_input=True))
    for part in ("in_features=130", "weight=int8_row", "input=int8_tensor (static)", "calibrate"):
        assert part in text
    assert "weight=float, input=int8_row (dynamic), mode=fake_quant" in repr(layer_of(None, ROW))


def layer_of(
    weight: TensorFormat | None, input: TensorFormat | None = None, **options: bool
) -> FakeQuantLinear:
    return FakeQuantLinear.from_module(linear(), weight, input, **options)
