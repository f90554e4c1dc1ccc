"""Load a quantized checkpoint.

1. The readers in `READERS` dequantize codes exactly, without the library or the device of their
   kernels. transformers loads the weights into the unquantized architecture, and activations are
   rounded as the checkpoint says.
2. `by_library` loads the methods in `TRIED` with transformers and the library that wrote them.
3. Any other method is an error. transformers would ignore the settings of an unknown one and take
   codes for weights; those that it knows were not compared with the arithmetic of their codes,
   except on a GPU.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from harness.errors import ModelError
from harness.models.activations.rounded_activations import num_unused_of, round_activations
from harness.models.architecture import auto_class, check_attention, read_config
from harness.models.checkpoints.by_library import count_parameters, load_by_library
from harness.models.checkpoints.folder import UNLOADABLE, load_tokenizer, prepare
from harness.models.checkpoints.loading_report import check_all_used, check_complete
from harness.models.checkpoints.methods.awq import read_awq
from harness.models.checkpoints.methods.compressed_tensors.reader import read_compressed_tensors
from harness.models.checkpoints.methods.dequantized import (
    ActivationRounding,
    Dequantized,
    Reader,
    module_at,
)
from harness.models.checkpoints.methods.fp8 import read_fp8
from harness.models.checkpoints.methods.gptq import read_gptq
from harness.models.checkpoints.methods.modelopt import read_modelopt
from harness.models.checkpoints.methods.mxfp4 import read_mxfp4
from harness.models.checkpoints.methods.schemes import scheme
from harness.models.checkpoints.prequantized import Prequantized
from harness.models.checkpoints.settings import MODELOPT_FILE, Settings, names_a_quantization
from harness.models.checkpoints.stored_bytes import stored_bytes
from harness.models.checkpoints.stored_tensors import stored_tensors
from harness.models.loaded import Dtype
from harness.models.targets.targets import num_unused

READERS: Mapping[str, Reader] = {
    "awq": read_awq,
    "compressed-tensors": read_compressed_tensors,
    "fp8": read_fp8,
    "gptq": read_gptq,
    "modelopt": read_modelopt,
    "mxfp4": read_mxfp4,
}
"""Methods that are dequantized here, by the name in `config.json`."""
KNOWN_METHODS = READERS.keys() | {
    name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZATION_CONFIG_MAPPING
}
"""Methods in `READERS`, and those that transformers has a loader for."""
TRIED = {"bitsandbytes", "torchao"}
"""Methods that transformers loads right on a CPU: tests compare weights with the arithmetic of the
codes."""


def load_prequantized(
    folder: Path,
    settings: Settings,
    *,
    dtype: Dtype,
    device: torch.device,
    trust_remote_code: bool = False,
    attention: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Prequantized]:
    """Return model, tokenizer and facts of a folder; `attention` is explained at `read_config`.

    Raises:
        ModelError: The method is unknown, its library is missing, it cannot run on the device, or
            the folder is damaged.
    """
    method = str(settings.get("quant_method"))
    _check_method(method, folder, device)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    tokenizer = load_tokenizer(folder, **options)
    options["attention"] = attention
    as_type: torch.dtype = getattr(torch, dtype)
    with _as_model_error(folder, method, device):
        shape = float_shape(folder, **options)
        if read := READERS.get(method):
            checkpoint = read(folder, settings, as_type, shape)
            module = prepare(_load_weights(folder, shape, checkpoint, as_type, **options), device)
            round_activations(module, checkpoint)
            facts = _reader_facts(folder, settings, shape, checkpoint, module)
        else:
            module, facts = load_by_library(folder, settings, shape, as_type, device, **options)
    check_attention(module, attention)
    if not (facts.num_quantized or facts.cache):
        in_config = names_a_quantization(folder)
        cure = "take quantization_config out of its config.json"
        raise ModelError(
            f"a {method} checkpoint must hold codes, got float weights alone in {folder}; "
            f"{cure if in_config else f'remove its {MODELOPT_FILE}'}"
        )
    return module, tokenizer, facts


def _check_method(method: str, folder: Path, device: torch.device) -> None:
    """Raise ModelError for a method that cannot be loaded, or was never compared on a CPU."""
    if method in KNOWN_METHODS - TRIED - READERS.keys() and device.type == "cpu":
        compared = ", ".join(sorted(READERS.keys() | TRIED))
        raise ModelError(
            "a quantized checkpoint must be of a method that was compared with its own arithmetic "
            f"on a CPU ({compared}), got {method} in {folder}; load the unquantized checkpoint and "
            "quantize it here"
        )
    if method not in KNOWN_METHODS:
        raise ModelError(
            "a quantized checkpoint must be of a method that transformers loads "
            f"({', '.join(sorted(KNOWN_METHODS))}), got {method!r} in {folder}; convert it, or "
            "load the unquantized checkpoint and quantize it here"
        )


@contextmanager
def _as_model_error(folder: Path, method: str, device: torch.device) -> Iterator[None]:
    """Context manager: turns errors of transformers and its libraries into a ModelError."""
    try:
        yield
    except ImportError as reason:
        raise ModelError(
            f"the library of a {method} checkpoint must be installed to load {folder}, but: "
            f"{reason}"
        ) from reason
    except (*UNLOADABLE, NotImplementedError) as reason:
        raise ModelError(
            f"transformers must be able to run the {method} checkpoint {folder} on {device}, got: "
            f"{reason}; choose another device, or download or convert the checkpoint again"
        ) from reason


def float_shape(folder: Path, **options: Any) -> PreTrainedModel:
    """Return the unquantized model of a folder on the meta device: shapes without memory."""
    config = _float_config(folder, **options)
    with torch.device("meta"):
        module: PreTrainedModel = auto_class(config).from_config(
            config, trust_remote_code=options["trust_remote_code"]
        )
    module.tie_weights()
    return module


def _float_config(folder: Path, **options: Any) -> Any:
    """Return the configuration of a folder without its quantization settings."""
    config = read_config(folder, **options)
    for place in (config, config.get_text_config()):
        if hasattr(place, "quantization_config"):
            del place.quantization_config
    return config


def _load_weights(
    folder: Path,
    shape: PreTrainedModel,
    checkpoint: Dequantized,
    dtype: torch.dtype,
    **options: Any,
) -> PreTrainedModel:
    """Load dequantized weights into the unquantized model."""
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
    check_all_used(
        (key for key in unused if not key.endswith(".bias") or weights[key].any()), folder
    )
    if (folder / "generation_config.json").is_file():
        module.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return module


def _as_stored(folder: Path, shape: PreTrainedModel, checkpoint: Dequantized) -> dict[str, Tensor]:
    """Return weights as an unquantized checkpoint stores them; those of Conv1D are `[K, N]`.

    Raises:
        ModelError: A weight is NaN or infinite, or is still a code.
    """
    weights = dict(checkpoint.weights)
    for name in checkpoint.quantized:
        if not weights[name].isfinite().all():
            is_half = weights[name].dtype is torch.float16
            raise ModelError(
                f"every weight must be finite, got NaN or infinity in {name} of {folder}; "
                f"{'take model.dtype=bfloat16 or float32, or ' * is_half}download or convert it "
                "again"
            )
        if isinstance(module_at(shape, name.removesuffix(".weight")), Conv1D):
            weights[name] = weights[name].T.contiguous()
    for name, tensor in weights.items():
        is_float = tensor.is_floating_point() and tensor.itemsize > 1
        if name.rpartition(".")[2] in ("weight", "bias") and not is_float:
            raise ModelError(
                f"codes must have scales beside them, got {name} in {tensor.dtype} alone in "
                f"{folder}; download or convert it again"
            )
    return weights


def _reader_facts(
    folder: Path,
    settings: Settings,
    shape: PreTrainedModel,
    checkpoint: Dequantized,
    module: PreTrainedModel,
) -> Prequantized:
    """Return the facts about a checkpoint that a reader dequantized."""
    cache = [rounding for pair in checkpoint.cache.values() for rounding in pair]
    codes = {name: checkpoint.weights[name].numel() for name in checkpoint.quantized}
    return Prequantized(
        method=str(settings.get("quant_method")),
        scheme=scheme(settings),
        kind="fake-quant",
        num_parameters=count_parameters(shape),
        num_quantized=sum(codes.values()),
        packed_bits=checkpoint.packed_bits,
        file_bytes=sum(tensor.nbytes for tensor in stored_tensors(folder).values()),
        stored_bytes=stored_bytes(module),
        inputs=_format_names(checkpoint.inputs.values()),
        outputs=_format_names(checkpoint.outputs.values()),
        cache=_format_names(cache),
        warnings=checkpoint.warnings,
        num_unused=num_unused(module),
        num_unused_codes=num_unused_of(module, codes),
    )


def _format_names(roundings: Iterable[ActivationRounding]) -> str | None:
    """Return the names of formats, each once; None if there are none."""
    return "; ".join(dict.fromkeys(rounding.name for rounding in roundings)) or None
