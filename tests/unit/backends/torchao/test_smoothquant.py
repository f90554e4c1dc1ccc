"""torchao's SmoothQuant: factors from calibration, smoothed codes, activations times 1/s."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_builders import fp8_row, int8_row, quantized_layer
from torch import nn
from torch.nn import functional as F

from harness.backends.layer import LayerRule
from harness.backends.torchao import float_tensors, smoothquant
from harness.backends.torchao.activations import TorchaoInput
from harness.backends.torchao.backend import TorchaoBackend
from harness.backends.torchao.library import torchao
from harness.backends.torchao.smoothquant import ScaledInputLinear, TorchaoSmoothQuantBackend
from harness.calibration.calibration_set import CalibrationSet
from harness.data.embedded import EmbeddedData
from harness.data.text_file import TextFile
from harness.errors import DataError, UnsupportedRecipe
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.models.targets.targets import find_targets
from harness.quant.primitives import quantize
from harness.recipe import QuantRecipe, audit_after
from harness.recipe import quantize as quantize_model

CPU = torch.device("cpu")
INT8 = LayerRule(
    match="*",
    weight=int8_row(),
    input=TorchaoInput(kind="int8", per="token"),
)
FP8 = LayerRule(
    match="*",
    weight=fp8_row(),
    input=TorchaoInput(kind="fp8", per="token"),
)
SET = CalibrationSet(data=EmbeddedData(), num_sequences=3, length=40)
SKIP = ("lm_head", "embed_tokens")


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.usefixtures("fp8_anywhere")
def test_layer_computes_the_smoothed_matmul(kind: str, request: pytest.FixtureRequest) -> None:
    is_int8 = kind == "int8"
    if is_int8:
        request.getfixturevalue("exact_int_mm")
    # FP8 matmuls with per-channel scales want bfloat16 and multiples of 16.
    loaded = TinyModel(dtype="float32" if is_int8 else "bfloat16").load(CPU)
    rule = INT8 if is_int8 else FP8
    assert rule.input is not None
    skip = SKIP if is_int8 else (*SKIP, "*.k_proj", "*.v_proj")
    floats, seen = linears(loaded), activations(loaded)
    before = {name: owner.weight.clone() for name, owner in floats.items()}
    for alpha in (0.0, 0.5, 0.8, 1.0):
        report = quantize_model(loaded, recipe(rule, alpha, skip)).report
        assert len(report.layers) == (14 if is_int8 else 10)
        assert report.calibration == SET.info()
        for layer in report.layers:
            assert "SmoothQuant, alpha" in (layer.kernel or "")
            module: Any = loaded.module.get_submodule(layer.name)
            x, weight = seen[layer.name][:20], before[layer.name]
            assert torch.equal(floats[layer.name].weight, weight)
            inverse = module.weight.act_pre_scale if is_int8 else module.input_scale
            # The factor is a number of the model's type, computed in it: four operations.
            expected = factors(seen[layer.name], weight, alpha)
            bound = 4 * torch.finfo(loaded.dtype).eps
            assert ((inverse.double() * expected - 1).abs() <= bound).all(), (alpha, layer.name)
            smoothed = quantize((weight.double() * expected).to(loaded.dtype), rule.weight)
            # What the layer holds differs by the rounding of s, one step of a code at most.
            rounded = quantize(x * inverse, rule.input).dequantize()
            exact = F.linear(rounded.double(), smoothed.dequantize().double())
            error = (module(x).double() - exact).norm()
            assert error <= (0.01 if is_int8 else 0.05) * exact.norm(), (alpha, layer.name)
            inner = module.weight.__tensor_flatten__()[0]
            held = sum(getattr(module.weight, name).nbytes for name in inner)
            assert layer.stored_bytes == held + (0 if is_int8 else inverse.nbytes)
        audit_after(loaded)
        loaded.restore()
        assert linears(loaded) == floats


@pytest.mark.usefixtures("exact_int_mm")
def test_factors_are_those_of_torchao_from_end_to_end() -> None:
    """torchao's own steps on the whole model: observers, calibration, conversion."""
    ours, theirs = TinyModel().load(CPU), TinyModel().load(CPU)
    quantize_model(ours, recipe())
    library, quantization = torchao("prototype.smoothquant"), torchao("quantization")

    def selected(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and name != "lm_head"

    def step(which: str) -> Any:
        base = quantization.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
        return library.SmoothQuantConfig(base_config=base, step=which, alpha=0.5)

    quantization.quantize_(theirs.module, step("prepare"), filter_fn=selected)
    with torch.no_grad():
        for ids in SET.draw(theirs).ids:
            theirs.module(ids[None], use_cache=False)
    quantization.quantize_(theirs.module, step("convert"), filter_fn=selected)
    for name in set(linears(ours)) - {"lm_head"}:
        mine, own = (m.module.get_submodule(name).weight for m in (ours, theirs))
        assert torch.equal(mine.act_pre_scale, own.act_pre_scale), name
    ids = torch.arange(30)[None]
    # Codes are ours, of 127 steps where torchao has 127.5.
    difference = ours.module(ids).logits - theirs.module(ids).logits
    assert difference.norm() < 0.1 * theirs.module(ids).logits.norm()


@pytest.mark.usefixtures("exact_int_mm")
def test_codes_in_place_are_those_of_the_smoothed_weight(tiny: LoadedModel) -> None:
    chosen = recipe()
    weights = {name: owner.weight.detach() for name, owner in linears(tiny).items()}
    for layer in quantize_model(tiny, chosen).report.layers:
        held: Any = tiny.module.get_submodule(layer.name)
        factor = 1.0 / held.weight.act_pre_scale.double()
        smoothed = weights[layer.name].double() * factor
        step = held.weight.scale
        # Half a step of rounding, and a little for s, of which the inverse is stored.
        assert ((held.weight.dequantize() - smoothed).abs() <= 0.51 * step).all()
        assert not torch.allclose(held.weight.dequantize(), weights[layer.name], rtol=0.1)


@pytest.mark.usefixtures("exact_int_mm")
def test_model_runs_over_the_set_once_for_all_recipes(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.kept.clear()
    calls = []
    observe = smoothquant.observe
    monkeypatch.setattr(smoothquant, "observe", lambda *args: calls.append(1) or observe(*args))
    for alpha in (0.3, 0.7):
        quantize_model(tiny, recipe(alpha=alpha))
        tiny.restore()
    assert calls == [1]
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in tiny.module.modules())


def other_factor(loaded: LoadedModel, name: str) -> None:
    loaded.module.get_submodule(name).weight.act_pre_scale[3] *= 1.01


def unsmoothed(loaded: LoadedModel, name: str) -> None:
    loaded.module.get_submodule(name).weight.act_pre_scale = None


def other_code(loaded: LoadedModel, name: str) -> None:
    module: Any = loaded.module.get_submodule(name)
    module.weight.qdata[2, 2] ^= 1


@pytest.mark.usefixtures("exact_int_mm")
def test_audit_finds(tiny: LoadedModel) -> None:
    backend, target = recipe().backend, find_targets(tiny.module)[1]
    layer = quantized_layer(target, INT8.weight, INT8.input)
    for damage, fault in ((other_factor, "1/s"), (unsmoothed, "1/s"), (other_code, "other values")):
        backend.apply(tiny, target, layer)
        assert backend.inspect(tiny, target, layer).fault is None
        damage(tiny, target.name)
        assert fault in (backend.inspect(tiny, target, layer).fault or "")
        tiny.restore()
    TorchaoBackend().apply(tiny, target, layer)
    assert backend.inspect(tiny, target, layer).fault is not None, "a layer that is not smoothed"


@pytest.mark.usefixtures("exact_int_mm")
def test_layer_that_no_token_reached_is_unsupported(tiny: LoadedModel) -> None:
    chosen = recipe()
    maxima = smoothquant.observe(tiny, SET)
    missing = "model.layers.1.mlp.up_proj"
    left = {name: values for name, values in maxima.by_layer.items() if name != missing}
    tiny.kept["input maxima", SET] = maxima._replace(by_layer=left)
    try:
        with pytest.raises(UnsupportedRecipe, match=rf"got none.*{missing}; .*num_sequences"):
            quantize_model(tiny, chosen)
    finally:
        del tiny.kept["input maxima", SET]


def test_weights_alone_are_not_smoothed() -> None:
    backend = recipe().backend
    found = backend.supports((replace(INT8, input=None),), CPU)
    assert found is not None
    assert "got int8_row and none" in found
    assert "8.9" in (backend.supports((FP8,), CPU) or "")


def test_alpha_is_a_share() -> None:
    for alpha in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"alpha must be 0\.\.1"):
            TorchaoSmoothQuantBackend(calibration=SET, alpha=alpha)


def test_scaled_input_linear_is_a_linear_layer_of_a_scaled_activation() -> None:
    layer = ScaledInputLinear(4, 3)
    layer.register_buffer("input_scale", torch.tensor([1.0, 2.0, 0.5, 0.0]))
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(x), F.linear(x * layer.input_scale, layer.weight, layer.bias))


def test_a_text_that_changes_during_a_sweep_ends_the_run(tiny: LoadedModel, tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("A text. " * 20)
    chosen = CalibrationSet(data=TextFile(path=str(file)), num_sequences=1, length=8)
    backend = TorchaoSmoothQuantBackend(calibration=chosen)
    assert backend.prepare(tiny, ()) == ()
    file.write_text("Another. " * 20)
    os.utime(file, ns=(1, 1))  # files are read again when their time changes
    with pytest.raises(
        DataError, match=r"stay as it is while a sweep runs, got another .* own\.txt"
    ):
        backend.prepare(tiny, ())


def recipe(rule: LayerRule = INT8, alpha: float = 0.5, skip: tuple[str, ...] = SKIP) -> QuantRecipe:
    backend = TorchaoSmoothQuantBackend(calibration=SET, alpha=alpha)
    return QuantRecipe(name="smooth", rules={"linear": rule}, skip=skip, backend=backend)


def linears(loaded: LoadedModel) -> dict[str, nn.Linear]:
    found = {t.name: t.owner for t in find_targets(loaded.module)}
    return {name: owner for name, owner in found.items() if isinstance(owner, nn.Linear)}


def activations(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """Return the activations of each linear layer during calibration, `[tokens, K]`."""
    seen: dict[str, list[torch.Tensor]] = {}
    hooks = [
        owner.register_forward_hook(
            lambda _, args, __, name=name: seen.setdefault(name, []).append(args[0][0])
        )
        for name, owner in linears(loaded).items()
    ]
    with torch.no_grad():
        for ids in SET.draw(loaded).ids:
            loaded.module(ids[None])
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def factors(x: torch.Tensor, weight: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return s of the paper, float64."""
    return x.double().abs().amax(0) ** alpha / weight.double().abs().amax(0) ** (1 - alpha)


@pytest.fixture
def fp8_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchao make FP8 layers on this processor, whose torch has the matmul for tests."""
    monkeypatch.setattr(float_tensors, "needs_capability", lambda *_: None)
    monkeypatch.setattr(
        torchao("quantization.quant_api"), "_check_hardware_support", lambda _: None
    )
