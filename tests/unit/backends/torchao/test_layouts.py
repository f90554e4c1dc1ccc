"""Which tensor of torchao's holds which format where, and our codes in it beside those that torchao itself makes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from repository import CONF
from torch.nn import functional as F

from harness.backends.layer import LayerRule, QuantizedLayer
from harness.backends.torchao import layouts as torchao_layouts
from harness.backends.torchao.activations import TorchaoInput
from harness.backends.torchao.backend import TorchaoBackend, converted, linear_with, made_by_torchao
from harness.backends.torchao.layouts import E2M1, E5M2, Layout, choose
from harness.backends.torchao.packing import torchao
from harness.config import build, register, resolve
from harness.formats.integer import Integer
from harness.formats.minifloat import E4M3, Minifloat
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.scale import FloatScale, PowerOfTwoScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NAMES = sorted(file.stem for file in (CONF / "quant").glob("*.yaml"))
ROW, GROUP = Granularity(block=(1, -1)), Granularity(block=(1, 32))
INT8 = BlockScaled(element=Integer(bits=8), granularity=ROW)
FP8 = BlockScaled(element=E4M3, granularity=ROW)
FP8_TENSOR = replace(FP8, granularity=Granularity(block=(-1, -1)))
NVFP4 = BlockScaled(element=E2M1, granularity=Granularity(block=(1, 16)), scale=NVFP4Scale())


def mx(element: Minifloat, rule: Any = "floor") -> BlockScaled:
    return BlockScaled(element=element, granularity=GROUP, scale=PowerOfTwoScale(rule=rule))


def rule(weight: Any, given: Any = None) -> LayerRule:
    return LayerRule(match="*", weight=weight, input=given)


def layout(weight: Any, given: Any = None, device: torch.device = CPU) -> Layout:
    found = choose(rule(weight, given), device)
    assert isinstance(found, Layout), found
    return found


def reason(weight: Any, given: Any = None, device: torch.device = CPU) -> str:
    found = choose(rule(weight, given), device)
    assert isinstance(found, str), found
    return found


def numbers(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(96, 128, generator=torch.Generator().manual_seed(0)).to(dtype)


def quantized(weight: torch.Tensor, fmt: BlockScaled) -> QuantizedLayer:
    return QuantizedLayer(
        name="layer", rule="linear", format=fmt, weight=quantize(weight, fmt), rel_error=0.0
    )


def capability(monkeypatch: pytest.MonkeyPatch, major: int, minor: int) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, minor))


def unlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchao make on this processor what only some GPUs can multiply."""
    monkeypatch.setattr(torchao_layouts, "_lacks", lambda *_: None)
    monkeypatch.setattr(
        torchao("quantization.quant_api"), "_check_hardware_support", lambda _: None
    )
    workflow = torchao("prototype.mx_formats.inference_workflow")
    monkeypatch.setattr(workflow, "is_sm_at_least_100", lambda: True)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_runs_or_says_why_not(name: str) -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", [f"+quant={name}", "model=tiny", "data=embedded"])
    recipe = build(resolve(composed)["quant"], "quant")
    found = TorchaoBackend().supports(tuple(recipe.rules.values()), CPU)
    assert found is None or "got" in found or "it has int8" in found
    if name.startswith("torchao_"):
        needs_gpu = "GPU of capability" in (CONF / "quant" / f"{name}.yaml").read_text("utf-8")
        # The FP8 recipe with SmoothQuant says it in that of which it is made.
        assert (found is None) == (not needs_gpu and name != "torchao_fp8_smooth")


@pytest.mark.parametrize(
    "weight",
    [
        replace(INT8, granularity=Granularity(block=(-1, 1))),
        replace(INT8, granularity=Granularity(block=(128, 128))),
        replace(INT8, granularity=Granularity(block=(1, 64), flat=True)),
        replace(INT8, element=Integer(bits=6)),
        replace(INT8, element=Integer(bits=8, fraction_bits=6)),
        replace(INT8, element=Integer(bits=4)),
        replace(FP8, element=E2M1),
        mx(E4M3),
        replace(NVFP4, granularity=GROUP),
    ],
    ids=lambda fmt: fmt.name,
)
def test_format_that_torchao_has_not_is_named_with_what_it_has(weight: BlockScaled) -> None:
    found = reason(weight)
    assert weight.name in found
    assert "it has int8" in found


@pytest.mark.usefixtures("exact_int_mm")
def test_inputs_must_be_what_torchao_rounds_them_to() -> None:
    assert "int8_row" in reason(INT8, INT8)
    assert layout(INT8, TorchaoInput(kind="int8", per="token")).product == "torch._int_mm"
    assert "fp8" in reason(INT8, TorchaoInput(kind="fp8", per="token"))
    assert "g32" in reason(replace(INT8, granularity=GROUP), TorchaoInput(kind="int8", per="token"))
    static = replace(rule(INT8, TorchaoInput(kind="int8", per="tensor")), static_input=True)
    assert "static" in str(choose(static, CPU))


def test_int4_groups_are_those_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def int4(size: int) -> BlockScaled:
        return BlockScaled(element=Integer(bits=4), granularity=Granularity(block=(1, size)))

    assert "got 256" in reason(int4(256))
    narrow = quantized(torch.full((24, 64), 7.0), int4(32))
    assert "multiples of 16" in (layout(int4(32)).refuse(narrow, torch.float32) or "")
    capability(monkeypatch, 8, 0)
    on_gpu = layout(int4(64), device=CUDA)
    assert on_gpu.refuse(narrow, torch.bfloat16) is None
    assert "must be bfloat16" in (on_gpu.refuse(narrow, torch.float32) or "")
    assert layout(int4(256), device=CUDA).tensor == "Int4TilePackedTo4dTensor"
    capability(monkeypatch, 7, 5)
    assert "8.0 or more, got 7.5" in reason(int4(64), device=CUDA)


FP8_TOKEN, FP8_WHOLE = (TorchaoInput(kind="fp8", per=per) for per in ("token", "tensor"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("weight", "given", "least"),
    [
        (FP8, FP8_TOKEN, (8, 9)),
        (FP8_TENSOR, FP8_WHOLE, (8, 9)),
        (mx(E4M3), mx(E4M3), (10, 0)),
        (mx(E2M1), mx(E2M1), (10, 0)),
        (NVFP4, NVFP4, (10, 0)),
    ],
    ids=["fp8-row", "fp8-tensor", "mxfp8", "mxfp4", "nvfp4"],
)
def test_products_that_need_tensor_cores_are_refused_below_their_capability(
    monkeypatch: pytest.MonkeyPatch, weight: Any, given: Any, least: tuple[int, int]
) -> None:
    assert f"capability {least[0]}.{least[1]} or more, got cpu" in reason(weight, given)
    capability(monkeypatch, *least)
    assert "scaled_mm" in layout(weight, given, CUDA).product
    capability(monkeypatch, least[0] - 1, 9 if least[1] == 0 else 0)
    assert "or more, got" in reason(weight, given, CUDA)


def test_fp8_scales_of_rows_and_of_the_whole_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    capability(monkeypatch, 9, 0)
    assert "no weight tensor" in reason(FP8, FP8_WHOLE, CUDA)
    assert "no weight tensor" in reason(FP8_TENSOR, FP8_TOKEN, CUDA)


def test_other_devices_are_refused() -> None:
    assert "got meta" in reason(INT8, device=torch.device("meta"))


def test_processor_whose_int8_product_saturates_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        pairs = a.float()[:, :, None] * b.float()[None]
        sums = (pairs[:, ::2] + pairs[:, 1::2]).clamp(-(2**15), 2**15 - 1)
        return sums.sum(1) * scale

    monkeypatch.setattr(torchao("kernel"), "int_scaled_matmul", saturating)
    torchao_layouts._overflow.cache_clear()
    try:
        assert "saturates" in reason(INT8, TorchaoInput(kind="int8", per="token"))
    finally:
        torchao_layouts._overflow.cache_clear()


TORCHAO_INT8 = FloatScale(reach="half_span", arithmetic="reciprocal", lowest=2.0**-23)
SPELLED_AS_TORCHAO = {
    "int8-row": (
        BlockScaled(element=Integer(bits=8, narrow=False), granularity=ROW, scale=TORCHAO_INT8),
        None,
    ),
    "int8-group": (
        BlockScaled(element=Integer(bits=8, narrow=False), granularity=GROUP, scale=TORCHAO_INT8),
        None,
    ),
    "fp8-row": (FP8, None),
    "fp8-tensor": (FP8_TENSOR, None),
    "fp8-group": (replace(FP8, granularity=GROUP), None),
    "fp8-e5m2": (replace(FP8, element=E5M2), None),
    "nvfp4": (NVFP4, None),
    "nvfp4-dynamic": (NVFP4, NVFP4),
    "mxfp8": (mx(E4M3), mx(E4M3)),
    "mxfp8-rceil": (mx(E4M3, "rceil"), mx(E4M3, "rceil")),
    "mxfp4": (mx(E2M1), mx(E2M1)),
    "mxfp4-even": (mx(E2M1, "even"), mx(E2M1, "even")),
}


@pytest.mark.parametrize("name", SPELLED_AS_TORCHAO)
def test_tensor_is_torchao_s_own_where_the_format_is(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    unlock(monkeypatch)
    fmt, given = SPELLED_AS_TORCHAO[name]
    # MX takes bfloat16 alone. Elsewhere a bfloat16 weight would have scales of 8 bits.
    weight = numbers(torch.bfloat16 if name.startswith("mx") else torch.float32)
    found = layout(fmt, given)
    made = made_by_torchao(linear_with(weight, None), found.config())
    ours = converted(found, weight, quantize(weight, fmt))
    names, attributes = made.__tensor_flatten__()
    assert ours.__tensor_flatten__() == (names, attributes)
    for part in names:
        mine, theirs = (getattr(tensor, part) for tensor in (ours, made))
        assert mine.dtype is theirs.dtype
        # Byte by byte: some of these types cannot be compared.
        assert torch.equal(*(x.reshape(-1).view(torch.uint8) for x in (mine, theirs))), part
    assert torch.equal(found.read(ours), quantize(weight, fmt).dequantize())


def test_int4_differs_from_torchao_s_own_by_its_zero() -> None:
    weight = numbers(torch.float32) + 1.0
    fmt = BlockScaled(element=Integer(bits=4), granularity=GROUP)
    found = layout(fmt)
    made = made_by_torchao(linear_with(weight, None), found.config())
    ours: Any = converted(found, weight, quantize(weight, fmt))
    assert (ours.scale_and_zero[..., 1] == 0).all()
    assert (made.scale_and_zero[..., 1] != 0).all()


@pytest.mark.parametrize(("weight", "given"), [(FP8, FP8_TOKEN), (FP8_TENSOR, FP8_WHOLE)])
def test_fp8_product_is_that_of_the_codes(
    monkeypatch: pytest.MonkeyPatch, weight: BlockScaled, given: TorchaoInput
) -> None:
    unlock(monkeypatch)
    w = numbers(torch.bfloat16)
    x = torch.randn(17, 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    linear = linear_with(converted(layout(weight, given), w, quantize(w, weight)), None)
    exact = F.linear(
        quantize(x, given).dequantize().double(), quantize(w, weight).dequantize().double()
    )
    # One rounding of the result.
    assert (linear(x).double() - exact).norm() <= 2.0**-8 * exact.norm()
