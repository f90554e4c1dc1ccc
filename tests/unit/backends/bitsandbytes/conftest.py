"""Random models whose widths are multiples of 64, so that every block size of a test fits."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from architectures import in_memory
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from harness.models.checkpoints.folder import prepare
from harness.models.loaded import LoadedModel

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


@pytest.fixture(autouse=True, scope="module")
def eager() -> Iterator[None]:
    """Let the library not compile what it calls a few times."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="session")
def _made() -> dict[tuple[torch.dtype, bool], LoadedModel]:
    return {}


@pytest.fixture
def model(_made: dict[tuple[torch.dtype, bool], LoadedModel]) -> Iterator[Callable[..., Any]]:
    """A function that returns a random model, dense or with experts, restored afterwards."""

    def get(dtype: torch.dtype = torch.float32, *, experts: bool = False) -> LoadedModel:
        if (dtype, experts) not in _made:
            _made[dtype, experts] = random_model(dtype, experts=experts)
        return _made[dtype, experts]

    yield get
    for loaded in _made.values():
        loaded.restore()


def random_model(dtype: torch.dtype, *, experts: bool) -> LoadedModel:
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
    return in_memory(prepare(module.to(dtype), CPU), "random")
