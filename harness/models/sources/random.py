"""Models with random weights in the shape of a real one, to measure speed without a download.

Speed depends on shapes and types, not on the values of the weights.

1. `DRAWN` numbers are drawn from N(0, 0.02), as transformers initializes matrices, with a seed.
2. The matrices of the model take them one after another, over and over. `DRAWN` is prime, so no two
   rows of a matrix are equal, and values repeat only far apart.
3. Gains of norms are 1, biases 0.

Each parameter is filled in its own type and place. So the model needs no memory but its own, and
the values are the same on every device.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from harness.errors import check_bounds
from harness.models.architecture import check_attention, check_choice
from harness.models.checkpoints.folder import prepare
from harness.models.checkpoints.plausible import check_memory
from harness.models.loaded import Dtype, LoadedModel
from harness.models.sources.tiny import byte_tokenizer

DRAWN = 1_048_573
"""Numbers that are drawn: the largest prime below 2^20."""
STD = 0.02
"""Standard deviation of matrices, `initializer_range` of most configurations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The sizes of a dense decoder, under the names of its `config.json`."""

    model_type: str
    """Name of the architecture in transformers, such as `llama` or `qwen3`."""
    vocab_size: int
    """Rows of the embedding."""
    hidden_size: int
    """Width of the hidden states."""
    intermediate_size: int
    """Width of the MLP."""
    num_hidden_layers: int
    """Number of decoder layers."""
    num_attention_heads: int
    """Number of query heads."""
    num_key_value_heads: int
    """Number of key and value heads."""
    head_dim: int | None = None
    """Length of a head; None is `hidden_size / num_attention_heads`."""
    max_position_embeddings: int
    """Longest sequence [token]."""
    rms_norm_eps: float
    """Epsilon of RMSNorm."""
    tie_word_embeddings: bool
    """Embedding and LM head share a weight."""
    rope_parameters: Mapping[str, float | int | str] = field(hash=False)
    """Parameters of rotary position embeddings, such as `rope_theta`."""

    def __post_init__(self) -> None:
        """Check the sizes: a wrong one would silently make another model."""
        if self.model_type not in CONFIG_MAPPING:
            raise ValueError(
                "model_type must be one that transformers knows, such as llama or qwen3, got "
                f"{self.model_type!r}"
            )
        known = {item.name for item in dataclasses.fields(CONFIG_MAPPING[self.model_type])}
        if unknown := sorted(self._facts().keys() - known):
            raise ValueError(
                f"model_type must have {unknown[0]} in its configuration, got {self.model_type}"
            )
        sizes = [name for name, value in self._facts().items() if type(value) is int]
        check_bounds(self, **dict.fromkeys(sizes, 1))
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                "num_attention_heads must be a multiple of num_key_value_heads, got "
                f"{self.num_attention_heads} and {self.num_key_value_heads}"
            )
        if self.vocab_size < (least := len(byte_tokenizer())):
            raise ValueError(
                f"vocab_size must be >= {least}, the tokens of the byte tokenizer, got "
                f"{self.vocab_size}"
            )

    def _facts(self) -> dict[str, Any]:
        """Return the fields that are given, without the architecture."""
        names = [item.name for item in dataclasses.fields(self) if item.name != "model_type"]
        facts = {name: getattr(self, name) for name in names}
        facts["rope_parameters"] = dict(self.rope_parameters)
        return {name: value for name, value in facts.items() if value is not None}

    @property
    def least_parameters(self) -> int:
        """A lower bound: the embedding, and the feed-forward and output matrices of each layer."""
        of_layer = 2 * self.hidden_size * self.intermediate_size + self.hidden_size
        return self.vocab_size * self.hidden_size + self.num_hidden_layers * of_layer

    def fingerprint(self, seed: int) -> str:
        """Return the hash of the shape, and the seed. Together they determine the weights."""
        text = json.dumps([self.model_type, self._facts()], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"random-v1-shape-{digest[:16]}-seed{seed}"

    def config(self) -> PreTrainedConfig:
        """Return the configuration of transformers, in which no token ends a text."""
        ends = ("bos_token_id", "eos_token_id", "pad_token_id")
        facts: dict[str, Any] = self._facts() | dict.fromkeys(ends)
        return CONFIG_MAPPING[self.model_type](**facts)

    def build(
        self, dtype: torch.dtype, device: torch.device, attention: str | None = None
    ) -> PreTrainedModel:
        """Return the model with uninitialized parameters; `read_config` explains `attention`."""
        # Buffers, such as the frequencies of rotary embeddings, are computed as always.
        with torch.device(device), no_init_weights():
            module: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                self.config(), dtype=dtype, attn_implementation=attention
            )
        module.tie_weights()  # `no_init_weights` leaves this out too
        return prepare(module, device)


def load_random(
    shape: Shape,
    *,
    like: str,
    seed: int,
    dtype: Dtype,
    device: torch.device,
    attention: str | None = None,
) -> LoadedModel:
    """Return a model with random weights.

    Its tokenizer has one token a byte and is a placeholder: token ids for timing are drawn at
    random.

    Args:
        shape: Its sizes.
        like: The model that the shape is taken from; it names this model in records.
        seed: Seed of the weights.
        dtype: Type of the weights.
        device: Where the model is made.
        attention: Attention implementation of transformers; None is the best that the class has.
    """
    as_type: torch.dtype = getattr(torch, dtype)
    check_memory(shape.least_parameters * as_type.itemsize, "weights of model.shape", device)
    check_choice(shape.config(), attention)
    module = shape.build(as_type, device, attention)
    _fill(module, seed)
    check_attention(module, attention)
    return LoadedModel(
        module=module,
        tokenizer=byte_tokenizer(),
        name=like,
        dtype=as_type,
        device=device,
        fingerprint=shape.fingerprint(seed),
        origin=f"random weights in the shape of {like}: {shape.num_hidden_layers} layers of "
        f"{shape.hidden_size}",
        weights="random",
    )


def _fill(module: PreTrainedModel, seed: int) -> None:
    """Fill every parameter, as the module docstring says."""
    drawn = torch.randn(DRAWN, generator=torch.Generator().manual_seed(seed)) * STD
    first = next(module.parameters())
    drawn = drawn.to(first.device, first.dtype)
    start = 0
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            start = _repeat(drawn, start, parameter.data.view(-1))
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)


def _repeat(drawn: Tensor, start: int, target: Tensor) -> int:
    """Fill `target` with repetitions of `drawn` from `start` on; return where to continue."""
    written = 0
    while written < target.numel():
        piece = drawn[start : start + target.numel() - written]
        target[written : written + piece.numel()] = piece
        written += piece.numel()
        start = (start + piece.numel()) % DRAWN
    return start
