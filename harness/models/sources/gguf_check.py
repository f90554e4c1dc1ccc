"""Check a model that transformers made of a GGUF file against the file.

transformers 5.23 silently drops tensors that it has no name for, and settings that its table lacks.
So the package gguf reads the file too, and three things are compared:

1. Tensors: model and file have the same number of values.
2. Settings: each setting of the architecture that changes numbers is in the configuration.
3. Rotary positions: the model has the frequencies of the file.

Any difference is an error that names the tensor or setting. Two settings are added instead: the
factors of Llama 3's frequencies, and Gemma's attention scale, which llama.cpp derives from the size
of the model.
"""

import re
from collections.abc import Mapping
from math import isclose
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from transformers import PreTrainedModel
from transformers.integrations.gguf.utils import is_gguf_arch_supported
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from harness.models.checkpoints.loading_report import first_names

ROPE_FACTORS = "rope_freqs.weight"
"""Tensor with the factors that llama.cpp divides the frequencies of rotary positions by."""
FREQUENCIES = r"rotary_emb\.(full_attention_)?inv_freq$"
"""Buffers with the frequencies of full attention; local attention has others."""
EPSILONS = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps")
CONFIG_NAMES: Mapping[str, tuple[str, ...]] = {
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads", "num_attention_heads"),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": EPSILONS,
    "attention.layer_norm_epsilon": EPSILONS,
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "expert_used_count": ("num_experts_per_tok",),
}
"""Names in configurations of settings that change numbers."""
UNCHECKED = (
    *("block_count", "embedding_length", "feed_forward_length", "vocab_size", "context_length"),
    *("expert_count", "expert_feed_forward_length", "expert_shared_feed_forward_length"),
    *("ssm.conv_kernel", "ssm.state_size", "ssm.time_step_rank", "ssm.inner_size"),
    *("rope.freq_base", "rope.dimension_count", "rope.scaling.finetuned"),
)
"""Settings that need no check: tensor shapes or frequencies show them, or they change no number."""
NEUTRAL: Mapping[str, Any] = {
    "rope.scaling.type": "none",
    "rope.scaling.factor": 1.0,
    "attention.causal": True,
    "expert_weights_scale": 1.0,
}
"""Settings that transformers' table lacks, with the only values that change nothing."""


def check_and_complete(reader: GGUFReader, module: PreTrainedModel) -> None:
    """Check a model against its GGUF file, and add the two settings that transformers drops.

    Only the configuration of the module changes. The model is built from it when the copy is
    loaded.

    Raises:
        ValueError: The model has no place for something in the file.
    """
    architecture = str(_setting(reader, "general.architecture"))
    _check_tensors(reader, module, architecture)
    _check_positions(reader, module, architecture)
    # transformers has a newer reader for these architectures, which knows all settings.
    if not is_gguf_arch_supported(architecture):
        _check_numbers(reader, module.config, architecture)
    if architecture in ("gemma2", "gemma3"):
        _scale_attention(module.config)


def _check_tensors(reader: GGUFReader, module: PreTrainedModel, architecture: str) -> None:
    stored = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
    stored.pop(ROPE_FACTORS, None)
    held = {tensor.data_ptr(): tensor.numel() for tensor in module.state_dict().values()}
    if sum(stored.values()) == sum(held.values()):
        return
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=module.config.to_dict())  # type: ignore[no-untyped-call]
    places = get_gguf_hf_weights_map(module, processor)
    without = sorted(stored.keys() - places.keys()) or ["one of them in part"]
    raise ValueError(
        f"its tensors have {sum(stored.values())} values and a {type(module).__name__} "
        f"{sum(held.values())}; without a place: {first_names(without)}"
    )


def _check_numbers(reader: GGUFReader, config: Any, architecture: str) -> None:
    """Raise ValueError if the configuration lacks a setting of the file, or has another value."""
    prefix = f"{architecture}."
    for key in reader.fields:
        setting = key.removeprefix(prefix)
        stored = _setting(reader, key)
        is_foreign = setting == key  # general.*, tokenizer.*
        is_absent = not stored  # 0: the architecture has no such part
        if is_foreign or is_absent or setting in UNCHECKED:
            continue
        expected = NEUTRAL.get(setting) if setting in NEUTRAL else _configured(config, setting)
        if expected is None or not _is_equal(stored, expected):
            raise ValueError(
                f"its setting {key} is {stored}, and the {type(config).__name__} that transformers "
                f"makes of it has {expected}"
            )


def _configured(config: Any, setting: str) -> Any:
    """Return the value of a file's setting in a configuration; None if it has none."""
    found = [
        value
        for name in CONFIG_NAMES.get(setting, ())
        if (value := getattr(config, name, None)) is not None
    ]
    if not found and setting in ("attention.key_length", "attention.value_length"):
        return config.hidden_size // config.num_attention_heads
    return found[0] if found else None


def _is_equal(stored: Any, expected: Any) -> bool:
    """Compare two settings; floats at the precision of the file, float32."""
    if isinstance(stored, float) and isinstance(expected, int | float):
        return isclose(stored, expected, rel_tol=1e-6)
    return bool(stored == expected)


def _check_positions(reader: GGUFReader, module: PreTrainedModel, architecture: str) -> None:
    """Compare the frequencies of rotary positions with the file's, and add the file's factors."""
    held = [buffer for name, buffer in module.named_buffers() if re.search(FREQUENCIES, name)]
    factors = next((tensor.data for tensor in reader.tensors if tensor.name == ROPE_FACTORS), None)
    plain = getattr(module.config, "rope_parameters", None) or {}
    if factors is not None and (len(held) != 1 or plain.get("rope_type") != "default"):
        raise ValueError(f"it has {ROPE_FACTORS}, and a {type(module).__name__} no place for them")
    if len(held) != 1:
        return
    (frequencies,) = held
    width = _setting(reader, f"{architecture}.rope.dimension_count") or 2 * len(frequencies)
    base = _setting(reader, f"{architecture}.rope.freq_base") or 10000.0
    # Frequency i of a head of this width: base^(-2 i / width).
    expected = base ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    if frequencies.shape != expected.shape or not torch.allclose(
        frequencies.double(), expected, rtol=1e-5, atol=0
    ):
        raise ValueError(
            f"its positions turn by {width} numbers to the base {base:g}, and those of the "
            f"{type(module).__name__} that transformers makes of it do not"
        )
    if factors is not None:
        config = module.config
        config.rope_parameters = {
            # This type divides frequencies by factors of its own. Here they are equal at each
            # length.
            "rope_type": "longrope",
            "rope_theta": base,
            "short_factor": factors.tolist(),
            "long_factor": factors.tolist(),
            "factor": 1.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": config.max_position_embeddings,
        }


def _scale_attention(config: Any) -> None:
    """Set the attention scale of Gemma as llama.cpp does: by head width, but not in 27B models."""
    is_27b = config.num_hidden_layers in (46, 62)  # Gemma 2 and Gemma 3
    config.query_pre_attn_scalar = (
        config.hidden_size // config.num_attention_heads if is_27b else config.head_dim
    )


def _setting(reader: GGUFReader, key: str) -> Any:
    """Return a setting of a file; None if the file has none."""
    field = reader.get_field(key)
    value = None if field is None else field.contents()
    return value.item() if isinstance(value, np.generic) else value
