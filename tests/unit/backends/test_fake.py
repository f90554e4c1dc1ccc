"""Fake quantization: rounded values in the float weight's place."""

import pytest
import torch

from harness.backends.fake import FakeBackend
from harness.formats.integer import Integer
from harness.models.source import LoadedModel
from harness.models.targets import Target, find_targets
from harness.models.tiny import TinyModel
from harness.quant.block_scaled import BlockScaled
from harness.quant.granularity import Granularity
from harness.quant.layer import QuantizedLayer

CPU = torch.device("cpu")
FORMAT = BlockScaled(element=Integer(bits=4), granularity=Granularity(block=(1, -1)))


def pair(loaded: LoadedModel) -> tuple[Target, QuantizedLayer]:
    """Return a target of the model and its weight in four bits."""
    target = find_targets(loaded.module)[1]
    weight = FORMAT.quantize(target.weight.detach())
    layer = QuantizedLayer(
        name=target.name, rule="linear", format=FORMAT, weight=weight, rel_error=0.1
    )
    return target, layer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weight_in_place_is_the_dequantized_one_in_the_model_s_type(dtype: str) -> None:
    loaded = TinyModel(dtype=dtype).load(CPU)
    target, layer = pair(loaded)
    FakeBackend().apply(loaded, target, layer)
    assert target.weight.dtype is getattr(torch, dtype)
    assert torch.equal(target.weight, layer.weight.dequantize().to(getattr(torch, dtype)))
    assert FakeBackend().audit(target, layer) is None


def test_audit_finds_a_weight_that_was_not_replaced(tiny: LoadedModel) -> None:
    target, layer = pair(tiny)
    assert FakeBackend().audit(target, layer) == "the weight in place is not the dequantized one"


def test_audit_finds_a_single_wrong_value(tiny: LoadedModel) -> None:
    target, layer = pair(tiny)
    FakeBackend().apply(tiny, target, layer)
    target.weight.data[3, 5] += 1e-6
    assert FakeBackend().audit(target, layer) is not None


def test_audit_finds_a_weight_of_another_shape(tiny: LoadedModel) -> None:
    target, layer = pair(tiny)
    tiny.swap(target.owner, target.attribute, torch.zeros(2, 2))
    assert FakeBackend().audit(target, layer) is not None


def test_every_format_is_supported_everywhere() -> None:
    assert FakeBackend().supports([FORMAT], CPU) is None
    assert FakeBackend().kind == "fake-quant"
