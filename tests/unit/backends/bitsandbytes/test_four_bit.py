"""bitsandbytes' 4-bit layers in linear layers and experts: the fake path's values, real bytes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from recipe_builders import INT8, blocks, int8_row, quantized_layer
from torch import nn

from harness.backends.bitsandbytes.four_bit import BitsandbytesBackend
from harness.backends.bitsandbytes.library import bitsandbytes
from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.engines.local.split_model import split
from harness.errors import AuditError, UnsupportedRecipe
from harness.formats.codebook import Codebook
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target, find_targets
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import QLoRAScale
from harness.recipe import Quantized, QuantRecipe, quantize

Model = Callable[..., LoadedModel]
CPU = torch.device("cpu")
IDS = torch.arange(3, 43).view(2, 20)
NAMES = ("nf4", "nf4_dq", "fp4", "fp4_dq")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
each_kind = pytest.mark.parametrize("experts", [False, True], ids=["dense", "experts"])


@each_kind
def test_logits_are_those_of_the_fake_path(model: Model, experts: bool) -> None:
    for dtype in DTYPES:
        loaded = model(dtype, experts=experts)
        for name in NAMES:
            fake, _ = quantized_logits(loaded, recipe(name, fake=True))
            real, quantized = quantized_logits(loaded, recipe(name))
            # The same numbers in the same matmul, which may sum in another order.
            atol = 8 * torch.finfo(dtype).eps
            torch.testing.assert_close(real, fake, rtol=0, atol=atol, msg=f"{name} {dtype}")
            assert quantized.report.kind == "real"
            assert not torch.equal(fake, logits(loaded))


@each_kind
def test_stored_bytes_are_those_of_the_state_dict(model: Model, experts: bool) -> None:
    loaded = model(experts=experts)
    floats = sum(p.nbytes for p in loaded.module.parameters())
    for name in NAMES:
        report = quantize(loaded, recipe(name)).report
        held = {
            key: tensor
            for key, tensor in loaded.module.state_dict().items()
            # A text of a few numbers, which is an object in memory.
            if "quant_state.bitsandbytes" not in key
        }
        # The offset of double quantization is in that text.
        offsets = 4 * len(report.layers) * name.endswith("dq")
        assert report.stored_bytes == sum(tensor.nbytes for tensor in held.values()) + offsets, name
        assert report.stored_bytes < floats / 2
        # Beyond codes and scales: a table of 16 levels, and one of 256 for the scales.
        tables = len(report.layers) * (64 + 1024 * name.endswith("dq"))
        assert report.stored_bytes == report.model_bytes + tables, name
        loaded.restore()


def test_float_modules_come_back_as_they_were(model: Model) -> None:
    loaded = model(experts=True)
    before = dict(loaded.module.named_modules())
    held = {name: (id(p), p.clone()) for name, p in loaded.module.named_parameters()}
    exact = logits(loaded)
    quantize(loaded, recipe("nf4_dq"))
    rounded = logits(loaded)
    with loaded.unquantized():
        assert torch.equal(logits(loaded), exact)
    assert torch.equal(logits(loaded), rounded)
    loaded.restore()
    assert dict(loaded.module.named_modules()) == before
    assert {name: id(p) for name, p in loaded.module.named_parameters()} == {
        name: each for name, (each, _) in held.items()
    }
    assert all(torch.equal(p, held[name][1]) for name, p in loaded.module.named_parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in loaded.module.modules())
    assert torch.equal(logits(loaded), exact)


def test_a_head_in_four_bits_can_be_scored(model: Model) -> None:
    loaded = model(torch.bfloat16)
    quantize(loaded, recipe("nf4", match="lm_head"))
    with split(loaded) as parts:
        found = parts.logits(parts.hidden(IDS))
    torch.testing.assert_close(found, logits(loaded), rtol=0, atol=0.05)


def test_values_are_those_that_bitsandbytes_itself_makes_of_the_float_weight(model: Model) -> None:
    loaded, bnb = model(), bitsandbytes("nn")
    for name in NAMES:
        double = name.endswith("dq")
        target, layer = pair(loaded, name)
        BitsandbytesBackend().apply(loaded, target, layer)
        found = loaded.module.get_submodule(target.name)
        options = {"quant_type": name[:3], "compress_statistics": double}
        theirs = bnb.Linear4bit(64, 64, compute_dtype=None, **options)
        weight = target.weight.detach().clone()
        theirs.weight = bnb.Params4bit(weight, module=theirs, **options)
        theirs = theirs.to(CPU)
        assert torch.equal(found.weight.data, theirs.weight.data), name
        ours_state, state = found.weight.quant_state, theirs.weight.quant_state
        if double:
            assert torch.equal(ours_state.state2.absmax, state.state2.absmax), name
            assert torch.equal(ours_state.state2.code, state.state2.code), name
            # On a CPU the library is now and then one code off the nearest.
            assert (ours_state.absmax.int() - state.absmax.int()).abs().max() <= 1, name
        else:
            assert torch.equal(ours_state.absmax, state.absmax), name
        assert found.bias is target.owner.bias
        loaded.restore()


def other_code(loaded: LoadedModel, name: str) -> None:
    loaded.module.get_submodule(name).weight.data[5] ^= 1


def other_scale(loaded: LoadedModel, name: str) -> None:
    loaded.module.get_submodule(name).weight.quant_state.absmax[3] *= 1.001


def no_state(loaded: LoadedModel, name: str) -> None:
    loaded.module.get_submodule(name).weight.quant_state = None


def float_weight(loaded: LoadedModel, name: str) -> None:
    loaded.module.get_submodule(name).weight = nn.Parameter(torch.zeros(64, 64))


def other_module(loaded: LoadedModel, name: str) -> None:
    loaded.swap_module(name, nn.Linear(64, 64))


def test_audit_finds_what_is_not_the_layer(model: Model) -> None:
    loaded, backend = model(), BitsandbytesBackend()
    for spoil in (other_code, other_scale, no_state, other_module, float_weight):
        target, layer = pair(loaded)
        assert backend.inspect(loaded, target, layer).fault == (
            "a Linear is in place, not a Linear4bit of bitsandbytes"
        )
        backend.apply(loaded, target, layer)
        assert backend.inspect(loaded, target, layer).fault is None
        spoil(loaded, target.name)
        assert backend.inspect(loaded, target, layer).fault, spoil
        loaded.restore()


def test_audit_finds_experts_that_are_not_packed(model: Model) -> None:
    loaded, backend = model(experts=True), BitsandbytesBackend()
    target = next(t for t in find_targets(loaded.module) if t.weight.dim() == 3)
    layer = quantized_layer(target, four_bits("nf4"))
    assert "not a parametrized stack" in str(backend.inspect(loaded, target, layer).fault)
    backend.apply(loaded, target, layer)
    assert backend.inspect(loaded, target, layer).fault is None
    owner: Any = loaded.module.get_submodule(target.name.rpartition(".")[0])
    owner.parametrizations[target.attribute].original.data[7] ^= 1
    assert backend.inspect(loaded, target, layer).fault is not None


def test_rows_that_are_not_whole_blocks_are_unsupported(tiny: LoadedModel) -> None:
    """With AVX-512 it takes scales of other blocks; rows of the tiny model have 48 weights."""
    with pytest.raises(UnsupportedRecipe, match=r"whole blocks of 64 .* got .*q_proj \(48, 48\)"):
        quantize(tiny, recipe("nf4"))


def test_embedding_is_unsupported_by_name(model: Model) -> None:
    with pytest.raises(UnsupportedRecipe, match=r"got model.embed_tokens \(261, 64\); add it"):
        quantize(model(experts=True), recipe("nf4", match="*embed_tokens"))


def test_what_is_supported_is_said_with_a_reason() -> None:
    def reason(weight: Any, activation: Any = None, device: str = "cpu") -> str | None:
        rule = LayerRule(match="*", weight=weight, input=activation)
        return BitsandbytesBackend().supports([rule], torch.device(device))

    nf4, other = four_bits("nf4"), Codebook(name="nf4", levels=tuple(range(16)))
    assert reason(nf4) is None
    assert reason(nf4, device="cuda") is None
    assert "choose quant=bnb_nf4" in str(reason(int8_row(), int8_row()))
    assert "got mps" in str(reason(nf4, device="mps"))
    assert "leave activations in float" in str(reason(nf4, int8_row()))
    assert "got nf4_b16" in str(reason(four_bits("nf4", 16)))
    renamed = BlockScaled(
        element=other, granularity=Granularity(block=(1, 64), flat=True), scale=QLoRAScale()
    )
    assert "got nf4_b64" in str(reason(renamed)), "levels of its own under the name nf4"
    assert "got int8_g64" in str(reason(blocks(INT8, 1, 64)))


def test_recipe_fails_when_the_layer_is_taken_out_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadedModel, "swap_module", lambda *_: None)
    with pytest.raises(AuditError, match="a Linear is in place"):
        quantize(model(), recipe("nf4"))


def four_bits(name: str, size: int = 64) -> BlockScaled:
    element, _, double = name.partition("_")
    return BlockScaled(
        element=Codebook(name=element),
        granularity=Granularity(block=(1, size), flat=True),
        scale=QLoRAScale(double_quantization=bool(double)),
    )


def recipe(name: str, *, fake: bool = False, match: str = "*") -> QuantRecipe:
    return QuantRecipe(
        name=name,
        rules={"all": LayerRule(match=match, weight=four_bits(name))},
        skip=() if match != "*" else ("lm_head", "embed_tokens"),
        backend=FakeBackend() if fake else BitsandbytesBackend(),
    )


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.module(IDS).logits.float()


def quantized_logits(loaded: LoadedModel, chosen: QuantRecipe) -> tuple[torch.Tensor, Quantized]:
    quantized = quantize(loaded, chosen)
    found = logits(loaded)
    loaded.restore()
    return found, quantized


def pair(loaded: LoadedModel, name: str = "nf4") -> tuple[Target, QuantizedLayer]:
    """Return a layer with a bias and its weight in a format."""
    target = next(t for t in find_targets(loaded.module) if t.name.endswith("q_proj"))
    return target, quantized_layer(target, four_bits(name))
