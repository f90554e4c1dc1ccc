"""Small random models of many architectures, for tests of recipes."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from harness.models.loaded import LoadedModel

Load = Callable[..., LoadedModel]
"""Type of the fixture `load`: makes a model of a kind with options."""

SIZES = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
FEW = {"vocab_size": 261, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
SHARED = {"shared_expert_intermediate_size": 24, "decoder_sparse_step": 1}
LLAMA4 = {"head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1}
IDS = torch.arange(3, 35)[None]


@torch.no_grad()
def logits(module: PreTrainedModel) -> torch.Tensor:
    made: torch.Tensor = module(IDS, use_cache=False).logits
    return made
