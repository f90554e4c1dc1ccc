"""`FakeQuantLinear` in the place of the linear layers of a model, and the presets."""

import pytest
import torch
from linear_by_hand import IN, by_hand, ints, linear, sample
from looped import looped
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.fake_quant_linear import FakeQuantLinear
from harness.nn.linear import PRESETS, replace_linears, set_mode

ROW, TENSOR = ints(8, 1, -1), ints(8, -1, -1)


@looped("name", PRESETS)
def test_preset_is_the_integer_format_of_its_name(name: str) -> None:
    blocks = {
        "w8a8": ((8, 1, -1), (8, 1, -1)),
        "w8a16": ((8, 1, -1), None),
        "w4a16": ((4, 1, 128), None),
        "w4a4": ((4, 1, 128), (4, 1, 128)),
        "w8a8_block": ((8, 128, 128), (8, 1, 128)),
        "w8a16_block": ((8, 128, 128), None),
    }
    plain, x = linear(), sample(7, IN)
    of_weight, of_input = blocks[name]
    rounded = x if of_input is None else by_hand(x, *of_input)
    layer = FakeQuantLinear.from_module(plain, PRESETS[name].weight, PRESETS[name].input)
    expected = F.linear(rounded, by_hand(plain.weight, *of_weight), plain.bias)
    assert torch.equal(layer(x), expected)


def test_every_linear_layer_of_a_model_is_replaced_in_place() -> None:
    model, x = Block(), sample(4, IN)
    parameters, exact = dict(model.named_parameters()), model(x)
    assert replace_linears(model, ROW, ROW) == ["mlp.0", "mlp.2"]
    assert type(model.lm_head) is nn.Linear
    assert all(p is parameters[name] for name, p in model.named_parameters())
    hidden = model.mlp[1](
        F.linear(by_hand(x, 8, 1, -1), by_hand(model.mlp[0].weight, 8, 1, -1), model.mlp[0].bias)
    )
    out = F.linear(by_hand(hidden, 8, 1, -1), by_hand(model.mlp[2].weight, 8, 1, -1))
    assert torch.equal(model(x), model.lm_head(model.norm(x + out)))
    set_mode(model, "float")
    assert torch.equal(model(x), exact)


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ((), ["mlp.0", "mlp.2", "lm_head"]),
        (("mlp.*",), ["lm_head"]),
        (("*.0", "lm_head"), ["mlp.2"]),
        (("LM_HEAD",), ["mlp.0", "mlp.2", "lm_head"]),
    ],
    ids=str,
)
def test_skipped_layers_stay_as_they_are(skip: tuple[str, ...], left: list[str]) -> None:
    assert replace_linears(Block(), ROW, skip=skip) == left


def test_replacing_twice_finds_nothing_new() -> None:
    model = Block()
    replace_linears(model, ROW, skip=("mlp.0",))
    first = model.mlp[2]
    assert replace_linears(model, TENSOR, skip=()) == ["mlp.0"]
    assert model.mlp[2] is first


def test_shared_layer_is_replaced_wherever_it_stands() -> None:
    model = nn.ModuleDict({"a": linear()})
    model["b"] = model["a"]
    replace_linears(model, ROW)
    assert isinstance(model["b"], FakeQuantLinear)
    assert model["b"] is model["a"]


@pytest.mark.parametrize("model", [nn.Sequential(nn.GELU()), nn.Sequential(nn.Conv1d(1, 1, 1))])
def test_model_without_linear_layers_is_refused(model: nn.Module) -> None:
    with pytest.raises(
        ValueError, match=r"linear layers outside of skip=.*, got none in Sequential"
    ):
        replace_linears(model, ROW)


def test_linear_layer_by_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"use FakeQuantLinear\.from_module"):
        replace_linears(linear(), ROW)


def test_refused_format_leaves_the_model_as_it_was() -> None:
    model = Block()
    with pytest.raises(ValueError, match="static input format"):
        replace_linears(model, ROW, ROW, static_input=True)
    assert not any(isinstance(module, FakeQuantLinear) for module in model.modules())


@pytest.mark.parametrize(
    ("model", "skip"),
    [
        (nn.MultiheadAttention(32, 2), ()),
        (nn.TransformerEncoderLayer(32, 2), ("*.out_proj",)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_modules_that_read_weights_of_layers_they_do_not_call_are_refused(
    model: nn.Module, skip: tuple[str, ...]
) -> None:
    # Attention never calls its output layer, an encoder in evaluation calls none of its layers.
    with pytest.raises(ValueError, match=type(model).__name__):
        replace_linears(nn.ModuleDict({"inner": model}), ROW, skip=skip)
    assert not any(isinstance(module, FakeQuantLinear) for module in model.modules())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(IN, 40), nn.GELU(), nn.Linear(40, IN, bias=False))
        self.norm = nn.LayerNorm(IN)
        self.lm_head = nn.Linear(IN, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.lm_head(self.norm(x + self.mlp(x)))
