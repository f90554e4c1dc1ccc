"""Read an exported folder as other tools do: match schemes, decompress, load the model.

For compressed-tensors, the library itself matches `config_groups` and `ignore`, and decompresses
each layer, experts too. GPTQ folders are read by `harness.models.checkpoints.methods.gptq`.
"""

import importlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from harness.errors import ModelError
from harness.export.pieces import in_file
from harness.models.architecture import auto_class
from harness.models.checkpoints.folder_files import INDEX_FILE, WEIGHTS_FILE
from harness.models.checkpoints.methods.gptq import read_gptq

CODED_PARTS = {
    "weight_packed",
    "weight_scale",
    "weight_zero_point",
    "weight_global_scale",
    "weight_shape",
    "input_scale",
    "input_global_scale",
}
"""Tensors of a quantized layer in compressed-tensors, beside `weight` and `bias`."""
LINEAR = nn.Linear(1, 1, device="meta")
"""Stands for any quantized layer when schemes are matched by class: in files, experts are linear
layers."""


def read_back(
    folder: Path, dtype: torch.dtype, attention: str, device: torch.device
) -> PreTrainedModel:
    """Return the dequantized model of a folder.

    Raises:
        ModelError: Codes, schemes and names do not fit each other, or the tensors are not the
            model's.
    """
    trust = {"trust_remote_code": any(folder.glob("*.py"))}
    config = AutoConfig.from_pretrained(folder, local_files_only=True, **trust)
    settings = config.quantization_config
    del config.quantization_config
    with torch.device("meta"):
        shape: PreTrainedModel = auto_class(config).from_config(config, **trust)
    if settings["quant_method"] == "gptq":
        weights = dict(read_gptq(folder, settings, torch.float32, shape).weights)
    else:
        weights = decompressed(_stored_values(folder), settings)
    kind = getattr(transformers, config.architectures[0], type(shape))
    found: Any = kind.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=dtype,
        attn_implementation=attention,
        output_loading_info=True,
    )
    module: PreTrainedModel = found[0]
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(str, found[1][problem])):
            raise ModelError(
                f"its tensors must be those of {config.architectures[0]}, got {problem}: "
                f"{', '.join(keys[:5])}"
            )
    if settings["quant_method"] != "gptq":
        _check_schemes(module, _stored_values(folder), settings)
    module.to(device)  # type: ignore[arg-type]
    module.train(mode=False)
    module.requires_grad_(requires_grad=False)
    return module


def decompressed(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the float tensors of a compressed-tensors folder, by name in the files.

    Raises:
        ModelError: A layer with codes has no scheme.
    """
    library = importlib.import_module("compressed_tensors.quantization")
    match = importlib.import_module("compressed_tensors.utils.match")
    config = library.QuantizationConfig.model_validate(settings)
    schemes = {target: group for group in config.config_groups.values() for target in group.targets}
    owners = {name.rpartition(".")[0] for name in tensors if name.rpartition(".")[2] in CODED_PARTS}
    floats: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        path, _, part = name.rpartition(".")
        if path in owners and part != "bias":
            parts[path][part] = tensor
        else:
            floats[name] = tensor
    for path, stored in parts.items():
        found = match.match_targets(path, LINEAR, schemes)
        if not found or match.is_match(path, LINEAR, config.ignore):
            raise ModelError(
                f"quantization_config must have a scheme for {path}, whose codes are stored; it "
                "has none"
            )
        floats[f"{path}.weight"] = _decompress(stored, schemes[found[0]], config.format)
    return floats


def _check_schemes(
    module: PreTrainedModel, stored: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> None:
    """Raise ModelError if a linear layer has codes and no scheme, or a scheme and no codes.

    Readers look for codes where there is a scheme.
    """
    match = importlib.import_module("compressed_tensors.utils.match")
    targets = [
        target for group in settings["config_groups"].values() for target in group["targets"]
    ]
    coded = {name.rpartition(".")[0] for name in stored if name.rpartition(".")[2] in CODED_PARTS}
    for path, owner in module.named_modules():
        if not isinstance(owner, nn.Linear):
            continue
        names = in_file(module, f"{path}.weight", owner.weight.to("meta"))
        is_coded = any(name.removesuffix(".weight") in coded for name in names)
        has_scheme = match.match_targets(path, owner, targets)
        if is_coded != (bool(has_scheme) and not match.is_match(path, owner, settings["ignore"])):
            raise ModelError(
                f"quantization_config must {'have a scheme for' if is_coded else 'ignore'} {path}, "
                f"as transformers calls it in memory; it is {', '.join(names)} in the file"
            )
    for path in _float_matrices(module, stored):
        is_ignored = match.is_match(path, LINEAR, settings["ignore"])
        if not is_ignored and match.match_targets(path, LINEAR, targets):
            raise ModelError(
                f"quantization_config must ignore {path}, which is not quantized; it has a scheme"
            )


def _float_matrices(module: PreTrainedModel, stored: Mapping[str, Tensor]) -> list[str]:
    """Return the layers of the files with a float matrix, experts too; without embeddings."""
    lookups = {
        name
        for path, owner in module.named_modules()
        if isinstance(owner, nn.Embedding)
        for name in in_file(module, f"{path}.weight", owner.weight.to("meta"))
    }
    return [
        name.removesuffix(".weight")
        for name, tensor in stored.items()
        if name.rpartition(".")[2] == "weight"
        and name not in lookups
        and tensor.dim() == 2
        and tensor.is_floating_point()
        and tensor.dtype.itemsize > 1  # FP8 codes are no floats here
    ]


def _decompress(stored: Mapping[str, Tensor], scheme: Any, whole_format: str) -> Tensor:
    """Return the float32 weight `[N, K]` of a layer."""
    base = importlib.import_module("compressed_tensors.compressors.base")
    kind = str(getattr(scheme.format, "value", None) or scheme.format or whole_format)
    if kind == "nvfp4-pack-quantized":
        # The library's own way would round these weights to bfloat16.
        return _decompress_nvfp4(stored, scheme)
    compressor = base.BaseCompressor.get_value_from_registry(kind)
    weight: Tensor = compressor.decompress(dict(stored), scheme)["weight"]
    return weight.float()


def _decompress_nvfp4(stored: Mapping[str, Tensor], scheme: Any) -> Tensor:
    helpers = importlib.import_module("compressed_tensors.compressors.nvfp4.helpers")
    forward = importlib.import_module("compressed_tensors.quantization.lifecycle.forward")
    packed = stored["weight_packed"]
    rows, words = packed.shape
    weight: Tensor = forward.dequantize(
        x_q=helpers.unpack_fp4_from_uint8(packed, rows, 2 * words, torch.float32),
        scale=stored["weight_scale"].float(),
        args=scheme.weights,
        global_scale=stored["weight_global_scale"],
        dtype=torch.float32,
    )
    return weight


def _stored_values(folder: Path) -> dict[str, Tensor]:
    """Return the tensors in the weights files of a folder."""
    index = folder / INDEX_FILE
    names = {WEIGHTS_FILE}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    found: dict[str, Tensor] = {}
    for name in sorted(names):
        with safe_open(folder / name, "pt") as file:
            found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    return found
