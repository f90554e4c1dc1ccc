"""The backend of our own 8-bit layers: what it takes, installs, and finds in place."""

import pytest
import torch
from recipe_builders import E4M3, INT8, blocks, quantized_layer
from torch import nn

from harness.backends.layer import LayerRule
from harness.backends.scaled_mm import backend as scaled_mm
from harness.backends.scaled_mm.backend import ScaledMMBackend
from harness.backends.scaled_mm.int8_weight import Int8WeightLinear
from harness.backends.scaled_mm.stored_linear import WeightOnlyLinear
from harness.backends.scaled_mm.w8a8 import Float8Linear, Int8Linear
from harness.calibration.calibration_set import CalibrationSet
from harness.data.embedded import EmbeddedData
from harness.engines.local.split_model import split
from harness.errors import AuditError, UnsupportedRecipe
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.granularity import Granularity
from harness.quant.qtype.descriptor import parse
from harness.quant.schemes.affine import Affine
from harness.quant.tensor import TensorFormat
from harness.recipe import QuantRecipe, audit_after, quantize

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
IDS = torch.arange(40).view(2, 20)


def recipe(
    weight: TensorFormat,
    activation: TensorFormat | None = None,
    skip: tuple[str, ...] = ("lm_head", "embed_tokens"),
) -> QuantRecipe:
    rules = {"linear": LayerRule(match="*", weight=weight, input=activation)}
    return QuantRecipe(name="test", rules=rules, skip=skip, backend=ScaledMMBackend())


W8A8 = recipe(blocks(INT8), blocks(INT8))
DIGITS = {"int8 row": recipe(blocks(INT8)), "int8 tensor": recipe(blocks(INT8, -1))}
DEQUANTIZED = {
    "int8 groups": recipe(blocks(INT8, 1, 16)),
    "int8 blocks": recipe(blocks(INT8, 32, 32)),
    "fp8 row": recipe(blocks(E4M3)),
}


@pytest.mark.parametrize(
    ("recipes", "kind"),
    [
        (DEQUANTIZED, WeightOnlyLinear),
        ({"w8a8 fp8": recipe(blocks(E4M3), blocks(E4M3))}, Float8Linear),
        (DIGITS, Int8WeightLinear),
        ({"w8a8": W8A8}, Int8Linear),
    ],
    ids=["dequantized", "w8a8 fp8", "digits", "w8a8"],
)
def test_every_linear_layer_keeps_its_codes_and_the_model_still_speaks(
    tiny: LoadedModel,
    recipes: dict[str, QuantRecipe],
    kind: type[WeightOnlyLinear],
    request: pytest.FixtureRequest,
) -> None:
    if kind in (Int8WeightLinear, Int8Linear):
        request.getfixturevalue("exact_int_mm")
    for name, chosen in recipes.items():
        report = quantize(tiny, chosen).report
        placed = [m for m in tiny.module.modules() if type(m) is kind]
        assert len(placed) == len(report.layers) == 14, name
        assert (report.kind, report.backend) == ("real", "scaled_mm")
        assert report.stored_bytes == report.model_bytes, "8-bit codes have no packing to lose"
        assert {layer.kernel for layer in report.layers} == {kind.kernel}
        with torch.inference_mode():
            assert tiny.module(IDS).logits.isfinite().all(), name
        audit_after(tiny)
        tiny.restore()


@pytest.mark.usefixtures("exact_int_mm")
def test_unquantized_model_is_inside_and_comes_back(tiny: LoadedModel) -> None:
    with torch.inference_mode():
        before = tiny.module(IDS).logits
        owner = tiny.module.model.layers[0].mlp.up_proj
        quantize(tiny, W8A8)
        assert not torch.equal(tiny.module(IDS).logits, before)
        with tiny.unquantized():
            assert torch.equal(tiny.module(IDS).logits, before)
        tiny.restore()
        assert torch.equal(tiny.module(IDS).logits, before)
    assert tiny.module.model.layers[0].mlp.up_proj is owner


@pytest.mark.usefixtures("exact_int_mm")
def test_audit_compares_type_and_values(tiny: LoadedModel) -> None:
    quantize(tiny, DIGITS["int8 row"])
    backend, name = ScaledMMBackend(), "model.layers.0.self_attn.q_proj"
    owner = tiny.swaps[0].original
    assert isinstance(owner, nn.Linear)
    target = Target(name=name, owner=owner, attribute="weight")
    layer = quantized_layer(target, blocks(INT8))
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
    with pytest.raises(AuditError, match="got 1 of them replaced"):
        audit_after(tiny)


@pytest.mark.usefixtures("exact_int_mm")
def test_static_scales_of_activations_are_those_of_the_calibration(tiny: LoadedModel) -> None:
    rule = LayerRule(match="*", weight=blocks(INT8), input=blocks(INT8, -1), static_input=True)
    shown = CalibrationSet(data=EmbeddedData(), num_sequences=4, length=32)
    static = QuantRecipe(
        name="static", rules={"linear": rule}, calibration=shown, backend=ScaledMMBackend()
    )
    # By hand: the largest activation of each layer on the same sequences.
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
        assert layer.static_scale is not None
        assert float(layer.static_scale) == pytest.approx(largest[name] / 127, rel=1e-5)


@pytest.mark.usefixtures("exact_int_mm")
def test_tied_head_stays_quantized_and_scores_in_float32(tiny: LoadedModel) -> None:
    quantize(tiny, recipe(blocks(INT8), skip=("embed_tokens",)))
    tiny.module.tie_weights()
    assert isinstance(tiny.module.lm_head, Int8WeightLinear)
    audit_after(tiny)
    with torch.inference_mode(), split(tiny) as model:
        logits = model.logits(model.hidden(IDS))
        assert logits.dtype is torch.float32
        assert torch.allclose(logits, tiny.module(IDS).logits, atol=1e-4)
        with tiny.unquantized():
            exact = model.logits(model.hidden(IDS))
    tiny.restore()
    with torch.inference_mode():
        assert torch.allclose(exact, tiny.module(IDS).logits, atol=1e-4)


def test_what_has_no_matmul_is_unsupported_by_name(tiny: LoadedModel) -> None:
    zeros = Affine(element=Integer(bits=8, signed=False), granularity=Granularity(block=(1, -1)))
    full = blocks(Integer(bits=8, narrow=False))
    for chosen, reason in (
        (recipe(blocks(Integer(bits=4), 1, 16)), "weights in int4_g16"),
        (recipe(zeros), "without zero points"),
        (recipe(blocks(INT8), blocks(E4M3)), "same element"),
        (recipe(blocks(INT8, 1, 16), blocks(INT8)), "per-channel"),
        (recipe(full, full), "got int8_full_row and int8_full_row"),
        (recipe(parse("mxfp4").format()), "weights in mxfp4"),
        (
            recipe(blocks(INT8), skip=("lm_head",)),
            r"got model\.embed_tokens in Embedding; add it to quant\.skip",
        ),
    ):
        with pytest.raises(UnsupportedRecipe, match=reason):
            quantize(tiny, chosen)
        assert not tiny.swaps, reason


def test_fp8_matmuls_need_a_gpu_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    both = LayerRule(match="*", weight=blocks(E4M3), input=blocks(E4M3))
    weights_only = LayerRule(match="*", weight=blocks(E4M3))
    for capability, runs in (((8, 0), False), ((8, 9), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        reason = ScaledMMBackend().supports([both], CUDA)
        assert reason is None if runs else "8.9" in str(reason), capability
        assert ScaledMMBackend().supports([weights_only], CUDA) is None


def test_processor_whose_integer_matmul_saturates_multiplies_weights_alone_in_float(
    monkeypatch: pytest.MonkeyPatch, tiny: LoadedModel
) -> None:
    monkeypatch.setattr(scaled_mm, "saturation", lambda _: "it gives 1 instead of 2")
    rule = LayerRule(match="*", weight=blocks(INT8), input=blocks(INT8))
    assert ScaledMMBackend().supports([rule], CPU) == "it gives 1 instead of 2"
    assert ScaledMMBackend().supports([LayerRule(match="*", weight=blocks(E4M3))], CPU) is None
    report = quantize(tiny, DIGITS["int8 row"]).report
    assert {layer.kernel for layer in report.layers} == {WeightOnlyLinear.kernel}
    placed = tiny.module.model.layers[0].mlp.up_proj
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    exact = x.double() @ placed.dequantize().double().T
    # Sums of 48 terms in float32.
    assert (placed(x) - exact).norm() < 48 * 2.0**-24 * exact.norm()
