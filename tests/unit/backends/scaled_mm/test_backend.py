"""The backend of our own 8-bit layers: what it takes, what it puts in place, and what it finds there."""

import pytest
import torch
from torch import nn

from harness.backends.layer import LayerRule
from harness.backends.scaled_mm import backend as scaled_mm
from harness.backends.scaled_mm.backend import ScaledMMBackend
from harness.backends.scaled_mm.layers import (
    Float8Linear,
    Int8Linear,
    Int8WeightLinear,
    WeightOnlyLinear,
)
from harness.calibration.calibration_set import CalibrationSet
from harness.data.embedded import EmbeddedData
from harness.engines.local.split_model import split
from harness.errors import AuditError, UnsupportedRecipe
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.models.loaded import LoadedModel
from harness.quant.granularity import Granularity
from harness.quant.qtype.descriptor import parse
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat
from harness.recipe import QuantRecipe, audit_after, quantize

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
INT8, FP8 = Integer(bits=8), Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
IDS = torch.arange(40).view(2, 20)


def fmt(element: Integer | Minifloat, rows: int = 1, columns: int = -1) -> BlockScaled:
    return BlockScaled(element=element, granularity=Granularity(block=(rows, columns)))


def recipe(
    weight: TensorFormat,
    given: TensorFormat | None = None,
    skip: tuple[str, ...] = ("lm_head", "embed_tokens"),
) -> QuantRecipe:
    rules = {"linear": LayerRule(match="*", weight=weight, input=given)}
    return QuantRecipe(name="test", rules=rules, skip=skip, backend=ScaledMMBackend())


KINDS = {
    "int8 row": (recipe(fmt(INT8)), Int8WeightLinear),
    "int8 tensor": (recipe(fmt(INT8, -1)), Int8WeightLinear),
    "int8 groups": (recipe(fmt(INT8, 1, 16)), WeightOnlyLinear),
    "int8 blocks": (recipe(fmt(INT8, 32, 32)), WeightOnlyLinear),
    "fp8 row": (recipe(fmt(FP8)), WeightOnlyLinear),
    "w8a8": (recipe(fmt(INT8), fmt(INT8)), Int8Linear),
    "w8a8 fp8": (recipe(fmt(FP8), fmt(FP8)), Float8Linear),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_linear_layer_keeps_its_codes_and_the_model_still_speaks(
    tiny: LoadedModel, name: str, request: pytest.FixtureRequest
) -> None:
    chosen, kind = KINDS[name]
    if kind in (Int8WeightLinear, Int8Linear):
        request.getfixturevalue("exact_int_mm")
    report = quantize(tiny, chosen).report
    placed = [m for m in tiny.module.modules() if isinstance(m, kind)]
    assert len(placed) == len(report.layers) == 14
    assert (report.kind, report.backend) == ("real", "scaled_mm")
    assert report.stored_bytes == report.model_bytes, "8-bit codes have no packing to lose"
    assert {layer.kernel for layer in report.layers} == {kind.kernel}
    with torch.inference_mode():
        assert tiny.module(IDS).logits.isfinite().all()
    audit_after(tiny)


@pytest.mark.usefixtures("exact_int_mm")
def test_float_model_is_inside_and_comes_back(tiny: LoadedModel) -> None:
    with torch.inference_mode():
        before = tiny.module(IDS).logits
        owner = tiny.module.model.layers[0].mlp.up_proj
        quantize(tiny, KINDS["w8a8"][0])
        assert not torch.equal(tiny.module(IDS).logits, before)
        with tiny.unquantized():
            assert torch.equal(tiny.module(IDS).logits, before)
        tiny.restore()
        assert torch.equal(tiny.module(IDS).logits, before)
    assert tiny.module.model.layers[0].mlp.up_proj is owner


def test_layer_that_was_taken_out_is_missed(tiny: LoadedModel) -> None:
    quantize(tiny, KINDS["int8 row"][0])
    tiny.module.model.layers[0].mlp.up_proj = nn.Linear(48, 80, bias=False)
    with pytest.raises(AuditError, match="got 1 of them replaced"):
        audit_after(tiny)


@pytest.mark.usefixtures("exact_int_mm")
def test_audit_compares_type_and_values(tiny: LoadedModel) -> None:
    quantize(tiny, KINDS["int8 row"][0])
    backend = ScaledMMBackend()
    from harness.backends.layer import QuantizedLayer
    from harness.models.targets.targets import Target
    from harness.quant.primitives import quantize as quantize_tensor

    owner = tiny.swaps[0].original
    assert isinstance(owner, nn.Linear)
    name = "model.layers.0.self_attn.q_proj"
    target = Target(name=name, owner=owner, attribute="weight")
    stored = quantize_tensor(owner.weight, fmt(INT8))
    layer = QuantizedLayer(name=name, rule="linear", format=fmt(INT8), weight=stored, rel_error=0.0)
    assert backend.inspect(tiny, target, layer).fault is None
    placed = tiny.module.get_submodule(name)
    assert isinstance(placed, Int8WeightLinear)
    placed.codes[3, 5] += 1
    assert (
        backend.inspect(tiny, target, layer).fault
        == "codes and scales in place stand for other values"
    )
    tiny.module.set_submodule(name, owner)
    assert backend.inspect(tiny, target, layer).fault == "a Linear in place"


@pytest.mark.usefixtures("exact_int_mm")
def test_static_scales_of_the_input_are_those_of_the_calibration(tiny: LoadedModel) -> None:
    rule = LayerRule(match="*", weight=fmt(INT8), input=fmt(INT8, -1), static_input=True)
    shown = CalibrationSet(data=EmbeddedData(), num_sequences=4, length=32)
    static = QuantRecipe(
        name="static", rules={"linear": rule}, calibration=shown, backend=ScaledMMBackend()
    )
    # By hand: the largest input that each layer sees on the same sequences.
    largest: dict[str, float] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, n=name: largest.update(
                {n: max(largest.get(n, 0.0), float(args[0].abs().max()))}
            )
        )
        for name, module in tiny.module.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.inference_mode():
        tiny.module(shown.draw(tiny).ids)
    for hook in hooks:
        hook.remove()
    quantize(tiny, static)
    placed = {n: m for n, m in tiny.module.named_modules() if isinstance(m, Int8Linear)}
    assert len(placed) == 14
    for name, layer in placed.items():
        assert layer.input_scale is not None
        assert float(layer.input_scale) == pytest.approx(largest[name] / 127, rel=1e-5)


@pytest.mark.usefixtures("exact_int_mm")
def test_tied_head_stays_quantized_and_scores_in_float32(tiny: LoadedModel) -> None:
    quantize(tiny, recipe(fmt(INT8), skip=("embed_tokens",)))
    tiny.module.tie_weights()
    assert isinstance(tiny.module.lm_head, Int8WeightLinear)
    audit_after(tiny)
    with torch.inference_mode(), split(tiny) as halves:
        logits = halves.logits(halves.hidden(IDS))
        assert logits.dtype is torch.float32
        assert torch.allclose(logits, tiny.module(IDS).logits, atol=1e-4)
        with tiny.unquantized():
            exact = halves.logits(halves.hidden(IDS))
    tiny.restore()
    with torch.inference_mode():
        assert torch.allclose(exact, tiny.module(IDS).logits, atol=1e-4)


ODD = {
    "four bits": (recipe(fmt(Integer(bits=4), 1, 16)), "weights in int4_g16"),
    "zero points": (
        recipe(
            Affine(element=Integer(bits=8, signed=False), granularity=Granularity(block=(1, -1)))
        ),
        "without zero points",
    ),
    "mixed elements": (recipe(fmt(INT8), fmt(FP8)), "same element"),
    "groups with inputs": (recipe(fmt(INT8, 1, 16), fmt(INT8)), "one scale a row or a tensor"),
    "another format": (recipe(parse("mxfp4").format()), "weights in mxfp4"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_has_no_product_is_refused_by_name(tiny: LoadedModel, name: str) -> None:
    chosen, reason = ODD[name]
    with pytest.raises(UnsupportedRecipe, match=reason):
        quantize(tiny, chosen)
    assert not tiny.swaps


def test_embedding_is_refused_with_advice(tiny: LoadedModel) -> None:
    with pytest.raises(
        UnsupportedRecipe, match=r"got model\.embed_tokens in Embedding; add it to quant\.skip"
    ):
        quantize(tiny, recipe(fmt(INT8), skip=("lm_head",)))


@pytest.mark.parametrize(
    ("capability", "refused"), [((8, 0), True), ((8, 9), False), ((9, 0), False)]
)
def test_fp8_products_need_a_gpu_that_has_them(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], refused: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    rule = LayerRule(match="*", weight=fmt(FP8), input=fmt(FP8))
    reason = ScaledMMBackend().supports([rule], CUDA)
    assert (reason is not None and "8.9" in reason) if refused else reason is None
    weights_only = LayerRule(match="*", weight=fmt(FP8))
    assert ScaledMMBackend().supports([weights_only], CUDA) is None


def test_processor_whose_integer_products_saturate_multiplies_weights_alone_in_float(
    monkeypatch: pytest.MonkeyPatch, tiny: LoadedModel
) -> None:
    monkeypatch.setattr(scaled_mm, "_overflow", lambda _: "it gives 1 instead of 2")
    rule = LayerRule(match="*", weight=fmt(INT8), input=fmt(INT8))
    assert ScaledMMBackend().supports([rule], CPU) == "it gives 1 instead of 2"
    assert ScaledMMBackend().supports([LayerRule(match="*", weight=fmt(FP8))], CPU) is None
    report = quantize(tiny, recipe(fmt(INT8))).report
    assert {layer.kernel for layer in report.layers} == {WeightOnlyLinear.kernel}
    placed = tiny.module.model.layers[0].mlp.up_proj
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    exact = x.double() @ placed.dequantize().double().T
    # Sums of 48 terms in float32.
    assert (placed(x) - exact).norm() < 48 * 2.0**-24 * exact.norm()
