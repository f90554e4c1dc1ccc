"""The class of transformers that loads a folder, the attention it computes, and its text model.

A multimodal checkpoint is a wrapper: a text model beside towers for images or sound. The wrapper's
own class is loaded, so that every tensor of the files has its place and name. What is measured is
the text model inside:

    module              Gemma3ForConditionalGeneration   the wrapper, or the language model itself
    text_model(module)  Gemma3TextModel                     turns token ids into hidden states
    text_config(module) Gemma3TextConfig                    sizes and attention of the text model
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING

from harness.errors import ModelError
from harness.models.checkpoints.loading_report import check_trust

PROBE_TOKENS = 40
"""Length of the sequence on which two attention implementations are compared [token]."""
ATTENTION_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Largest relative difference of hidden states that rounding explains, by type of the model."""
COMPILED = ("flex_attention",)
"""Attention implementations that torch cannot run below the `TorchDispatchMode` of
`weight_matmuls`."""
LENGTHS = ("max_position_embeddings", "max_seq_len", "max_target_positions")
"""Names of the maximum length in configurations: of most, of MPT, of Whisper. BLOOM and Mamba have
none."""


def read_config(folder: Path, attention: str | None = None, **options: Any) -> PreTrainedConfig:
    """Return the configuration of a folder, for `from_pretrained` or `from_config`.

    Args:
        folder: The model.
        attention: Attention implementation of transformers. None is `sdpa` in each part of the
            model that has it, and `eager` in the others. The attention in `config.json` is ignored.
        options: Options of `AutoConfig.from_pretrained`.

    Raises:
        ModelError: The folder needs code that is not trusted, or transformers has no such attention
            for this class or on this machine.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, **options)
    except ValueError as reason:
        check_trust(reason, folder)
        raise
    check_choice(config, attention, trust_remote_code=bool(options.get("trust_remote_code")))
    # The setter passes the value on to the configurations of the parts.
    config._attn_implementation = attention  # noqa: SLF001 - no public name
    return config


def check_choice(config: PreTrainedConfig, attention: str | None, **options: bool) -> None:
    """Raise ModelError if a model can be built, but not with the attention that was chosen."""
    if attention is None:
        return
    kind = type(config).__name__
    if attention in COMPILED:
        raise _no_such_attention(
            kind, attention, "it is compiled, and recipes need to watch each operator"
        )
    made = auto_class(config)
    with torch.device("meta"):
        made.from_config(deepcopy(config), **options)
        try:
            made.from_config(deepcopy(config), attn_implementation=attention, **options)
        except (ValueError, ImportError) as reason:
            raise _no_such_attention(kind, attention, reason) from reason


def _no_such_attention(kind: str, attention: str, reason: BaseException | str) -> ModelError:
    said = " ".join(str(reason).split())[:300]
    return ModelError(
        f"model.attention must be one that runs a model of {kind} here, got {attention}: {said}; "
        "leave model.attention out"
    )


def auto_class(config: PreTrainedConfig) -> Any:
    """Return the auto class that loads a causal language model, or a multimodal wrapper around one.

    Raises:
        ModelError: The configuration is of neither.
    """
    remote: dict[str, str] = getattr(config, "auto_map", None) or {}
    kind = type(config)
    is_causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in remote
    is_wrapper = kind in MODEL_FOR_MULTIMODAL_LM_MAPPING or "AutoModelForMultimodalLM" in remote
    # From some wrappers (Qwen3.5), AutoModelForCausalLM would take the text model alone, and drop
    # tensors.
    if is_wrapper and not (is_causal and config.get_text_config() is config):
        if not config.is_encoder_decoder:
            return AutoModelForMultimodalLM
    elif is_causal:
        return AutoModelForCausalLM
    raise ModelError(
        "the model must be a causal language model, or a multimodal one around a causal language "
        f"model, got model_type {config.model_type!r} "
        f"({', '.join(config.architectures or ['no architectures'])}); choose another model"
    )


def text_model(module: PreTrainedModel) -> PreTrainedModel:
    """Return the part that turns token ids into hidden states.

    Raises:
        ModelError: It is in none of the three places where architectures keep it.
    """
    decoder = module.get_decoder()  # type: ignore[no-untyped-call]
    for place in (decoder, module.base_model, getattr(module, "model", None)):
        if isinstance(place, PreTrainedModel) and place is not module:
            # In some wrappers (Llama 4), the text part is a causal language model with its own
            # head.
            has_head = place.get_output_embeddings() is not None  # type: ignore[no-untyped-call]
            return text_model(place) if has_head else place
    raise ModelError(
        f"the model must be a body with a language-model head, got {type(module).__name__}; "
        "load it as a causal language model"
    )


def text_config(module: PreTrainedModel) -> PreTrainedConfig:
    """Return the configuration of the text model."""
    found: PreTrainedConfig = text_model(module).config
    return found


def max_length(module: PreTrainedModel) -> int | None:
    """Return the longest sequence that the configuration allows [token]; None for no limit."""
    config = text_config(module)
    lengths = (getattr(config, name, None) for name in LENGTHS)
    # XLNet says -1 for no limit.
    return next((int(length) for length in lengths if length is not None and length > 0), None)


def attention_of(module: PreTrainedModel) -> str:
    """Return the attention implementation of the text model, such as `sdpa`."""
    return text_config(module)._attn_implementation  # type: ignore[no-any-return]  # noqa: SLF001 - no public name


@torch.inference_mode()
def check_attention(module: PreTrainedModel, chosen: str | None) -> None:
    """Check that a chosen attention implementation computes what the default of the class computes.

    In transformers 5.23 it may not: Falcon in `eager` adds its ALiBi biases twice.

    Raises:
        ModelError: The model does not run with the chosen one, its class ignores the choice, or
            hidden states differ by more than `ATTENTION_TOLERANCE`.
    """
    if chosen is None:
        return
    body, config = text_model(module), text_config(module)
    if (found := attention_of(module)) != chosen:
        raise ModelError(
            f"model.attention must be one that {type(module).__name__} has, got {chosen}, but it "
            f"runs with {found}; leave model.attention out"
        )
    ids_1S = torch.arange(PROBE_TOKENS, device=module.device)[None] % config.vocab_size
    states = []
    for kernel in (chosen, body.get_correct_attn_implementation(None)):
        config._attn_implementation = kernel  # noqa: SLF001 - no public name
        try:
            states.append(body(ids_1S, use_cache=False).last_hidden_state.float())
        except (ValueError, RuntimeError, ImportError) as reason:
            raise _no_such_attention(type(config).__name__, chosen, reason) from reason
    config._attn_implementation = chosen  # noqa: SLF001
    error = float((states[0] - states[1]).norm() / states[1].norm())
    if not error <= ATTENTION_TOLERANCE[module.dtype]:
        raise ModelError(
            f"model.attention must compute what {type(module).__name__} computes by itself, but "
            f"with {chosen} hidden states differ by {error:.1e} (relative) from those with "
            f"{kernel}; leave model.attention out"
        )


@contextmanager
def attention(module: PreTrainedModel, kernel: str) -> Iterator[None]:
    """Context manager: the text model runs with another attention implementation inside the block.

    Raises:
        ValueError: The model cannot run with it.
        ImportError: It needs a library that is not installed.
    """
    body, before = text_model(module), attention_of(module)
    # transformers itself only logs that it cannot change the attention of a class.
    if not body._can_set_attn_implementation():  # noqa: SLF001 - no public name
        raise ValueError(f"{type(body).__name__} has one attention implementation, {before}")
    try:
        body.set_attn_implementation(kernel)
        yield
    finally:
        body.set_attn_implementation(before)
