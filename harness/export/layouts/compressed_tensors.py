"""The layout of compressed-tensors (https://github.com/vllm-project/compressed-tensors, 0.20).

    int-quantized        weight int8             weight_scale        INT weights and activations
    pack-quantized       weight_packed int32     weight_scale        INT weights alone, of any width
    float-quantized      weight float8_e4m3fn    weight_scale        FP8 weights and activations
    naive-quantized      weight float8_e4m3fn    weight_scale        FP8 weights alone
    nvfp4-pack-quantized weight_packed uint8     weight_scale E4M3   weight_global_scale is 1 / g
    mxfp4-pack-quantized weight_packed uint8     weight_scale E8M0   mxfp6-pack-quantized alike
    mxfp8-quantized      weight float8_e4m3fn    weight_scale E8M0

1. A format is mapped by its parts: element, granularity, scale rule (`library_scheme`).
2. The library names the layout of the resulting scheme, packs the codes and writes the
   configuration.
3. Scales that a format keeps in float32 are stored in float32, and readers convert them for their
   kernels. A cast to bfloat16 here would move every weight by up to 0.2 %.
4. For activations, the format is stored, and static scales if there are any. Other scales are
   fitted by each engine's own arithmetic, at every call.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.backends.layer import LayerRule, QuantizedLayer
from harness.export.layouts.layout import (
    Contents,
    Packed,
    check_whole_groups,
    integer_format,
    integers,
    patterns,
    relative_error,
    unwrapped,
)
from harness.export.layouts.library_scheme import library, library_scheme, strategy_of
from harness.formats.integer import Integer
from harness.formats.native import Native
from harness.models.checkpoints.methods.codes import E8M0_BIAS
from harness.quant.scale import FloatScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import QuantizedTensor, TensorFormat

EMBEDDING_BITS = (4, 8)
"""Widths of codes that vLLM's embedding lookup reads [bit]."""
SCALE_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Types of scales, by name of the format they are stored in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressedTensors:
    """The layout of the library `compressed-tensors`; the module docstring has its kinds."""

    name: ClassVar[str] = "compressed_tensors"
    holds: ClassVar[str] = (
        "INT2..INT8 and FP8 E4M3 (per-tensor, per-channel, group-wise or in blocks; zero points "
        "per-channel and group-wise), MXFP4 E2M1, MXFP6 E2M3 and MXFP8 E4M3 in blocks of 32, NVFP4 "
        "in blocks of 16; activations of the same kinds with scales fitted at each call, or INT8 "
        "and FP8 with one static scale a layer"
    )

    def unsupported(self, rules: Mapping[str, LayerRule]) -> str | None:
        """Return the first rule without a scheme, and why it has none."""
        for name, rule in rules.items():
            try:
                library_scheme(rule)
            except ValueError as reason:
                return f"rule {name}: {reason}"
        return None

    def unsupported_embedding(self, layer: QuantizedLayer) -> str | None:
        """Return why vLLM would not load it: it reads symmetric per-channel or group-wise INT."""
        fmt = integer_format(layer.format)
        if isinstance(fmt, BlockScaled) and fmt.element.bits in EMBEDDING_BITS:
            strategy = strategy_of(fmt.granularity)["strategy"]
            if strategy in ("channel", "group"):
                return None
        return (
            "its readers take per-channel and group-wise INT4 and INT8 without zero points, not "
            f"{layer.format.name}"
        )

    def pack(self, layer: QuantizedLayer) -> Packed:
        """Return codes and scales under the library's names."""
        check_whole_groups(layer)
        static = layer.input_scales is not None
        rule = LayerRule(
            match=layer.name, weight=layer.format, input=layer.input, static_input=static
        )
        scheme = library_scheme(rule)
        if scheme.weights.type == "int":
            packed = _pack_integers(layer, scheme)
        else:
            packed = _pack_floats(layer.weight, scheme)
        return replace(packed, tensors={**packed.tensors, **_activation_scales(layer, scheme)})

    def config(self, contents: Contents) -> dict[str, Any]:
        """Return one config group for each scheme, by the library's own serialization."""
        groups = _config_groups(contents)
        formats = {str(scheme.format.value) for scheme in groups}
        config = library("quantization").QuantizationConfig(
            config_groups={f"group_{i}": scheme for i, scheme in enumerate(groups)},
            format=formats.pop() if len(formats) == 1 else "mixed-precision",
            quantization_status="compressed",
            ignore=_ignored(contents),
        )
        return {
            "version": library("").__version__,
            "sparsity_config": {},
            "transform_config": {},
            **config.model_dump(mode="json"),
        }

    def files(self, config: dict[str, Any]) -> dict[str, dict[str, Any]]:  # noqa: ARG002
        """Return nothing: readers need only config.json."""
        return {}


def _activation_scales(layer: QuantizedLayer, scheme: Any) -> dict[str, Tensor]:
    """Return the stored scales of activations."""
    if layer.input_scales is not None and layer.input is not None:
        element = layer.input.element
        step = element.step if isinstance(element, Integer) else 1.0
        return {"input_scale": layer.input_scales.planes[0].values.reshape(1) * step}
    if scheme.input_activations and scheme.input_activations.dynamic == "local":
        # The recipe has scales of blocks alone: the outer scale is 1.
        return {"input_global_scale": torch.ones(1)}
    return {}


def _pack_integers(layer: QuantizedLayer, scheme: Any) -> Packed:
    """Return integers, zero points and scales under the library's names."""
    found = integers(layer)
    # The library's codes are signed.
    middle = 2 ** (found.bits - 1)
    codes = (found.codes - middle).to(torch.int8)
    zeros = None if found.zeros is None else (found.zeros - middle).to(torch.int8)
    scale = _in_storage_type(found.scales, layer.format)
    tensors = {"weight_scale": _shaped(scale, scheme)}
    if scheme.format.value == "pack-quantized":
        pack = library("compressors.pack_quantized.helpers").pack_to_int32
        tensors["weight_packed"] = pack(codes, found.bits)
        tensors["weight_shape"] = torch.tensor(codes.shape)
        if zeros is not None:
            tensors["weight_zero_point"] = pack(zeros, found.bits, packed_dim=0).contiguous()
    else:
        tensors["weight"] = codes
        if zeros is not None:
            tensors["weight_zero_point"] = zeros
    return Packed(tensors=tensors, scale_error=relative_error(scale, found.scales))


def _pack_floats(weight: QuantizedTensor, scheme: Any) -> Packed:
    """Return small floats and their scales under the library's names."""
    inner, *outer = weight.scales.planes
    scale, error = inner.values, 0.0
    tensors: dict[str, Tensor] = {}
    if scheme.weights.strategy == "tensor_group":
        whole = outer[0].values.reshape(1) if outer else torch.ones(1)
        tensors["weight_global_scale"] = 1.0 / whole
        # The recipe multiplies by g; readers divide by the stored 1 / g.
        error = relative_error(scale / tensors["weight_global_scale"], scale * whole)
        scale = scale.to(torch.float8_e4m3fn)
    elif scheme.weights.scale_dtype is torch.uint8:
        # frexp writes 2^e as 1/2 * 2^(e + 1).
        scale = (torch.frexp(scale).exponent - 1 + E8M0_BIAS).to(torch.uint8)
    tensors["weight_scale"] = _shaped(scale, scheme)
    if weight.element.bits == 8:
        tensors["weight"] = weight.codes.view(torch.float8_e4m3fn)
    elif weight.element.bits == 6:
        pack = library("compressors.mxfp6.helpers").pack_fp6_to_uint8
        tensors["weight_packed"] = pack(weight.element.decode(weight.codes))
    else:
        pack = library("compressors.nvfp4.helpers").pack_fp4_to_uint8
        tensors["weight_packed"] = pack(weight.element.decode(weight.codes))
    return Packed(tensors=tensors, scale_error=error)


def _in_storage_type(scales: Tensor, fmt: TensorFormat) -> Tensor:
    """Return scales in the type that the format stores them in."""
    rule = getattr(unwrapped(fmt), "scale", None)
    storage = rule.storage if isinstance(rule, FloatScale) else None
    return scales.to(SCALE_TYPES[storage.name]) if isinstance(storage, Native) else scales


def _shaped(scale: Tensor, scheme: Any) -> Tensor:
    """Return scales in the library's shape; a per-tensor scale is a vector."""
    return scale.reshape(1) if scheme.weights.strategy == "tensor" else scale


def _ignored(contents: Contents) -> list[str]:
    """Return the layers that are not quantized: by path, and experts by expression.

    There may be thousands of experts, and readers try each entry on each layer.
    """
    experts = [path for path in contents.kept if len(re.findall(r"\.\d+(?=\.)", path)) > 1]
    alone = set(experts)
    named = [path for path in contents.kept if path not in alone]
    return [
        *contents.known_as(named),
        *(f"re:{text}" for text in patterns(experts, contents.quantized)),
    ]


def _config_groups(contents: Contents) -> list[Any]:
    """Return one scheme for each kind of layer, with the layers that it is for."""
    kinds: dict[str, tuple[Any, list[str]]] = {}
    for path, rule in contents.quantized.items():
        scheme = library_scheme(rule)
        kinds.setdefault(scheme.model_dump_json(), (scheme, []))[1].append(path)
    for scheme, paths in kinds.values():
        embedding = [path for path in paths if path == contents.embedding]
        linears = [path for path in paths if path != contents.embedding]
        others = [*(contents.quantized.keys() - set(paths)), *contents.kept]
        if len(kinds) == 1 and linears:
            # One scheme for all: name the class. The class of vLLM's LM head is another: name the
            # layer.
            head = [path for path in paths if path == contents.head]
            scheme.targets = ["Linear", *contents.known_as([*embedding, *head])]
        else:
            texts = patterns(contents.known_as(linears), contents.known_as(others))
            scheme.targets = [*(f"re:{text}" for text in texts), *contents.known_as(embedding)]
    return [scheme for scheme, _ in kinds.values()]
