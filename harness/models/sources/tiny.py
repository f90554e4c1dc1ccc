"""A random model of a few thousand parameters with a byte tokenizer, for tests and docs.

Its sizes are awkward on purpose. No matrix has a number of inputs that 64 or 128 divides, there are
fewer key and value heads than query heads, and the LM head is tied to the embedding.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.models.checkpoints.folder import prepare
from harness.models.loaded import Dtype, LoadedModel, Weights

HIDDEN_SIZE = 48
INTERMEDIATE_SIZE = 80
MAX_LENGTH = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyModel:
    """A Llama of two layers with seeded random weights."""

    weights: ClassVar[Weights] = "pretrained"

    seed: int = 0
    """Seed of the weights."""
    dtype: Dtype = "float32"
    """Type that weights and activations are computed in."""
    name: ClassVar[str] = "tiny"

    def fingerprint(self) -> str:
        """Return the seed, which determines the weights."""
        return f"tiny-v1-seed{self.seed}"

    def load(self, device: torch.device) -> LoadedModel:
        """Make the model. The global random state stays as it was."""
        tokenizer = byte_tokenizer()
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN_SIZE,
            intermediate_size=INTERMEDIATE_SIZE,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=MAX_LENGTH,
            initializer_range=0.3,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            attn_implementation="sdpa",  # type: ignore[call-arg]
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = LlamaForCausalLM(config)
        dtype: torch.dtype = getattr(torch, self.dtype)
        # Parameters alone: the frequencies of rotary positions stay float32, as in loaded models.
        for parameter in module.parameters():
            parameter.data = parameter.data.to(dtype)
        return LoadedModel(
            module=prepare(module, device),
            tokenizer=tokenizer,
            name=self.name,
            dtype=dtype,
            device=device,
            fingerprint=self.fingerprint(),
            origin="random weights",
        )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token a byte, and the answers ` A` to ` D` of MMLU as tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    answers = [("Ġ", letter) for letter in "ABCD"]
    vocab = {token: i for i, token in enumerate([*alphabet, *map("".join, answers), "<eos>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=answers))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<eos>",  # noqa: S106 - a token of text
    )
