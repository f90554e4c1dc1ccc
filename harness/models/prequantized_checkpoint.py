"""Loading a checkpoint that is quantized already, through transformers and the library that wrote it.

What transformers leaves half done is finished here, or refused:

    compressed-tensors   weights are decompressed by the first call of the whole model, which calls of its body never make: they
                         are decompressed at once. Inputs are rounded as the checkpoint says
    GPTQ                 read by `gptq_checkpoint`, since its kernels are not for CPUs
    bitsandbytes         a lost `nested_absmax` is not missed by transformers 5.23, and the weights come out wrong
    unknown methods      transformers ignores them and would take codes for weights

Everything else (FP8, torchao, MXFP4, AWQ, ...) is as transformers loads it. Where it has no kernel (FP8 on a CPU) it dequantizes the
weights, leaves inputs in float, and forgets the model's type; the sizes tell, and the type is set here.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from harness.errors import ModelError
from harness.models import gptq_checkpoint
from harness.models.architecture import auto_class, check_attention, read_config
from harness.models.checkpoint import UNLOADABLE, check_complete, load_tokenizer, prepare
from harness.models.prequantized import (
    Prequantized,
    Settings,
    Stored,
    float_weights,
    scheme,
    stored_tensors,
)
from harness.models.source import Dtype
from harness.models.stored_bytes import stored_bytes
from harness.models.targets import output_layer

KNOWN = {
    name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZATION_CONFIG_MAPPING
}
"""Methods that transformers has a loader for."""


def load_prequantized(
    folder: Path,
    settings: Settings,
    *,
    dtype: Dtype,
    device: torch.device,
    trust_remote_code: bool = False,
    attention: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Prequantized]:
    """Return model, tokenizer and what the model is; `attention` is explained at `read_config`.

    Raises:
        ModelError: The method is unknown, its library is missing, it cannot run on the device, or the folder is damaged.
    """
    method = str(settings.get("quant_method"))
    if method not in KNOWN:
        raise ModelError(
            f"a quantized checkpoint must be of a method that transformers loads ({', '.join(sorted(KNOWN))}), got {method!r} in {folder}; "
            "convert it, or load the float checkpoint and quantize it here"
        )
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    tokenizer = load_tokenizer(folder, **options)
    options["attention"] = attention
    tensors = stored_tensors(folder)
    as_type: torch.dtype = getattr(torch, dtype)
    with _explained(folder, method, device):
        shape = float_shape(folder, **options)
        if method == "gptq":
            weights = gptq_checkpoint.read(folder, settings, as_type)
            module = _load_weights(folder, type(shape), weights, as_type, **options)
            module = prepare(module, device)
        else:
            module = _load(folder, tensors, as_type, device, **options)
    check_attention(module, attention)
    floats = float_weights(tensors)
    count = sum(parameter.numel() for parameter in shape.parameters())
    quantized = count - sum(tensor.numel for tensor in floats.values())
    if quantized <= 0:
        raise ModelError(
            f"a {method} checkpoint must hold codes, got float weights alone in {folder}; "
            "take quantization_config out of its config.json"
        )
    stored = stored_bytes(module)
    facts = Prequantized(
        method=method,
        scheme=scheme(settings),
        kind="real" if stored < count * as_type.itemsize else "fake-quant",
        num_parameters=count,
        num_quantized=quantized,
        file_bytes=sum(tensor.nbytes for tensor in tensors.values()),
        float_file_bytes=sum(tensor.nbytes for tensor in floats.values()),
        stored_bytes=stored,
    )
    return module, tokenizer, facts


@contextmanager
def _explained(folder: Path, method: str, device: torch.device) -> Iterator[None]:
    """Say what to do about what transformers and its libraries raise."""
    try:
        yield
    except ImportError as reason:
        raise ModelError(
            f"the library of a {method} checkpoint must be installed to load {folder}, but: {reason}"
        ) from reason
    except (*UNLOADABLE, NotImplementedError, AssertionError, TypeError) as reason:
        raise ModelError(
            f"transformers must be able to run the {method} checkpoint {folder} on {device}, got: {reason}; "
            "choose another device, or download or convert the checkpoint again"
        ) from reason


def float_shape(folder: Path, **options: Any) -> PreTrainedModel:
    """Return the model that was quantized, without memory: on the meta device."""
    config = _float_config(folder, **options)
    with torch.device("meta"):
        module: PreTrainedModel = auto_class(config).from_config(
            config, trust_remote_code=options["trust_remote_code"]
        )
    module.tie_weights()
    return module


def _float_config(folder: Path, **options: Any) -> Any:
    config = read_config(folder, **options)
    for place in (config, config.get_text_config()):
        if hasattr(place, "quantization_config"):
            del place.quantization_config
    return config


def _load(
    folder: Path,
    tensors: Mapping[str, Stored],
    dtype: torch.dtype,
    device: torch.device,
    **options: Any,
) -> PreTrainedModel:
    """Load a folder through transformers, and finish what it leaves."""
    _check_statistics(folder, tensors)
    config = read_config(folder, options.pop("attention"), **options)
    found: Any = auto_class(config).from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        device_map={"": device},
        **options,
    )
    module: PreTrainedModel = found[0]
    loading = found[1]
    check_complete(loading, folder)
    _refuse_unexpected(loading["unexpected_keys"], folder)
    if decompressed := hasattr(module, "ct_decompress_hook"):
        _decompress(module)
    if decompressed or getattr(module, "hf_quantizer", None) is None:
        _unify(module, dtype)
    # Where it lies is what `device_map` said: not every library lets its weights move.
    module.train(mode=False)
    module.requires_grad_(False)
    return module


def _refuse_unexpected(keys: Iterable[str], folder: Path) -> None:
    """Raise ModelError for tensors that the model has no place for: a scale that is not used makes every weight wrong."""
    if unknown := sorted(keys):
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise ModelError(
            f"every tensor of a quantized checkpoint must be of use, but {folder} has {len(unknown)} that transformers "
            f"leaves out: {shown}; its config.json says something else than its files"
        )


def _check_statistics(folder: Path, tensors: Mapping[str, Stored]) -> None:
    """Raise ModelError if the statistics of bitsandbytes' statistics are lost."""
    lacking = [
        f"{key.removesuffix('.nested_quant_map')}.nested_absmax"
        for key in tensors
        if key.endswith(".nested_quant_map")
    ]
    check_complete({"missing_keys": {key for key in lacking if key not in tensors}}, folder)


def _unify(module: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast the weights of a dequantized model to its type, but for those that its architecture keeps in float32."""
    kept = {*(module._keep_in_fp32_modules or ()), *(module._keep_in_fp32_modules_strict or ())}  # noqa: SLF001 - no public name
    for name, parameter in module.named_parameters():
        # Scales that a layer applies to its input are parameters too, and stay what they are.
        if kept.isdisjoint(name.split(".")) and name.endswith(("weight", "bias")):
            parameter.data = parameter.data.to(dtype)


def _decompress(module: Any) -> None:
    """Put decompressed weights into every layer of compressed-tensors, in place of its hook on the whole model."""
    library = import_module("compressed_tensors.compressors.base")
    head = output_layer(module)
    if (plan := getattr(head, "quantization_scheme", None)) and plan.input_activations:
        raise ModelError(
            "the output layer must take float inputs to be scored in float32, got one that rounds its inputs; "
            "add lm_head to the ignored layers of the checkpoint"
        )
    for layer in module.modules():
        if getattr(layer, "quantization_scheme", None) is not None:
            library.decompress_module(layer)
    module.hf_quantizer.compressor.remove_decompression_hook(module)


def _load_weights(
    folder: Path,
    kind: type[PreTrainedModel],
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    **options: Any,
) -> PreTrainedModel:
    """Load dequantized weights into the float model."""
    found: Any = kind.from_pretrained(
        None,
        config=_float_config(folder, **options),
        state_dict=dict(weights),
        dtype=dtype,
        output_loading_info=True,
    )
    module: PreTrainedModel = found[0]
    loading = found[1]
    check_complete(loading, folder)
    # Some writers add biases of zeros to layers that have none.
    unused = loading["unexpected_keys"]
    _refuse_unexpected(
        (key for key in unused if not key.endswith(".bias") or weights[key].any()), folder
    )
    if (folder / "generation_config.json").is_file():
        module.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return module
