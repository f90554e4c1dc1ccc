"""Load a checkpoint that is quantized already.

The methods in `READERS` are read by this project and dequantized exactly, without the libraries and devices of their kernels;
activations are rounded as the checkpoint says. Other methods are loaded by transformers and the library that wrote them. Their known
faults are mended or refused:

    bitsandbytes         transformers 5.23 does not notice a missing `nested_absmax` and makes wrong weights; bitsandbytes 0.50.2 saves
                         scales of blocks transposed after a forward pass on some CPUs
    unknown methods      transformers ignores the settings and would take codes for weights
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from harness.errors import ModelError
from harness.models.activations.rounded_activations import num_unused_of, round_activations
from harness.models.architecture import auto_class, check_attention, read_config
from harness.models.checkpoints import awq as awq_checkpoint
from harness.models.checkpoints import bitsandbytes_layers
from harness.models.checkpoints import compressed_tensors as compressed_tensors_checkpoint
from harness.models.checkpoints import fp8 as fp8_checkpoint
from harness.models.checkpoints import gptq as gptq_checkpoint
from harness.models.checkpoints import modelopt as modelopt_checkpoint
from harness.models.checkpoints import mxfp4 as mxfp4_checkpoint
from harness.models.checkpoints.dequantized import Dequantized, Reader, Rounding, module_at
from harness.models.checkpoints.folder import UNLOADABLE, load_tokenizer, prepare
from harness.models.checkpoints.loading_report import check_complete
from harness.models.checkpoints.prequantized import (
    MODELOPT_FILE,
    Prequantized,
    Settings,
    Stored,
    float_weights,
    names_a_quantization,
    stored_tensors,
)
from harness.models.checkpoints.schemes import rounded_inputs, scheme, unused_bits
from harness.models.checkpoints.stored_bytes import stored_bytes
from harness.models.loaded import Dtype
from harness.models.targets.targets import num_unused

READERS: Mapping[str, Reader] = {
    "compressed-tensors": compressed_tensors_checkpoint.read,
    "fp8": fp8_checkpoint.read,
    "gptq": gptq_checkpoint.read,
    "mxfp4": mxfp4_checkpoint.read,
    "awq": awq_checkpoint.read,
    "modelopt": modelopt_checkpoint.read,
}
"""Methods that are read and dequantized here, by the name in `config.json`."""
KNOWN = READERS.keys() | {
    name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZATION_CONFIG_MAPPING
}
"""The methods that are read here, and those that transformers has a loader for."""
TRIED = {"bitsandbytes", "torchao"}
"""Methods that transformers loads right on a CPU: tests compare the weights with the arithmetic of the codes."""


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
    if method not in READERS and method in KNOWN - TRIED and device.type == "cpu":
        raise ModelError(
            f"a quantized checkpoint must be of a method that was compared with its own arithmetic on a CPU "
            f"({', '.join(sorted(READERS.keys() | TRIED))}), got {method} in {folder}; load the float checkpoint and quantize it here"
        )
    if method not in KNOWN:
        raise ModelError(
            f"a quantized checkpoint must be of a method that transformers loads ({', '.join(sorted(KNOWN))}), got {method!r} in {folder}; "
            "convert it, or load the float checkpoint and quantize it here"
        )
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    tokenizer = load_tokenizer(folder, **options)
    options["attention"] = attention
    as_type: torch.dtype = getattr(torch, dtype)
    with _explained(folder, method, device):
        shape = float_shape(folder, **options)
        if read := READERS.get(method):
            checkpoint = read(folder, settings, as_type, shape)
            module = prepare(_load_weights(folder, shape, checkpoint, as_type, **options), device)
            round_activations(module, checkpoint)
            facts = _facts_of_reader(folder, settings, shape, checkpoint, module)
        else:
            module = _load(folder, as_type, device, **options)
            facts = _facts_of_library(folder, settings, shape, as_type, module)
    check_attention(module, attention)
    if not (facts.num_quantized or facts.cache):
        raise ModelError(
            f"a {method} checkpoint must hold codes, got float weights alone in {folder}; "
            f"{'take quantization_config out of its config.json' if names_a_quantization(folder) else f'remove its {MODELOPT_FILE}'}"
        )
    return module, tokenizer, facts


def _facts_of_reader(
    folder: Path,
    settings: Settings,
    shape: PreTrainedModel,
    checkpoint: Dequantized,
    module: PreTrainedModel,
) -> Prequantized:
    cache = [rounding for pair in checkpoint.cache.values() for rounding in pair]
    codes = {name: checkpoint.weights[name].numel() for name in checkpoint.quantized}
    return Prequantized(
        method=str(settings.get("quant_method")),
        scheme=scheme(settings),
        kind="fake-quant",
        num_parameters=_num_parameters(shape),
        num_quantized=sum(codes.values()),
        packed_bits=checkpoint.packed_bits,
        file_bytes=sum(tensor.nbytes for tensor in stored_tensors(folder).values()),
        stored_bytes=stored_bytes(module),
        inputs=_names(checkpoint.inputs.values()),
        outputs=_names(checkpoint.outputs.values()),
        cache=_names(cache),
        warnings=checkpoint.warnings,
        num_unused=num_unused(module),
        num_unused_codes=num_unused_of(module, codes),
    )


def _facts_of_library(
    folder: Path,
    settings: Settings,
    shape: PreTrainedModel,
    dtype: torch.dtype,
    module: PreTrainedModel,
) -> Prequantized:
    tensors = stored_tensors(folder)
    # The files may hold a tied weight twice; count it once.
    names = {name for name, _ in shape.named_parameters(remove_duplicate=False)}
    tied = names - {name for name, _ in shape.named_parameters()}
    floats = float_weights(tensors)
    count, stored = _num_parameters(shape), stored_bytes(module)
    num_quantized = count - sum(t.numel for name, t in floats.items() if name not in tied)
    file_bytes = sum(tensor.nbytes for tensor in tensors.values())
    packed_bytes = file_bytes - sum(tensor.nbytes for tensor in floats.values())
    return Prequantized(
        method=str(settings.get("quant_method")),
        scheme=scheme(settings),
        kind="real" if stored < count * dtype.itemsize else "fake-quant",
        num_parameters=count,
        num_quantized=num_quantized,
        packed_bits=8 * packed_bytes - unused_bits(settings) * num_quantized,
        file_bytes=file_bytes,
        stored_bytes=stored,
        inputs=rounded_inputs(settings),
    )


def _num_parameters(shape: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in shape.parameters())


def _names(roundings: Iterable[Rounding]) -> str | None:
    """Return the formats of roundings, each once; None if nothing is rounded."""
    return "; ".join(dict.fromkeys(rounding.name for rounding in roundings)) or None


@contextmanager
def _explained(folder: Path, method: str, device: torch.device) -> Iterator[None]:
    """Turn errors of transformers and its libraries into a ModelError that says what to do."""
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
    folder: Path, dtype: torch.dtype, device: torch.device, **options: Any
) -> PreTrainedModel:
    """Load a folder through transformers and the method's own library, and mend what they get wrong."""
    _check_statistics(folder, stored_tensors(folder))
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
    _turn_block_scales(module)
    if of_bitsandbytes := bitsandbytes_layers.has_layers(module):
        bitsandbytes_layers.settle(module, dtype)
    # transformers leaves the float weights beside codes of bitsandbytes in the type that they have in the files.
    if of_bitsandbytes or getattr(module, "hf_quantizer", None) is None:
        _unify(module, dtype)
    # No `module.to(device)`: not every library lets its weights move, and `device_map` has put them there.
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
    """Raise ModelError if the scales of bitsandbytes' scales (double quantization) are not in the files."""
    lacking = [
        f"{key.removesuffix('.nested_quant_map')}.nested_absmax"
        for key in tensors
        if key.endswith(".nested_quant_map")
    ]
    check_complete({"missing_keys": {key for key in lacking if key not in tensors}}, folder)


def _turn_block_scales(module: PreTrainedModel) -> None:
    """Put the scales that bitsandbytes 0.50.2 saves as bfloat16 `[K / block, N]` back into the order of blocks, float32 `[N K / block]`.

    It saves them so after a forward pass on a CPU with instructions for bfloat16; the codes beside them are in order.
    """
    for layer in module.modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if state is not None and state.absmax.dim() == 2:
            state.absmax = state.absmax.T.reshape(-1).float()


def _unify(module: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast the weights of a dequantized model to its type, but for those that its architecture keeps in float32."""
    kept = {*(module._keep_in_fp32_modules or ()), *(module._keep_in_fp32_modules_strict or ())}  # noqa: SLF001 - no public name
    for name, parameter in module.named_parameters():
        is_float = type(parameter) is nn.Parameter and parameter.is_floating_point()  # no codes
        if is_float and kept.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(dtype)


def _as_stored(folder: Path, shape: PreTrainedModel, checkpoint: Dequantized) -> dict[str, Tensor]:
    """Return weights the way that the float model stores them: Conv1D (GPT-2) has `[K, N]`.

    Raises:
        ModelError: A weight is NaN or infinite, or was left as codes.
    """
    weights = dict(checkpoint.weights)
    for name in checkpoint.quantized:
        if not weights[name].isfinite().all():
            advice = "take model.dtype=bfloat16 or float32, or " * (
                weights[name].dtype is torch.float16
            )
            raise ModelError(
                f"every weight must be finite, got NaN or infinity in {name} of {folder}; {advice}download or convert it again"
            )
        if isinstance(module_at(shape, name.removesuffix(".weight")), Conv1D):
            weights[name] = weights[name].T.contiguous()
    for name, tensor in weights.items():
        is_float = tensor.is_floating_point() and tensor.itemsize > 1
        if name.rpartition(".")[2] in ("weight", "bias") and not is_float:
            raise ModelError(
                f"codes must have scales beside them, got {name} in {tensor.dtype} alone in {folder}; download or convert it again"
            )
    return weights


def _load_weights(
    folder: Path,
    shape: PreTrainedModel,
    checkpoint: Dequantized,
    dtype: torch.dtype,
    **options: Any,
) -> PreTrainedModel:
    """Load dequantized weights into the float model."""
    weights = _as_stored(folder, shape, checkpoint)
    found: Any = type(shape).from_pretrained(
        None,
        config=_float_config(folder, **options),
        state_dict=weights,
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
