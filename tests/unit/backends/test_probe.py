"""How exactly a matmul is computed: kernels of known arithmetic, against the type they round to."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from recipe_builders import INT8, blocks, int8_row
from torch import Tensor, nn
from torch.nn import functional as F

from harness.backends import probe
from harness.backends.base import Installed
from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.backends.scaled_mm.backend import ScaledMMBackend
from harness.errors import AuditError
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.models.targets.targets import Target
from harness.recipe import QuantRecipe, quantize

CPU = torch.device("cpu")
ROW = int8_row()


def test_type_of_a_matmul_is_found(tiny: LoadedModel) -> None:
    for via, u in (("float32", 2.0**-24), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)):
        quantized = quantize(tiny, recipe(Stand(via=getattr(torch, via))))
        compute = quantized.report.compute
        assert compute is not None
        assert compute.dtype == via
        # Three roundings by at most u each, two of them inside of every term of the sum.
        assert u / 4 < compute.rel_error < 1.5 * u
        said = [w for w in quantized.warnings if "as exact as" in w]
        assert bool(said) is (via != "float32")
        if said:
            assert f"stand_in are as exact as {via}" in said[0]
            assert "though the model is float32" in said[0]
        tiny.restore()


def test_result_in_the_type_of_the_model_is_what_its_type_promises() -> None:
    loaded = TinyModel(dtype="bfloat16").load(CPU)
    quantized = quantize(loaded, recipe(Stand(via=torch.float32)))
    assert quantized.report.compute is not None
    assert quantized.report.compute.dtype == "bfloat16"
    assert not any("exact" in warning for warning in quantized.warnings)


def test_error_is_that_of_a_plain_matmul_in_numpy(tiny: LoadedModel) -> None:
    loaded = tiny
    stand = Stand(via=torch.bfloat16, layer="layers.1.mlp.down_proj")
    compute = quantize(loaded, recipe(stand)).report.compute
    # Layer 0 has the same kind, and is the one that is measured: nothing is wrong there.
    assert compute is not None
    assert compute.dtype == "float32"
    loaded.restore()
    stand = Stand(via=torch.bfloat16, layer="layers.0.mlp.down_proj")
    compute = quantize(loaded, recipe(stand)).report.compute
    assert compute is not None
    assert compute.layer == "model.layers.0.mlp.down_proj"
    module: Any = loaded.module.get_submodule(compute.layer)
    weight = module.weight.double().numpy()
    errors = []
    for rows in (1, 64):
        x = torch.randn(rows, weight.shape[1], generator=torch.Generator().manual_seed(0))
        exact = x.double().numpy() @ weight.T
        errors.append(np.linalg.norm(module(x).double().numpy() - exact) / np.linalg.norm(exact))
    assert compute.rel_error == pytest.approx(max(errors), rel=1e-6)


def test_matmul_of_something_else_is_an_audit_error(tiny: LoadedModel) -> None:
    loaded = tiny
    with pytest.raises(AuditError, match=r"matmul of layer model.layers.0.mlp.gate_proj must be"):
        quantize(loaded, recipe(Stand(via=torch.float32, off=0.2, layer="mlp.gate_proj")))
    loaded.restore()
    with pytest.raises(AuditError, match="error of nan"):
        quantize(loaded, recipe(Stand(via=torch.float32, off=torch.nan)))


def test_layer_that_forgets_to_round_its_activations_is_less_exact_than_any_type(
    tiny: LoadedModel,
) -> None:
    """Rounding to INT8 is worth 0.7 % of a matmul, which no float type's rounding explains."""
    loaded = tiny
    quantized = quantize(loaded, recipe(Stand(via=torch.float32), inputs=True))
    compute = quantized.report.compute
    assert compute is not None
    assert compute.dtype is None
    assert 1.5 * 2.0**-8 < compute.rel_error < 0.02
    assert any("less exact than bfloat16" in warning for warning in quantized.warnings)


@pytest.mark.usefixtures("exact_int_mm")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_own_backends_multiply_as_exactly_as_the_model_s_type(dtype: Any) -> None:
    loaded = TinyModel(dtype=dtype).load(CPU)
    backends: tuple[Any, ...] = (FakeBackend(), ScaledMMBackend())
    for backend in backends:
        for inputs in (False, True):
            compute = quantize(loaded, recipe(backend, inputs=inputs)).report.compute
            assert compute is not None
            assert compute.dtype == dtype, (backend.name, inputs)
            loaded.restore()


def test_layer_of_zeros_says_nothing() -> None:
    loaded = TinyModel().load(CPU)
    for parameter in loaded.module.parameters():
        parameter.data.zero_()
    assert quantize(loaded, recipe(FakeBackend())).report.compute is None


def test_static_scale_is_measured_at_the_size_of_its_activations() -> None:
    """Random numbers of size 1 would all round to zero under the scale of numbers of a thousand."""
    scale = 1000.0
    layer = QuantizedLayer(
        name="layer",
        rule="all",
        format=ROW,
        weight=probe.quantize(torch.randn(8, 32, generator=torch.Generator().manual_seed(1)), ROW),
        rel_error=0.0,
        input=(whole := blocks(INT8, -1)),
        input_scales=probe.quantize(torch.full((4, 32), 127 * scale), whole).scales,
    )
    weight, rounded, spread = probe.operands_of(layer)
    assert spread == pytest.approx(127 * scale / 4)
    x = torch.tensor([[0.4 * scale, 1.6 * scale, -500 * scale]]).repeat(1, 11)[:, :32]
    assert rounded(x)[0, :3].tolist() == [0.0, 2 * scale, -127 * scale]
    assert weight.shape == (8, 32)


class RoundedLinear(nn.Module):
    """A linear layer that rounds operands and result to a type, and sums in float64."""

    def __init__(self, weight: Tensor, bias: Tensor | None, via: torch.dtype, off: float) -> None:
        super().__init__()
        self.weight, self.bias, self.via, self.off = weight, bias, via, off

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.to(self.via).double(), self.weight.to(self.via).double())
        y = y.to(self.via).double() + (0.0 if self.bias is None else self.bias)
        return (y + self.off * y.abs().mean()).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class Stand:
    """A "real" backend that multiplies in a type, perhaps wrongly, in layers whose names end so."""

    via: torch.dtype
    off: float = 0.0
    layer: str = ""
    tolerance: ClassVar[dict[str, float]] = {}
    name: ClassVar[str] = "stand_in"
    kind: ClassVar[Literal["real"]] = "real"

    def supports(self, rules: object, device: torch.device) -> str | None:
        return None

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        chosen = target.name.endswith(self.layer)
        via, off = (self.via, self.off) if chosen else (torch.float32, 0.0)
        bias: Any = target.owner.bias
        loaded.swap_module(target.name, RoundedLinear(layer.weight.dequantize(), bias, via, off))

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        return Installed(kernel="stand-in", stored_bytes=layer.weight.total_bits // 8)


def recipe(backend: Any, *, inputs: bool = False) -> QuantRecipe:
    rule = LayerRule(match="*", weight=ROW, input=ROW if inputs else None)
    return QuantRecipe(name="test", rules={"all": rule}, backend=backend)
