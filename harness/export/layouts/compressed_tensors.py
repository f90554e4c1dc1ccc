"""compressed-tensors (https://github.com/vllm-project/compressed-tensors, 0.20), the layout of llm-compressor.

    int-quantized        weight int8                  weight_scale          weights and inputs are integers
    pack-quantized       weight_packed int32          weight_scale          integers of any width, weights alone
    float-quantized      weight float8_e4m3fn         weight_scale          inputs are FP8 too; else naive-quantized
    nvfp4-pack-quantized weight_packed uint8          weight_scale E4M3     weight_global_scale is 1 / g
    mxfp4-pack-quantized weight_packed uint8          weight_scale E8M0     mxfp6-pack-quantized alike
    mxfp8-quantized      weight float8_e4m3fn         weight_scale E8M0

A format is mapped by its parts: element, granularity and scale rule. The library itself names the layout of a scheme,
packs the codes and writes the configuration. Scales that a format keeps in float32 are written so: readers convert them to
what their kernels want, and a cast to bfloat16 here would move every weight by up to 0.2 %.

Of inputs the *format* is written, and static scales if they have some. Other scales each engine fits by its own arithmetic, at every
call.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.backends.layer import LayerRule, QuantizedLayer
from harness.errors import ConfigError
from harness.export.layouts.layout import (
    FACTORS,
    Contents,
    Packed,
    integer_format,
    integers,
    patterns,
    refuse_short_groups,
    relative_error,
    unwrapped,
)
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.formats.native import Native
from harness.quant.granularity import Granularity
from harness.quant.range import AbsMax
from harness.quant.scale import FloatScale, PowerOfTwoScale
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale
from harness.quant.schemes.shared_exponent import SharedExponent
from harness.quant.tensor import QuantizedTensor, TensorFormat

E4M3, E2M1, E2M3 = (4, 3, "nan"), (2, 1, "none"), (2, 3, "none")
MX_BLOCK, NV_BLOCK = (1, 32), (1, 16)
E8M0_BIAS = 127
EMBEDDING_BITS = (4, 8)
"""Widths of codes that vLLM's embedding lookup reads [bit]."""
SCALE_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressedTensors:
    """The layout of the library `compressed-tensors`; see the module docstring and `Layout`."""

    name: ClassVar[str] = "compressed_tensors"
    holds: ClassVar[str] = (
        "INT2..INT8 and FP8 E4M3 (one scale a tensor, row, group or block; zero points of rows and groups), "
        "MXFP4 E2M1, MXFP6 E2M3 and MXFP8 E4M3 in blocks of 32, NVFP4 in blocks of 16; inputs of the same kinds with scales "
        "fitted at each call, or INT8 and FP8 with one static scale a layer"
    )

    def refusal(self, rules: Mapping[str, LayerRule]) -> str | None:
        """Name the first rule that has no scheme."""
        for name, rule in rules.items():
            try:
                _scheme(rule)
            except ValueError as reason:
                return f"rule {name}: {reason}"
        return None

    def refuses_embedding(self, layer: QuantizedLayer) -> str | None:
        """Return why vLLM would not load it: its lookup takes symmetric integers in rows or groups."""
        fmt = integer_format(layer.format)
        if isinstance(fmt, BlockScaled) and fmt.element.bits in EMBEDDING_BITS:
            strategy = _strategy(fmt.granularity)["strategy"]
            if strategy in ("channel", "group"):
                return None
        return f"its readers take INT4 and INT8 without zero points in rows or groups, not {layer.format.name}"

    def pack(self, layer: QuantizedLayer) -> Packed:
        """Return codes and scales under the library's names."""
        refuse_short_groups(layer)
        static = layer.input_scales is not None
        rule = LayerRule(
            match=layer.name, weight=layer.format, input=layer.input, static_input=static
        )
        scheme = _scheme(rule)
        if scheme.weights.type == "int":
            packed = _pack_integers(layer, scheme)
        else:
            packed = _pack_floats(layer.weight, scheme)
        return replace(packed, tensors={**packed.tensors, **_input_scales(layer, scheme)})

    def config(self, contents: Contents) -> dict[str, Any]:
        """Return one config group for each scheme, by the library's own serialization."""
        groups = _groups(contents)
        formats = {str(scheme.format.value) for scheme in groups}
        config = _library("quantization").QuantizationConfig(
            config_groups={f"group_{i}": scheme for i, scheme in enumerate(groups)},
            format=formats.pop() if len(formats) == 1 else "mixed-precision",
            quantization_status="compressed",
            ignore=_ignored(contents),
        )
        return {
            "version": _library("").__version__,
            "sparsity_config": {},
            "transform_config": {},
            **config.model_dump(mode="json"),
        }

    def files(self, config: dict[str, Any]) -> dict[str, dict[str, Any]]:  # noqa: ARG002
        """Readers need nothing beside config.json."""
        return {}


def _library(module: str) -> ModuleType:
    try:
        return importlib.import_module(f"compressed_tensors.{module}".rstrip("."))
    except ImportError as reason:
        raise ConfigError(
            f"layout=compressed_tensors must find the library compressed-tensors, got: {reason}; "
            "install it with pip install compressed-tensors, or choose layout=gptq"
        ) from reason


def _scheme(rule: LayerRule) -> Any:
    """Return the library's `QuantizationScheme`, with the format that it chooses for it.

    Raises:
        ValueError: There is none.
    """
    library = _library("quantization")
    scheme = library.QuantizationScheme(
        targets=[],
        weights=library.QuantizationArgs(**_weight_arguments(rule.weight)),
        input_activations=None
        if rule.input is None
        else library.QuantizationArgs(**_input_arguments(rule.input, static=rule.static_input)),
    )
    scheme.format = _library("compressors.format").infer_module_format(nn.Linear, scheme)
    return scheme


def _weight_arguments(fmt: TensorFormat) -> dict[str, Any]:
    """Return the `QuantizationArgs` of a format; raise ValueError where there are none."""
    fmt, name = unwrapped(fmt), fmt.name
    if (found := integer_format(fmt)) is not None:
        arguments = {"type": "int", "num_bits": found.element.bits, **_strategy(found.granularity)}
        if isinstance(found, Affine):
            if arguments["strategy"] not in ("channel", "group"):
                raise ValueError(f"zero points must be those of rows or groups, got {name}")
            return arguments | {"symmetric": False}
        return arguments | {"symmetric": True}
    if isinstance(fmt, BlockScaled) and isinstance(fmt.element, Minifloat):
        arguments = _float_arguments(fmt, fmt.element)
        if arguments:
            return arguments | {
                "type": "float",
                "num_bits": fmt.element.bits,
                "symmetric": True,
            }
    raise ValueError(f"{name} is none of them")


def _float_arguments(fmt: BlockScaled, element: Minifloat) -> dict[str, Any]:
    """Return what tells the schemes of small floats apart, or nothing if there is no such scheme."""
    kind = (element.exponent_bits, element.mantissa_bits, element.specials)
    if fmt.granularity.flat:
        return {}
    if fmt.granularity.block == MX_BLOCK and kind in (E4M3, E2M1, E2M3) and _is_mx(fmt):
        return {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}
    if kind == E2M1 and isinstance(fmt.scale, NVFP4Scale) and fmt.granularity.block == NV_BLOCK:
        return {
            "strategy": "tensor_group",
            "group_size": 16,
            "scale_dtype": torch.float8_e4m3fn,
        }
    if kind == E4M3 and isinstance(fmt.scale, FACTORS):
        return _strategy(fmt.granularity)
    return {}


def _is_mx(fmt: BlockScaled) -> bool:
    return isinstance(fmt.scale, PowerOfTwoScale | SharedExponent)


def _strategy(granularity: Granularity) -> dict[str, Any]:
    """Return the library's words for a granularity; raise ValueError where it has none."""
    rows, columns = granularity.block
    if granularity.flat or ((rows == -1) != (columns == -1) and rows != 1):
        raise ValueError(
            f"blocks must be a tensor, rows, groups in a row, or rectangles, got {granularity.name}"
        )
    if rows == -1:
        return {"strategy": "tensor"}
    if rows > 1:
        return {"strategy": "block", "block_structure": [rows, columns]}
    return (
        {"strategy": "channel"} if columns == -1 else {"strategy": "group", "group_size": columns}
    )


def _input_arguments(fmt: TensorFormat, *, static: bool) -> dict[str, Any]:
    """Return the arguments of inputs, whose scales are static or fitted at each call."""
    arguments = _weight_arguments(fmt)
    if static:
        if arguments["strategy"] != "tensor" or not arguments["symmetric"]:
            raise ValueError(
                f"static inputs must have one scale a layer and no zero point, got {fmt.name}"
            )
        return arguments | {"dynamic": False}
    if not isinstance(getattr(unwrapped(fmt), "range", None), AbsMax):
        raise ValueError(f"inputs must have scales of their largest magnitudes, got {fmt.name}")
    if arguments["strategy"] == "block":
        raise ValueError(f"inputs must not share scales between tokens, got {fmt.name}")
    if arguments["strategy"] == "channel":
        return arguments | {"strategy": "token", "dynamic": True}
    if arguments["strategy"] == "tensor_group":
        scale = getattr(unwrapped(fmt), "scale", None)
        if isinstance(scale, NVFP4Scale) and scale.levels != 1:
            raise ValueError(
                f"the outer scale of NVFP4 inputs must be fixed, got {fmt.name}, which fits one at each call; "
                "give the rule input nvfp4_1lvl"
            )
        return arguments | {"dynamic": "local"}
    return arguments | {"dynamic": True}


def _input_scales(layer: QuantizedLayer, scheme: Any) -> dict[str, Tensor]:
    """Return what is stored of the scales of inputs."""
    if layer.input_scales is not None and layer.input is not None:
        element = layer.input.element
        step = element.step if isinstance(element, Integer) else 1.0
        return {"input_scale": layer.input_scales.planes[0].values.reshape(1) * step}
    if scheme.input_activations and scheme.input_activations.dynamic == "local":
        # Block scales alone: their outer scale is 1.
        return {"input_global_scale": torch.ones(1)}
    return {}


def _pack_integers(layer: QuantizedLayer, scheme: Any) -> Packed:
    found = integers(layer)
    middle = 2 ** (found.bits - 1)
    codes = (found.codes - middle).to(torch.int8)
    zeros = None if found.zeros is None else (found.zeros - middle).to(torch.int8)
    scale = _stored(found.scales, layer.format)
    tensors = {"weight_scale": _shaped(scale, scheme)}
    if scheme.format.value == "pack-quantized":
        pack = _library("compressors.pack_quantized.helpers").pack_to_int32
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
    inner, *outer = weight.scales.planes
    scale, error = inner.values, 0.0
    tensors: dict[str, Tensor] = {}
    if scheme.weights.strategy == "tensor_group":
        whole = outer[0].values.reshape(1) if outer else torch.ones(1)
        tensors["weight_global_scale"] = 1.0 / whole
        # Readers divide by 1 / g where the recipe multiplies by g.
        error = relative_error(scale / tensors["weight_global_scale"], scale * whole)
        scale = scale.to(torch.float8_e4m3fn)
    elif scheme.weights.scale_dtype is torch.uint8:
        # frexp's fraction is 1/2, so that its exponent is one more than that of the power of two.
        scale = (torch.frexp(scale).exponent - 1 + E8M0_BIAS).to(torch.uint8)
    tensors["weight_scale"] = _shaped(scale, scheme)
    if weight.element.bits == 8:
        tensors["weight"] = weight.codes.view(torch.float8_e4m3fn)
    elif weight.element.bits == 6:
        pack = _library("compressors.mxfp6.helpers").pack_fp6_to_uint8
        tensors["weight_packed"] = pack(weight.element.decode(weight.codes))
    else:
        pack = _library("compressors.nvfp4.helpers").pack_fp4_to_uint8
        tensors["weight_packed"] = pack(weight.element.decode(weight.codes))
    return Packed(tensors=tensors, scale_error=error)


def _stored(scales: Tensor, fmt: TensorFormat) -> Tensor:
    """Return scales in the type that the format keeps them in."""
    rule = getattr(unwrapped(fmt), "scale", None)
    storage = rule.storage if isinstance(rule, FloatScale) else None
    return scales.to(SCALE_TYPES[storage.name]) if isinstance(storage, Native) else scales


def _shaped(scale: Tensor, scheme: Any) -> Tensor:
    """Return scales in the shape that the library gives them: one of a tensor is a vector."""
    return scale.reshape(1) if scheme.weights.strategy == "tensor" else scale


def _ignored(contents: Contents) -> list[str]:
    """Return the layers that stay in float: paths, but patterns for experts, which are thousands. Readers try each entry on each layer."""
    experts = [path for path in contents.kept if len(re.findall(r"\.\d+(?=\.)", path)) > 1]
    alone = set(experts)
    named = [path for path in contents.kept if path not in alone]
    return [
        *contents.known_as(named),
        *(f"re:{text}" for text in patterns(experts, contents.quantized)),
    ]


def _groups(contents: Contents) -> list[Any]:
    """Return one scheme for each kind of layer, with the targets that it is for."""
    kinds: dict[str, tuple[Any, list[str]]] = {}
    for path, rule in contents.quantized.items():
        scheme = _scheme(rule)
        kinds.setdefault(scheme.model_dump_json(), (scheme, []))[1].append(path)
    for scheme, paths in kinds.values():
        embedding = [path for path in paths if path == contents.embedding]
        linears = [path for path in paths if path != contents.embedding]
        others = [*(contents.quantized.keys() - set(paths)), *contents.kept]
        if len(kinds) == 1 and linears:
            # The class of vLLM's head is not "Linear", so name it.
            head = [path for path in paths if path == contents.head]
            scheme.targets = ["Linear", *contents.known_as([*embedding, *head])]
        else:
            texts = patterns(contents.known_as(linears), contents.known_as(others))
            scheme.targets = [*(f"re:{text}" for text in texts), *contents.known_as(embedding)]
    return [scheme for scheme, _ in kinds.values()]
