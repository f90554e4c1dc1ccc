"""Body and LM head, run separately, against the whole model: float32 logits for every dtype."""

from collections.abc import Callable

import pytest
import torch
from architectures import in_memory
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertLMHeadModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    ProphetNetConfig,
    ProphetNetForCausalLM,
)

from harness.engines.local import split_model as split_module
from harness.engines.local.split_model import split
from harness.errors import ModelError
from harness.models import architecture
from harness.models.loaded import LoadedModel

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


def loaded(module: PreTrainedModel) -> LoadedModel:
    return in_memory(module, "random")


each_make = pytest.mark.parametrize("make", [llama, with_bias])


@each_make
@torch.inference_mode()
def test_logits_are_the_product_of_float32_copies(make: Callable[[], PreTrainedModel]) -> None:
    module = make()
    expected = float32_product(module)
    plain = module(IDS).logits
    with split(loaded(module)) as model:
        found = model.logits(model.hidden(IDS))
        whole = module(IDS).logits
    assert plain.dtype is torch.bfloat16
    assert found.dtype is torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(whole, expected)
    assert not torch.equal(found, plain.float())


@torch.inference_mode()
def test_soft_cap_is_kept_and_computed_in_float32() -> None:
    module = capped()
    product = float32_product(module)
    with split(loaded(module)) as model:
        found = model.logits(model.hidden(IDS))
    assert product.abs().max() > 2 * CAP
    torch.testing.assert_close(found, CAP * torch.tanh(product / CAP), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [llama, with_bias, capped])
@torch.inference_mode()
def test_logits_of_some_positions_are_those_of_the_whole(
    make: Callable[[], PreTrainedModel],
) -> None:
    module = make().float()
    whole = module(IDS).logits[0]
    with split(loaded(module)) as model:
        hidden = model.hidden(IDS)[0]
        assert model.logits(hidden[3]).shape == whole[3].shape
        torch.testing.assert_close(model.logits(hidden[3]), whole[3])
        torch.testing.assert_close(model.logits(hidden[[20, 4]]), whole[[20, 4]])


@pytest.mark.parametrize("positions", [1, 5, 64])
def test_losses_in_chunks_are_those_of_all_logits_in_float64(
    positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = capped()
    monkeypatch.setitem(split_module.CHUNK_BYTES, "cpu", 4 * SIZES["vocab_size"] * positions)
    with split(loaded(module)) as model:
        hidden = model.hidden(IDS)[0, :-1]
        found = model.nll(hidden, IDS[0, 1:])
        logits = model.logits(hidden).double()
        assert max(len(chunk) for chunk in model.chunks(hidden)) == min(positions, len(hidden))
    exact = logits.logsumexp(-1) - logits[torch.arange(len(hidden)), IDS[0, 1:]]
    assert found.dtype is torch.float64
    # Another number of rows may be multiplied in another order of float32 sums.
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)


@torch.inference_mode()
def test_forward_is_the_model_s_own_again() -> None:
    module = llama()
    before = module(IDS).logits
    with split(loaded(module)) as model:
        model.logits(model.hidden(IDS))
        assert "forward" not in vars(module.model)
    assert "forward" not in vars(module.lm_head)
    assert torch.equal(module(IDS).logits, before)


def test_forward_is_restored_after_an_error() -> None:
    module = llama()
    with pytest.raises(KeyError), split(loaded(module)):
        raise KeyError
    assert "forward" not in vars(module.lm_head)


def test_no_gradient_is_recorded() -> None:
    module = llama()
    with split(loaded(module)) as model:
        assert torch.is_inference_mode_enabled()
        assert not model.logits(model.hidden(IDS)).requires_grad


@torch.inference_mode()
def test_head_weight_that_is_in_place_is_the_one_used() -> None:
    module = llama()
    swapped = loaded(module)
    swapped.swap_parameter(module.lm_head, "weight", torch.zeros_like(module.lm_head.weight))
    with split(swapped) as model:
        hidden = model.hidden(IDS)
        assert model.logits(hidden).eq(0).all()
        with swapped.unquantized():
            assert model.logits(hidden).ne(0).any()
        assert model.logits(hidden).eq(0).all()


@torch.inference_mode()
def test_logits_of_states_from_elsewhere_need_nothing_else() -> None:
    # This architecture's head reads more of what its body hands over than the hidden states.
    config = MixtralConfig(**SIZES, num_local_experts=2, num_key_value_heads=1)
    module = seeded(lambda: MixtralForCausalLM(config)).float()
    with split(loaded(module)) as model:
        hidden = model.hidden(IDS)
        expected = model.logits(hidden)
    with split(loaded(module)) as model:
        assert torch.equal(model.logits(hidden), expected)
    torch.testing.assert_close(expected, module(IDS).logits)


def test_head_that_is_not_linear_is_refused() -> None:
    module = llama()
    module.lm_head = torch.nn.Identity()
    with pytest.raises(ModelError, match="must be a linear one, got Identity"):
        split(loaded(module)).__enter__()


def test_model_without_a_body_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = llama()
    monkeypatch.setattr(type(module), "get_decoder", lambda self: self)
    monkeypatch.setattr(type(module), "base_model", property(lambda self: self))
    monkeypatch.setattr(architecture, "getattr", lambda *_: None, raising=False)
    with pytest.raises(ModelError, match="must be a body with a language-model head"):
        split(loaded(module)).__enter__()


def test_model_that_does_more_than_body_and_head_is_refused() -> None:
    module = llama()
    forward = module.forward

    def odd(ids: torch.Tensor, **options: object) -> object:
        found = forward(ids, **options)
        # Not a function of each hidden state: the ids are looked at again.
        found.logits = found.logits + ids[..., None] / 10
        return found

    module.forward = odd
    with pytest.raises(ModelError, match=r"a body and a head.*logits differ by"):
        split(loaded(module)).__enter__()


@pytest.mark.parametrize("decoder", [False, True])
def test_model_whose_tokens_see_those_after_them_is_refused(decoder: bool) -> None:
    module = seeded(lambda: BertLMHeadModel(BertConfig(**SIZES, is_decoder=decoder))).float()
    if decoder:
        with split(loaded(module)) as model:
            assert model.unsupported() is None
        return
    with pytest.raises(ModelError, match=r"must be causal.*see later tokens.*is_decoder"):
        split(loaded(module)).__enter__()


def test_model_that_is_put_together_in_another_way_is_refused() -> None:
    config = ProphetNetConfig(
        vocab_size=64,
        hidden_size=16,
        decoder_ffn_dim=24,
        num_decoder_layers=1,
        num_decoder_attention_heads=2,
        is_decoder=True,
        is_encoder_decoder=False,
    )
    module = seeded(lambda: ProphetNetForCausalLM(config)).float()
    with pytest.raises(ModelError, match="it does not run as one"):
        split(loaded(module)).__enter__()
