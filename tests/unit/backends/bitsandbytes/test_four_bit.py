"""bitsandbytes in the place of linear layers and of experts: the fake path's values, real bytes, and nothing silent."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from harness.backends.bitsandbytes import int8 as bitsandbytes_int8
from harness.backends.bitsandbytes.four_bit import BitsandbytesBackend, library
from harness.backends.bitsandbytes.int8 import ROWS, BitsandbytesInt8Backend
from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.engines.local.split_model import split
from harness.errors import AuditError, UnsupportedRecipe
from harness.formats.codebook import Codebook
from harness.models.checkpoints.folder import prepare
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import byte_tokenizer
from harness.models.targets.targets import Target, find_targets
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import QLoRAScale
from harness.recipe import Quantized, QuantRecipe
from harness.recipe import quantize as quantize_model

pytest.importorskip("bitsandbytes")

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 261,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 32}
IDS = torch.arange(3, 43).view(2, 20)
NAMES = ("nf4", "nf4_dq", "fp4", "fp4_dq")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True, scope="module")
def eager() -> Iterator[None]:
    """Let the library not compile what it calls a few times."""
    with torch.compiler.set_stance("force_eager"):
        yield


def four_bits(name: str, size: int = 64) -> BlockScaled:
    element, _, double = name.partition("_")
    return BlockScaled(
        element=Codebook(name=element),
        granularity=Granularity(block=(1, size), flat=True),
        scale=QLoRAScale(double_quantization=bool(double)),
    )


def model(dtype: torch.dtype = torch.float32, *, experts: bool = False) -> LoadedModel:
    """Return a random model; the widths of its layers are multiples of 64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = (
            Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **EXPERTS))
            if experts
            else LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True))
        )
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_()
    return LoadedModel(
        module=prepare(module.to(dtype), CPU),
        tokenizer=byte_tokenizer(),
        name="random",
        dtype=dtype,
        device=CPU,
        fingerprint="",
    )


def four_bit_recipe(name: str, *, fake: bool = False, match: str = "*") -> QuantRecipe:
    return QuantRecipe(
        name=name,
        rules={"all": LayerRule(match=match, weight=four_bits(name))},
        skip=() if match != "*" else ("lm_head", "embed_tokens"),
        backend=FakeBackend() if fake else BitsandbytesBackend(),
    )


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.module(IDS).logits.float()


def quantized_logits(loaded: LoadedModel, recipe: QuantRecipe) -> tuple[torch.Tensor, Quantized]:
    quantized = quantize_model(loaded, recipe)
    found = logits(loaded)
    loaded.restore()
    return found, quantized


@pytest.mark.parametrize("experts", [False, True], ids=["dense", "experts"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_logits_of_four_bits_are_those_of_the_fake_path(
    name: str, dtype: torch.dtype, experts: bool
) -> None:
    loaded = model(dtype, experts=experts)
    fake, _ = quantized_logits(loaded, four_bit_recipe(name, fake=True))
    real, quantized = quantized_logits(loaded, four_bit_recipe(name))
    # The same numbers in the same product, which may sum in another order.
    torch.testing.assert_close(real, fake, rtol=0, atol=8 * torch.finfo(dtype).eps)
    assert quantized.report.kind == "real"
    assert not torch.equal(fake, logits(loaded))


@pytest.mark.parametrize("experts", [False, True], ids=["dense", "experts"])
@pytest.mark.parametrize("name", NAMES)
def test_stored_bytes_are_those_of_the_state_dict(name: str, experts: bool) -> None:
    loaded = model(experts=experts)
    floats = sum(p.nbytes for p in loaded.module.parameters())
    report = quantize_model(loaded, four_bit_recipe(name)).report
    held = {
        key: tensor
        for key, tensor in loaded.module.state_dict().items()
        # A text of a few numbers, which is an object in memory.
        if "quant_state.bitsandbytes" not in key
    }
    # The offset of double quantization is in that text.
    offsets = 4 * len(report.layers) * name.endswith("dq")
    assert report.stored_bytes == sum(tensor.nbytes for tensor in held.values()) + offsets
    assert report.stored_bytes < floats / 2
    # Beyond codes and scales: a table of 16 levels, and one of 256 for the scales.
    tables = len(report.layers) * (64 + 1024 * name.endswith("dq"))
    assert report.stored_bytes == report.model_bytes + tables


def test_float_modules_come_back_as_they_were() -> None:
    loaded = model(experts=True)
    before = dict(loaded.module.named_modules())
    held = {name: (id(p), p.clone()) for name, p in loaded.module.named_parameters()}
    exact = logits(loaded)
    quantize_model(loaded, four_bit_recipe("nf4_dq"))
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


def test_a_head_in_four_bits_can_be_scored() -> None:
    loaded = model(torch.bfloat16)
    quantize_model(loaded, four_bit_recipe("nf4", match="lm_head"))
    with split(loaded) as halves:
        found = halves.logits(halves.hidden(IDS))
    torch.testing.assert_close(found, logits(loaded), rtol=0, atol=0.05)


NF4 = four_bits("nf4")


def pair(loaded: LoadedModel, fmt: BlockScaled = NF4) -> tuple[Target, QuantizedLayer]:
    """Return a layer with a bias and its weight in a format."""
    target = next(t for t in find_targets(loaded.module) if t.name.endswith("q_proj"))
    weight = quantize(target.weight.detach(), fmt)
    rounds = fmt == ROWS
    layer = QuantizedLayer(
        name=target.name,
        rule="linear",
        format=fmt,
        weight=weight,
        rel_error=0.1,
        input=ROWS if rounds else None,
    )
    return target, layer


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_that_bitsandbytes_itself_makes_of_the_float_weight(name: str) -> None:
    loaded = model()
    target, layer = pair(loaded, four_bits(name))
    BitsandbytesBackend().apply(loaded, target, layer)
    found = loaded.module.get_submodule(target.name)
    bnb = library("nn")
    theirs = bnb.Linear4bit(
        64, 64, quant_type=name[:3], compress_statistics=name.endswith("dq"), compute_dtype=None
    )
    theirs.weight = bnb.Params4bit(
        target.weight.detach().clone(),
        quant_type=name[:3],
        compress_statistics=name.endswith("dq"),
        module=theirs,
    )
    theirs = theirs.to(CPU)
    assert torch.equal(found.weight.data, theirs.weight.data)
    ours_state, state = found.weight.quant_state, theirs.weight.quant_state
    if name.endswith("dq"):
        assert torch.equal(ours_state.state2.absmax, state.state2.absmax)
        assert torch.equal(ours_state.state2.code, state.state2.code)
        # On a CPU the library is now and then one code off the nearest.
        assert (ours_state.absmax.int() - state.absmax.int()).abs().max() <= 1
    else:
        assert torch.equal(ours_state.absmax, state.absmax)
    assert found.bias is target.owner.bias


@pytest.mark.parametrize("spoil", ["codes", "scales", "state", "module", "weight"])
def test_audit_finds_what_is_not_the_layer(spoil: str) -> None:
    loaded = model()
    target, layer = pair(loaded)
    backend = BitsandbytesBackend()
    assert backend.inspect(loaded, target, layer).fault == (
        "a Linear is in place, not a Linear4bit of bitsandbytes"
    )
    backend.apply(loaded, target, layer)
    assert backend.inspect(loaded, target, layer).fault is None
    found: Any = loaded.module.get_submodule(target.name)
    if spoil == "codes":
        found.weight.data[5] ^= 1
    elif spoil == "scales":
        found.weight.quant_state.absmax[3] *= 1.001
    elif spoil == "state":
        found.weight.quant_state = None
    elif spoil == "weight":
        found.weight = nn.Parameter(torch.zeros(64, 64))
    else:
        loaded.swap_module(target.name, nn.Linear(64, 64))
    assert backend.inspect(loaded, target, layer).fault


def test_audit_finds_experts_that_are_not_packed() -> None:
    loaded = model(experts=True)
    target = next(t for t in find_targets(loaded.module) if t.weight.dim() == 3)
    fmt = four_bits("nf4")
    layer = QuantizedLayer(
        name=target.name,
        rule="all",
        format=fmt,
        weight=quantize(target.weight.detach(), fmt),
        rel_error=0.1,
    )
    backend = BitsandbytesBackend()
    assert "not a parametrized stack" in str(backend.inspect(loaded, target, layer).fault)
    backend.apply(loaded, target, layer)
    assert backend.inspect(loaded, target, layer).fault is None
    owner: Any = loaded.module.get_submodule(target.name.rpartition(".")[0])
    owner.parametrizations[target.attribute].original.data[7] ^= 1
    assert backend.inspect(loaded, target, layer).fault is not None


def test_rows_that_are_not_whole_blocks_are_refused(tiny: LoadedModel) -> None:
    """There bitsandbytes 0.50 takes the scales of other blocks with AVX-512; the tiny model's rows have 48 weights."""
    with pytest.raises(UnsupportedRecipe, match=r"whole blocks of 64 .* got .*q_proj \(48, 48\)"):
        quantize_model(tiny, four_bit_recipe("nf4"))
    tiny.restore()


def test_what_cannot_be_held_is_refused_by_name() -> None:
    loaded = model(experts=True)
    with pytest.raises(UnsupportedRecipe, match=r"got model.embed_tokens \(261, 64\); add it"):
        quantize_model(loaded, four_bit_recipe("nf4", match="*embed_tokens"))
    loaded.restore()
    with pytest.raises(UnsupportedRecipe, match=r"linear layers, got .*gate_up_proj .*add it"):
        BitsandbytesInt8Backend().apply(
            loaded,
            next(t for t in find_targets(loaded.module) if t.weight.dim() == 3),
            pair(loaded)[1],
        )


EIGHT = LayerRule(match="*", weight=ROWS, input=ROWS)
FOUR = LayerRule(match="*", weight=four_bits("nf4"))


@pytest.mark.parametrize(
    ("backend", "rule", "device", "reason"),
    [
        (BitsandbytesBackend(), FOUR, "cpu", None),
        (BitsandbytesBackend(), FOUR, "cuda", None),
        (BitsandbytesInt8Backend(), EIGHT, "cpu", None),
        (BitsandbytesBackend(), EIGHT, "cpu", "choose quant=bnb_nf4"),
        (BitsandbytesInt8Backend(), FOUR, "cpu", "choose quant=bnb_int8"),
        (BitsandbytesBackend(), FOUR, "mps", "got mps"),
        (BitsandbytesInt8Backend(), LayerRule(match="*", weight=ROWS), "cpu", "input none"),
        (
            BitsandbytesBackend(),
            LayerRule(match="*", weight=four_bits("nf4"), input=ROWS),
            "cpu",
            "leave inputs in float",
        ),
        (
            BitsandbytesBackend(),
            LayerRule(match="*", weight=four_bits("nf4", 16)),
            "cpu",
            "got nf4_b16",
        ),
    ],
)
def test_what_is_supported_is_said_with_a_reason(
    backend: BitsandbytesBackend | BitsandbytesInt8Backend,
    rule: LayerRule,
    device: str,
    reason: str | None,
    request: pytest.FixtureRequest,
) -> None:
    if rule is EIGHT:
        request.getfixturevalue("exact_int_mm")
    found = backend.supports([rule], torch.device(device))
    assert found is None if reason is None else reason in str(found)


def test_blocks_of_other_codebooks_are_not_taken_for_nf4() -> None:
    levels = tuple(range(16))
    other = BlockScaled(
        element=Codebook(name="nf4", levels=levels),
        granularity=Granularity(block=(1, 64), flat=True),
        scale=QLoRAScale(),
    )
    rules = [LayerRule(match="*", weight=other)]
    assert "got nf4_b64" in str(BitsandbytesBackend().supports(rules, CPU))


def llm_int8(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Return the product of the paper, in float64, of an input that passes through float16."""
    half = x.half().double()
    large = half.abs() >= threshold if threshold else torch.zeros_like(half, dtype=torch.bool)
    outlier = large.any(0)
    largest = half.masked_fill(large, 0).abs().amax(1, keepdim=True)
    codes = (half * (127 / largest)).round().masked_fill(outlier, 0)
    row = weight.double().abs().amax(1, keepdim=True) / 127
    codes_w = (weight.double() / row).round()
    integer = (codes @ codes_w.T) * (largest / 127) * row.T
    return integer + x.double()[:, outlier] @ (codes_w * row)[:, outlier].T + bias.double()


def test_processor_whose_integer_products_saturate_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def saturating(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        pairs = (a.long()[:, None] * b.long()[None]).unflatten(-1, (-1, 2)).sum(-1)
        return pairs.clamp(-(2**15), 2**15 - 1).sum(-1)

    monkeypatch.setattr(library("functional"), "int8_linear_matmul", saturating)
    bitsandbytes_int8.saturates.cache_clear()
    rule = LayerRule(match="*", weight=ROWS, input=ROWS)
    try:
        assert "saturates" in str(BitsandbytesInt8Backend().supports([rule], CPU))
    finally:
        bitsandbytes_int8.saturates.cache_clear()


@pytest.mark.usefixtures("exact_int_mm")
@pytest.mark.parametrize("threshold", [0.0, 1.5, 6.0])
def test_llm_int8_is_the_product_of_the_paper(threshold: float) -> None:
    loaded = model()
    target, layer = pair(loaded, ROWS)
    BitsandbytesInt8Backend(threshold=threshold).apply(loaded, target, layer)
    module: Any = loaded.module.get_submodule(target.name)
    x = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    x[:, 5] *= 20
    owner: Any = target.owner
    expected = llm_int8(x, owner.weight, owner.bias, threshold)
    found = module(x).double()
    # 6.200124e-05 stands for 1/127^2 in the library: 1.8e-5 of the result too much.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    exact = F.linear(x, owner.weight, owner.bias).double()
    assert (expected - exact).abs().max() > 10 * (found - expected).abs().max()


def test_llm_int8_depends_on_the_batch_and_w8a8_does_not() -> None:
    loaded = model()
    target, layer = pair(loaded, ROWS)
    BitsandbytesInt8Backend().apply(loaded, target, layer)
    module: Any = loaded.module.get_submodule(target.name)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    alone = module(x[:1])
    x[1, 5] = 100.0
    assert not torch.equal(module(x)[:1], alone)


def test_audit_of_llm_int8_holds_after_a_forward_and_finds_other_codes() -> None:
    loaded = model()
    target, layer = pair(loaded, ROWS)
    backend = BitsandbytesInt8Backend()
    assert "not a Linear8bitLt" in str(backend.inspect(loaded, target, layer).fault)
    backend.apply(loaded, target, layer)
    before = backend.inspect(loaded, target, layer)
    module: Any = loaded.module.get_submodule(target.name)
    module(torch.ones(2, 64))
    assert backend.inspect(loaded, target, layer) == before
    assert before.fault is None
    assert before.stored_bytes == 64 * 64 + 64 * 4
    assert "threshold" in str(
        BitsandbytesInt8Backend(threshold=1.0).inspect(loaded, target, layer).fault
    )
    module.state.SCB[3] *= 1.001
    assert "other values" in str(backend.inspect(loaded, target, layer).fault)
    module.state.CB = module.state.CB.clone()
    module.state.CB[3, 4] ^= 1
    assert "codes" in str(backend.inspect(loaded, target, layer).fault)


@pytest.mark.usefixtures("exact_int_mm")
def test_llm_int8_is_as_near_to_the_float_model_as_fake_w8a8(caplog: Any) -> None:
    loaded = model()
    recipe = QuantRecipe(name="int8", rules={"linear": EIGHT}, backend=BitsandbytesInt8Backend())
    fake = QuantRecipe(name="int8", rules={"linear": EIGHT})
    exact = logits(loaded)
    real, quantized = quantized_logits(loaded, recipe)
    rounded, _ = quantized_logits(loaded, fake)
    assert quantized.report.input_formats == {"linear": "int8_row"}
    assert (real - exact).norm() < 1.2 * (rounded - exact).norm()
    assert (real - exact).norm() > 0
    assert not caplog.records


def test_threshold_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match=r"threshold must be >= 0, got -1"):
        BitsandbytesInt8Backend(threshold=-1.0)


def test_recipe_fails_when_the_layer_is_taken_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = model()
    monkeypatch.setattr(LoadedModel, "replace", lambda *_: None)
    with pytest.raises(AuditError, match="a Linear is in place"):
        quantize_model(loaded, four_bit_recipe("nf4"))
