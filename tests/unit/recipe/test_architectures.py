"""Recipes on architectures whose weights lie, are shared or are called in ways of their own."""

import pytest
import torch
from recipe_builders import INT8, blocks, int8_row, int8_row_recipe, rounded_int8
from recipe_models import IDS, LLAMA4, LOCAL, MIXTURE, SHARED, SIZES, Load, logits
from torch import Tensor, nn
from torch.nn import functional as F

from harness.backends.layer import LayerRule
from harness.backends.scaled_mm.backend import ScaledMMBackend
from harness.backends.torchao.backend import TorchaoBackend
from harness.backends.torchao.library import torchao
from harness.errors import AuditError, UnsupportedRecipe
from harness.models.targets.targets import find_others, find_targets
from harness.recipe import QuantRecipe, quantize

IN_OUT = {
    "llama4": ("Llama4Text", SIZES | LLAMA4 | {"intermediate_size_mlp": 40}, ".experts."),
    "gpt_oss": ("GptOss", SIZES | LOCAL | {"head_dim": 16}, ".experts."),
    "aria": ("AriaText", SIZES | {"moe_num_experts": 4, "moe_topk": 2}, ".experts."),
    "recurrent_gemma": (
        "RecurrentGemma",
        SIZES | {"lru_width": 32, "block_types": ["recurrent", "attention"]},
        "rg_lru.",
    ),
}


@pytest.mark.parametrize(("kind", "options", "place"), IN_OUT.values(), ids=IN_OUT)
def test_a_stack_stored_with_its_inputs_first_has_one_scale_an_output_channel(
    load: Load, kind: str, options: dict[str, object], place: str
) -> None:
    loaded = load(kind, **options)
    before = parameters(loaded.module)
    report = quantize(loaded, int8_row_recipe()).report
    layers = {layer.name: layer for layer in report.layers if place in layer.name}
    assert len(layers) >= 2
    for name, layer in layers.items():
        found = loaded.module.get_parameter(name)
        # Inputs are the axis before the last: what shares a scale lies along it.
        assert torch.equal(found, rounded_int8(before[name], axis=1)), name
        assert layer.shape == (*before[name].mT.shape,)
        assert found.is_contiguous()
    loaded.restore()
    assert all(torch.equal(p, before[name]) for name, p in loaded.module.named_parameters())


@pytest.mark.parametrize("block", [(8, 8), (1, 8)])
def test_blocks_of_a_stack_stored_with_its_inputs_first_are_those_of_the_matrix(
    load: Load, block: tuple[int, int]
) -> None:
    loaded = load("Llama4Text", **SIZES, **LLAMA4, intermediate_size_mlp=40)
    name = "model.layers.0.feed_forward.experts.down_proj"
    exact = loaded.module.get_parameter(name).detach().clone()
    rules = {"linear": LayerRule(match="*", weight=blocks(INT8, *block))}
    quantize(loaded, int8_row_recipe(rules=rules))
    experts, inputs, outputs = exact.shape
    shape = experts, outputs // block[0], block[0], inputs // block[1], block[1]
    tiles = exact.mT.reshape(shape)
    scale = tiles.abs().amax((2, 4), keepdim=True) / 127
    expected = ((tiles / scale).round() * scale).reshape(experts, outputs, inputs).mT
    assert torch.equal(loaded.module.get_parameter(name), expected)


def test_what_a_text_run_never_uses_is_listed_and_does_not_count(load: Load) -> None:
    text = SIZES | {"vocab_size": 272, "head_dim": 16, "query_pre_attn_scalar": 16}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = {"text_config": text, "vision_config": vision, "mm_tokens_per_image": 4}
    ids = {"image_token_index": 269, "boi_token_index": 270, "eoi_token_index": 271}
    loaded = load("Gemma3", **config, **ids)
    report = quantize(loaded, int8_row_recipe()).report
    assert all("language_model" in layer.name for layer in report.layers)
    named = dict(loaded.module.named_parameters())
    vision_names = [n for n, p in named.items() if "language_model" not in n and "lm_head" not in n]
    unused = sum(named[name].numel() for name in vision_names)
    reasons = {s.name: s.reason for s in report.skipped}
    assert unused > 1000
    assert {reasons[n] for n in vision_names if named[n].dim() > 1} == {"not used by a text run"}
    assert report.coverage == report.num_quantized / (loaded.num_parameters - unused)


ZAMBA2 = {
    "vocab_size": 261,
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "layers_block_type": ["mamba", "hybrid", "hybrid", "hybrid", "hybrid", "mamba"],
    "num_mem_blocks": 2,
    "mamba_d_state": 8,
    "mamba_ngroups": 1,
    "n_mamba_heads": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "adapter_rank": 4,
    "chunk_size": 32,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


@pytest.mark.parametrize("backend", ["fake", "real"])
def test_blocks_that_share_weights_go_on_sharing_them(load: Load, backend: str) -> None:
    loaded = load("Zamba2", **ZAMBA2)
    exact = parameters(loaded.module)
    num_parameters = loaded.num_parameters
    config = dict(vars(loaded.module.config))
    plain = logits(loaded.module)
    report = quantize(
        loaded,
        int8_row_recipe(backend=ScaledMMBackend()) if backend == "real" else int8_row_recipe(),
    ).report
    first, second = (loaded.module.model.layers[i].shared_transformer for i in (1, 3))
    if backend == "fake":
        weights = [each.feed_forward.gate_up_proj.weight for each in (first, second)]
        assert loaded.num_parameters == num_parameters
    else:
        weights = [each.feed_forward.gate_up_proj for each in (first, second)]
    assert weights[0] is weights[1]
    shared = [layer for layer in report.layers if "gate_up_proj" in layer.name]
    assert len([layer for layer in shared if "adapter" not in layer.name]) == 2
    sizes = [exact[f"{layer.name}.weight"].numel() for layer in report.layers]
    assert report.num_quantized == sum(sizes)
    assert report.coverage == sum(sizes) / num_parameters

    # By hand: every weight of a linear layer but the head once, in whatever blocks it is.
    quantized = logits(loaded.module)
    loaded.restore()
    assert torch.equal(logits(loaded.module), plain)
    assert dict(vars(loaded.module.config)) == config
    for name, parameter in loaded.module.named_parameters():
        layer = loaded.module.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, nn.Linear) and name.endswith("weight") and "lm_head" not in name:
            parameter.data.copy_(rounded_int8(exact[name]))
    if backend == "fake":
        assert torch.equal(logits(loaded.module), quantized)
    else:
        assert torch.allclose(logits(loaded.module), quantized, rtol=1e-3, atol=1e-3)


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(32, 24, bias=False)
        self.down = nn.Linear(24, 32, bias=False)
        self.unused = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.down(F.relu(self.up(x)))
        return made


class ListOfExperts(nn.Module):
    """A mixture with an expert to which no token goes."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([Expert(), Expert()])

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.experts[1](x)
        return made


def test_an_expert_that_no_token_goes_to_is_used_the_way_its_siblings_are(load: Load) -> None:
    module = load("Llama", **SIZES).module
    module.model.layers[1].mlp = ListOfExperts()
    names = [target.name for target in find_targets(module) if "experts" in target.name]
    place = "model.layers.1.mlp.experts"
    assert names == [f"{place}.{i}.{name}" for i in range(2) for name in ("up", "down")]
    others = {other.name: other.reason for other in find_others(module)}
    assert others == {f"{place}.{i}.unused.weight": "not used by a text run" for i in range(2)}


class LongTextsOnly(nn.Module):
    """A block with a layer that texts of more than 32 tokens need."""

    def __init__(self) -> None:
        super().__init__()
        self.usual, self.long = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.usual(x)
        return made + self.long(x) if x.shape[1] > 32 else made


def test_a_layer_that_only_longer_texts_need_ends_the_run_instead_of_staying_in_float_unseen(
    load: Load,
) -> None:
    loaded = load("Llama", **SIZES)
    loaded.module.model.layers[1].mlp = LongTextsOnly()
    long = torch.arange(3, 43)[None]
    quantize(loaded, int8_row_recipe())
    loaded.module(IDS)
    with pytest.raises(AuditError, match=r"32 tokens do not need.*got a call of .*mlp\.long"):
        loaded.module(long)
    loaded.restore()
    quantize(loaded, QuantRecipe(name="none"))
    loaded.module(long)


class RoundedFirst(nn.Linear):
    """A linear layer that does something else as well."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.round(), self.weight, self.bias)


class WrittenOut(nn.Linear):
    """A linear layer in other words, as Falcon has it."""

    def forward(self, input: Tensor) -> Tensor:
        return input @ self.weight.T + self.bias


def test_a_subclass_is_a_linear_layer_if_it_computes_the_same(load: Load) -> None:
    loaded = load("Llama", **SIZES)
    mlp = loaded.module.model.layers[0].mlp
    mlp.up_proj, mlp.gate_proj = WrittenOut(32, 48), RoundedFirst(32, 48)
    targets = {
        target.name.rpartition(".")[2]: target for target in find_targets(loaded.module)[5:8]
    }
    assert targets["up_proj"].linear is mlp.up_proj
    assert targets["gate_proj"].linear is None
    with pytest.raises(UnsupportedRecipe, match="gate_proj"):
        quantize(loaded, int8_row_recipe(backend=ScaledMMBackend()))


def test_gpt2_is_quantized_as_if_it_had_linear_layers(load: Load) -> None:
    options = {"vocab_size": 261, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": None}
    loaded = load("GPT2", **options, eos_token_id=None)
    exact = parameters(loaded.module)
    for each in (int8_row_recipe(), int8_row_recipe(backend=ScaledMMBackend())):
        report = quantize(loaded, each).report
        assert len(report.layers) == 8
        made = logits(loaded.module)
        loaded.restore()
        for layer in report.layers:
            weight = loaded.module.get_submodule(layer.name).weight
            assert layer.shape == (*weight.mT.shape,)
            weight.data.copy_(rounded_int8(weight.data, axis=0))
        # Sums of integers against sums of float32: their order is all that differs.
        assert torch.allclose(logits(loaded.module), made, rtol=1e-4, atol=1e-4)
        for name, parameter in loaded.module.named_parameters():
            parameter.data.copy_(exact[name])


def test_activations_of_gpt2_are_rounded_per_token(load: Load) -> None:
    options = {"vocab_size": 261, "n_embd": 32, "n_layer": 1, "n_head": 2, "bos_token_id": None}
    loaded = load("GPT2", **options, eos_token_id=None)
    layer = loaded.module.transformer.h[0].mlp.c_fc
    weight, x = layer.weight.detach().clone(), torch.randn(2, 5, 32)
    quantize(loaded, with_activations())
    expected = torch.addmm(layer.bias, rounded_int8(x).view(-1, 32), rounded_int8(weight, axis=0))
    assert torch.equal(layer(x), expected.view(2, 5, -1))


def test_a_mixture_has_activations_rounded_by_expert(load: Load) -> None:
    loaded = load("Qwen2Moe", **SIZES, **MIXTURE, **SHARED)
    loaded.module.set_experts_implementation("eager")
    experts = loaded.module.model.layers[0].mlp.experts
    gate_up, down = experts.gate_up_proj.detach().clone(), experts.down_proj.detach().clone()
    x, weights = torch.randn(6, 32), torch.rand(6, 2)
    index = torch.tensor([[0, 1], [1, 3], [0, 3], [3, 1], [1, 0], [0, 3]])  # none goes to the third
    plain = experts(x, index, weights)
    quantize(loaded, with_activations())
    made = experts(x, index, weights)

    expected = torch.zeros_like(x)
    for expert in (0, 1, 3):
        slot, token = torch.where(expert == index.T)
        both = F.linear(rounded_int8(x[token]), rounded_int8(gate_up[expert]))
        gate, up = both.chunk(2, -1)
        out = F.linear(rounded_int8(F.silu(gate) * up), rounded_int8(down[expert]))
        expected.index_add_(0, token, out * weights[token, slot, None])
    assert torch.equal(made, expected)
    assert not torch.allclose(made, plain, rtol=1e-3)
    with loaded.unquantized():
        assert torch.equal(experts(x, index, weights), plain)
    loaded.restore()
    assert torch.equal(experts(x, index, weights), plain)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_experts_share_no_scale_of_their_activations(load: Load, implementation: str) -> None:
    loaded = load("Qwen2Moe", **SIZES, **MIXTURE, **SHARED)
    loaded.module.set_experts_implementation(implementation)
    experts = loaded.module.model.layers[0].mlp.experts
    gate_up = experts.gate_up_proj.detach().clone()
    rules = {
        "up": LayerRule(match="*.experts.gate_up_proj", weight=int8_row(), input=blocks(INT8, -1))
    }
    quantize(loaded, int8_row_recipe(rules=rules))
    x = torch.randn(4, 32)
    x[:2] *= 100  # tokens of one expert are large, those of the other small
    index, ones = torch.tensor([[0], [0], [1], [1]]), torch.ones(4, 1)
    made = experts(x, index, ones)
    parts = []
    for expert, tokens in ((0, x[:2]), (1, x[2:])):
        scale = tokens.abs().max() / 127
        both = F.linear((tokens / scale).round() * scale, rounded_int8(gate_up[expert]))
        gate, up = both.chunk(2, -1)
        parts.append(F.linear(F.silu(gate) * up, experts.down_proj[expert]))
    # The order of sums is all that differs.
    assert torch.allclose(made, torch.cat(parts), rtol=1e-4, atol=1e-3)


def test_a_layer_that_stands_in_two_places_is_replaced_in_both(load: Load) -> None:
    loaded = load("Llama", **SIZES)
    first, second = (layer.mlp for layer in loaded.module.model.layers)
    second.up_proj = first.up_proj
    before = logits(loaded.module)
    report = quantize(loaded, int8_row_recipe(backend=ScaledMMBackend())).report
    assert second.up_proj is first.up_proj
    assert not isinstance(second.up_proj, nn.Linear)
    assert len(report.layers) == 13
    loaded.restore()
    assert second.up_proj is first.up_proj
    assert torch.equal(logits(loaded.module), before)


def test_weights_of_a_library_are_no_targets_and_no_hindrance(load: Load) -> None:
    module = load("Llama", **SIZES).module
    library = torchao("quantization")
    library.quantize_(module.model.layers[0], library.Int8WeightOnlyConfig())
    names = {target.name for target in find_targets(module)}
    assert "model.layers.1.mlp.up_proj" in names
    assert not any("layers.0" in name for name in names)


class OneMatrixForAll(nn.Module):
    """Experts stacked in one matrix, as DBRX has them, and heads in one axis of three, as XLNet."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = (nn.Parameter(torch.randn(3 * 24, 32)) for _ in range(2))
        self.heads = nn.Parameter(torch.randn(32, 2, 16))
        self.merged = nn.Parameter(torch.randn(32, 2, 16))

    def forward(self, x: Tensor) -> Tensor:
        up, down = (w.view(3, 24, 32)[1] for w in (self.up, self.down))
        x = F.relu(x @ up.T) @ down
        heads = torch.einsum("bsk,khd->bshd", x, self.heads)
        return torch.einsum("bshd,nhd->bsn", heads, self.merged)


def test_a_parameter_of_several_matrices_is_taken_apart_the_way_it_is_multiplied(
    load: Load,
) -> None:
    loaded = load("Llama", **SIZES)
    mlp = loaded.module.model.layers[1].mlp = OneMatrixForAll()
    exact = parameters(mlp)
    quantize(loaded, int8_row_recipe())
    assert torch.equal(mlp.up, rounded_int8(exact["up"]))
    by_expert = rounded_int8(exact["down"].view(3, 24, 32), axis=1)
    assert torch.equal(mlp.down, by_expert.view(72, 32))
    assert torch.equal(mlp.heads, rounded_int8(exact["heads"], axis=0))
    assert torch.equal(mlp.merged, rounded_int8(exact["merged"].view(32, 32)).view(32, 2, 16))


def test_torchao_takes_a_conv1d_for_a_linear_layer(load: Load) -> None:
    options = {"vocab_size": 261, "n_embd": 32, "n_layer": 1, "n_head": 2, "bos_token_id": None}
    loaded = load("GPT2", **options, eos_token_id=None)
    layer = loaded.module.transformer.h[0].mlp.c_fc
    weight, x = rounded_int8(layer.weight.detach(), axis=0), torch.randn(5, 32)
    backend = TorchaoBackend()
    report = quantize(loaded, int8_row_recipe(backend=backend)).report
    assert {each.kernel.split(":")[0] for each in report.layers} == {"torchao Int8Tensor"}
    expected = torch.addmm(layer.bias.detach(), x, weight)
    found = loaded.module.transformer.h[0].mlp.c_fc(x).detach()
    assert float((found - expected).norm() / expected.norm()) < backend.tolerance["float32"]


def test_restore_brings_back_what_the_configuration_said_of_ties(load: Load) -> None:
    loaded = load("Llama", **SIZES)
    config = loaded.module.config
    for value in (True, False, None):
        if value is None:
            vars(config).pop("tie_word_embeddings", None)
        else:
            config.tie_word_embeddings = value
        before = dict(vars(config))
        for times in (1, 2):
            for _ in range(times):
                loaded.untie()
            assert not getattr(config, "tie_word_embeddings", False), value
            loaded.restore()
            assert dict(vars(config)) == before, value


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def with_activations(**changes: object) -> QuantRecipe:
    rules = {"linear": LayerRule(match="*", weight=int8_row(), input=int8_row())}
    return int8_row_recipe(rules=rules, **changes)
