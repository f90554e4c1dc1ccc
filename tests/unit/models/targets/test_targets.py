"""Which weights of real architectures a recipe can reach."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from harness.models.loaded import LoadedModel
from harness.models.targets.targets import find_targets, find_unreachable

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": None,
    "eos_token_id": None,
}


def qwen3_moe() -> PreTrainedModel:
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **SIZES,
            num_experts=3,
            num_experts_per_tok=2,
            moe_intermediate_size=8,
            decoder_sparse_step=1,
        )
    )


def mixtral() -> PreTrainedModel:
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=3))


def gpt2() -> PreTrainedModel:
    ends = {"bos_token_id": None, "eos_token_id": None}
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, **ends))


def shapes(module: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    return {target.name: tuple(target.weight.shape) for target in find_targets(module)}


def test_tiny_has_seven_matrices_a_layer_the_embedding_and_the_head(tiny: LoadedModel) -> None:
    layer = {
        "self_attn.q_proj": (48, 48),
        "self_attn.k_proj": (24, 48),
        "self_attn.v_proj": (24, 48),
        "self_attn.o_proj": (48, 48),
        "mlp.gate_proj": (80, 48),
        "mlp.up_proj": (80, 48),
        "mlp.down_proj": (48, 80),
    }
    expected = {"model.embed_tokens": (261, 48), "lm_head": (261, 48)}
    for index in range(2):
        expected |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    assert shapes(tiny.module) == expected
    assert find_unreachable(tiny.module) == {}


def test_aliases_and_tie_of_the_tiny_model(tiny: LoadedModel) -> None:
    targets = {target.name: target for target in find_targets(tiny.module)}
    assert targets["model.embed_tokens"].alias == "embed_tokens"
    assert targets["model.embed_tokens"].tied_to is None
    assert targets["lm_head"].alias == "lm_head"
    assert targets["lm_head"].tied_to == "model.embed_tokens"
    rest = [target for name, target in targets.items() if name.startswith("model.layers")]
    assert {(target.alias, target.tied_to) for target in rest} == {(None, None)}


@pytest.mark.parametrize(
    ("make", "gate_up", "down"),
    [(qwen3_moe, (3, 16, 16), (3, 16, 8)), (mixtral, (3, 48, 16), (3, 16, 24))],
)
def test_expert_stacks_are_found(
    make: Callable[[], PreTrainedModel], gate_up: tuple[int, ...], down: tuple[int, ...]
) -> None:
    module = make()
    found = shapes(module)
    assert found["model.layers.0.mlp.experts.gate_up_proj"] == gate_up
    assert found["model.layers.0.mlp.experts.down_proj"] == down
    assert found["model.layers.0.mlp.gate.weight"] == (3, 16)
    assert find_unreachable(module) == {}


def test_transposed_expert_stacks_are_known_as_such() -> None:
    experts = {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 8}
    module = GptOssForCausalLM(GptOssConfig(**SIZES, **experts))
    transposed = {target.name for target in find_targets(module) if target.transposed}
    layer = "model.layers.0.mlp.experts"
    assert transposed == {f"{layer}.gate_up_proj", f"{layer}.down_proj"}


def test_a_conv1d_of_gpt2_is_a_linear_layer_whose_weight_lies_the_other_way() -> None:
    module = gpt2()
    turned = {target.name for target in find_targets(module) if target.transposed}
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert turned == {f"transformer.h.0.{part}" for part in parts}
    assert set(find_unreachable(module)) == {"transformer.wpe.weight"}
    for target in find_targets(module):
        if target.transposed:
            x = torch.randn(3, target.matrix.shape[1])
            assert target.linear is not None
            assert torch.allclose(target.linear(x), target.owner(x), atol=1e-6)


def test_embedding_of_another_name_has_the_alias() -> None:
    targets = {target.alias: target.name for target in find_targets(gpt2()) if target.alias}
    assert targets == {"embed_tokens": "transformer.wte", "lm_head": "lm_head"}


@pytest.mark.parametrize("make", [qwen3_moe, mixtral, gpt2])
def test_every_matrix_is_either_a_target_or_unreachable(
    make: Callable[[], PreTrainedModel],
) -> None:
    module = make()
    reachable = {id(target.weight) for target in find_targets(module)}
    unreachable = {id(parameter) for parameter in find_unreachable(module).values()}
    matrices = {id(p) for p in module.parameters() if p.dim() >= 2}
    assert reachable | unreachable == matrices
    assert not reachable & unreachable


def test_untied_head_has_no_tie() -> None:
    module = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False))
    assert {target.tied_to for target in find_targets(module)} == {None}


def test_globs_match_paths_and_aliases(tiny: LoadedModel) -> None:
    counts = {
        "*": 16,
        "lm_head": 1,
        "embed_tokens": 1,
        "model.layers.0.*": 7,
        "*.mlp.*": 6,
        "*_proj": 14,
        "model.layers.[01].self_attn.q_proj": 2,
        "MODEL*": 0,
        "layers.0": 0,
    }
    targets = find_targets(tiny.module)
    assert counts == {
        pattern: sum(target.matches(pattern) for target in targets) for pattern in counts
    }


def test_weight_is_what_is_in_place_now(tiny: LoadedModel) -> None:
    target = find_targets(tiny.module)[1]
    tiny.swap_parameter(target.owner, target.attribute, torch.zeros_like(target.weight))
    assert target.weight.eq(0).all()
