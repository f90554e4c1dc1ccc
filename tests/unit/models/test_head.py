"""Logits in float32 whatever the type of the model."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
)

from harness.errors import ModelError
from harness.models.head import float32_logits

CAP = 0.5
IDS = torch.arange(1, 30)[None]
SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def seeded(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().to(torch.bfloat16).eval()


def llama() -> PreTrainedModel:
    return seeded(lambda: LlamaForCausalLM(LlamaConfig(**SIZES)))


def with_bias() -> PreTrainedModel:
    module = seeded(lambda: PhiForCausalLM(PhiConfig(**SIZES)))
    torch.nn.init.constant_(module.lm_head.bias, 0.3)
    return module


def capped() -> PreTrainedModel:
    config = Gemma2Config(**SIZES, head_dim=8, num_key_value_heads=1, final_logit_softcapping=CAP)
    return seeded(lambda: Gemma2ForCausalLM(config))


def float32_product(module: PreTrainedModel) -> torch.Tensor:
    """Return the last product in float32, from the model's own last hidden state."""
    hidden = module.model(IDS).last_hidden_state
    assert hidden.dtype is torch.bfloat16
    bias = module.lm_head.bias
    return F.linear(
        hidden.float(), module.lm_head.weight.float(), None if bias is None else bias.float()
    )


@pytest.mark.parametrize("make", [llama, with_bias])
@torch.inference_mode()
def test_logits_are_the_product_of_float32_copies(make: Callable[[], PreTrainedModel]) -> None:
    module = make()
    expected = float32_product(module)
    plain = module(IDS).logits
    with float32_logits(module):
        found = module(IDS).logits
    assert plain.dtype is torch.bfloat16
    assert found.dtype is torch.float32
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain.float())


@torch.inference_mode()
def test_soft_cap_is_kept_and_computed_in_float32() -> None:
    module = capped()
    product = float32_product(module)
    with float32_logits(module):
        found = module(IDS).logits
    assert product.abs().max() > 2 * CAP
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, CAP * torch.tanh(product / CAP), rtol=1e-6, atol=1e-7)


@torch.inference_mode()
def test_forward_is_the_model_s_own_again() -> None:
    module = llama()
    before = module(IDS).logits
    with float32_logits(module):
        pass
    assert "forward" not in vars(module.lm_head)
    assert torch.equal(module(IDS).logits, before)


def test_forward_is_restored_after_an_error() -> None:
    module = llama()
    with pytest.raises(KeyError), float32_logits(module):
        raise KeyError
    assert "forward" not in vars(module.lm_head)


def test_no_gradient_is_recorded() -> None:
    module = llama()
    with float32_logits(module):
        assert torch.is_inference_mode_enabled()
        assert not module(IDS).logits.requires_grad


@torch.inference_mode()
def test_head_weight_that_was_swapped_is_the_one_used() -> None:
    module = llama()
    module.lm_head.weight = torch.nn.Parameter(torch.zeros_like(module.lm_head.weight))
    with float32_logits(module):
        assert module(IDS).logits.eq(0).all()


def test_head_that_is_not_linear_is_refused() -> None:
    module = llama()
    module.lm_head = torch.nn.Identity()
    with (
        pytest.raises(ModelError, match="must be a linear one, got Identity"),
        float32_logits(module),
    ):
        pass
