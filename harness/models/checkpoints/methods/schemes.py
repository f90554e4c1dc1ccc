"""Say the formats of a quantized checkpoint in words, the same words for every library.

    int4 weights in groups of 128
    int8 weights by channel, int8 inputs by token; fp8 KV cache by tensor, static

Records hold these words.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from harness.messages import BATCH_DEPENDENT
from harness.models.checkpoints.settings import Settings


def scheme(settings: Settings) -> str:
    """Return the formats of weights and activations in words."""
    return SCHEMES.get(str(settings.get("quant_method")), _of_others)(settings)


def rounded_inputs(settings: Settings) -> str | None:
    """Return the activation format of layers that bitsandbytes or torchao runs, or None."""
    method = settings.get("quant_method")
    if method == "bitsandbytes" and settings.get("load_in_8bit"):
        return f"int8 by token, features beyond {settings.get('llm_int8_threshold', 6.0)} in float"
    if method == "torchao":
        found = [words.partition(", ")[2] for words in _torchao_configs(settings)]
        return "; ".join(words.replace(" inputs", "") for words in found if words) or None
    return None


def batch_warnings(settings: Settings) -> tuple[str, ...]:
    """Return a warning if layers of LLM.int8 treat a token by the others of its batch."""
    if settings.get("quant_method") != "bitsandbytes" or not settings.get("load_in_8bit"):
        return ()
    effect = outlier_effect(settings.get("llm_int8_threshold", 6.0))
    return (f"{effect}: {BATCH_DEPENDENT}",) if effect else ()


def outlier_effect(threshold: float) -> str | None:
    """Return what LLM.int8 does to a batch, in words; None without outliers."""
    if not threshold:
        return None
    return (
        f"LLM.int8 multiplies a feature in float for all tokens if one reaches {threshold:g} in it"
    )


def _of_compressed_tensors(settings: Settings) -> str:
    # A group may also be the name of one of the library's schemes, such as W8A8, with a list of
    # layers.
    groups = settings.get("config_groups") or {}
    words = [
        _config_group(group) if isinstance(group, Mapping) else name
        for name, group in groups.items()
        if group
    ]
    if cache := settings.get("kv_cache_scheme"):
        words.append(_numbers(cache, "KV cache"))
    return "; ".join(words) or _of_others(settings)


def _config_group(group: Settings) -> str:
    nouns = {
        "weights": "weights",
        "input_activations": "inputs",
        "output_activations": "outputs",
    }
    return ", ".join(
        _numbers(numbers, noun) for key, noun in nouns.items() if (numbers := group.get(key))
    )


def _numbers(numbers: Settings, noun: str) -> str:
    kind = "fp" if numbers.get("type") == "float" else "int"
    where = f"by {numbers.get('strategy')}"
    if size := numbers.get("group_size"):
        where = f"in groups of {size}"
    if sides := numbers.get("block_structure"):
        where = f"in blocks of {sides if isinstance(sides, str) else 'x'.join(map(str, sides))}"
    static = ", static" if noun != "weights" and not numbers.get("dynamic") else ""
    sign = "" if numbers.get("symmetric", True) else ", asymmetric"
    return f"{kind}{numbers.get('num_bits')} {noun} {where}{sign}{static}"


def _of_gptq(settings: Settings) -> str:
    size = settings.get("group_size", -1)
    where = "by row" if size == -1 else f"in groups of {size}"
    order = ", in the order of activations" if settings.get("desc_act") else ""
    return f"int{settings.get('bits')} weights {where}{order}"


def _of_awq(settings: Settings) -> str:
    size = settings.get("group_size", 128)
    return f"int4 weights {'by row' if size == -1 else f'in groups of {size}'}, asymmetric"


def _of_modelopt(settings: Settings) -> str:
    layers = (settings.get("quantized_layers") or {}).values()
    algorithms = {str(layer.get("quant_algo")).upper() for layer in layers}
    names = sorted(algorithms) or [str(settings.get("quant_algo")).upper()]
    return "; ".join(MODELOPT.get(name, name) for name in names)


MODELOPT: Mapping[str, str] = {
    "FP8": "fp8 weights by tensor, fp8 inputs by tensor, static",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8 weights by channel, fp8 inputs by token",
    "FP8_PB_WO": "fp8 weights in blocks",
    "NVFP4": "nvfp4 weights, nvfp4 inputs",
    "W4A16_NVFP4": "nvfp4 weights",
}
"""What each algorithm of ModelOpt does to linear layers."""


def _of_bitsandbytes(settings: Settings) -> str:
    if settings.get("load_in_8bit"):
        return f"LLM.int8, threshold {settings.get('llm_int8_threshold', 6.0)}"
    double = ", double quantization" if settings.get("bnb_4bit_use_double_quant") else ""
    return f"{settings.get('bnb_4bit_quant_type', 'fp4')} weights{double}"


def _of_fp8(settings: Settings) -> str:
    block = settings.get("weight_block_size")
    weights = f"fp8 weights {'in blocks of ' + 'x'.join(map(str, block)) if block else 'by tensor'}"
    if settings.get("activation_scheme") == "static":
        return f"{weights}, fp8 inputs by tensor, static"
    where = f"in groups of {block[1]}" if block else "by token"
    return f"{weights}, fp8 inputs {where}"


def _of_torchao_configs(settings: Settings) -> str:
    return "; ".join(_torchao_configs(settings))


def _torchao_configs(settings: Settings) -> list[str]:
    """Return the words of each configuration: of one for the model, or of several by module."""
    return list(dict.fromkeys(_torchao(config) for config in _torchao_nodes(settings)))


def _torchao_nodes(settings: Settings) -> list[Settings]:
    """Return the configurations in torchao's own form, `{_type, _version, _data}`."""
    kind = settings.get("quant_type")
    found: Any = kind.get("default") if isinstance(kind, Mapping) else kind
    if not isinstance(found, Mapping):
        return [{"_type": str(found)}]
    data = found.get("_data") or {}
    inner = data.get("fqn_to_config") or data.get("module_fqn_to_config")
    nodes = inner.values() if isinstance(inner, Mapping) else [found]
    return [node for node in nodes if isinstance(node, Mapping)]


def _torchao(config: Settings) -> str:
    name = str(config.get("_type"))
    words = TORCHAO.get(name)
    zeros = (config.get("_data") or {}).get("act_mapping_type")
    if words and isinstance(zeros, Mapping) and zeros.get("_data") == "ASYMMETRIC":
        words += ", asymmetric"
    return words.format(where=_where(config), bits=_weight_type(config)) if words else name


def _where(config: Settings) -> str:
    data = config.get("_data") or {}
    granularity = data.get("weight_granularity") or data.get("granularity")
    if isinstance(granularity, list):  # of activations and of weights
        granularity = granularity[-1]
    node: Settings = granularity if isinstance(granularity, Mapping) else {}
    size = (node.get("_data") or {}).get("group_size") or data.get("group_size")
    if node.get("_type") == "PerTensor":
        return "by tensor"
    return f"in groups of {size}" if size else "by row"


def _weight_type(config: Settings) -> str:
    """Return the type of a configuration that allows several, such as `int4`."""
    stored = (config.get("_data") or {}).get("weight_dtype")
    return str(stored.get("_data") if isinstance(stored, Mapping) else stored)


def unused_bits(settings: Settings) -> int:
    """Return the unused bits of a stored code: torchao keeps each INT1 to INT7 in a byte."""
    if settings.get("quant_method") != "torchao":
        return 0
    widths = {
        int(kind.removeprefix("int"))
        for node in _torchao_nodes(settings)
        if "Intx" in str(node.get("_type"))
        and "UNPACKED_TO_INT8" in str(node.get("_data"))
        and re.fullmatch(r"int\d", kind := _weight_type(node))
    }
    return 8 - max(widths) if widths else 0


TORCHAO: Mapping[str, str] = {
    "Int4WeightOnlyConfig": "int4 weights {where}",
    "Int8WeightOnlyConfig": "int8 weights {where}",
    "IntxWeightOnlyConfig": "{bits} weights {where}",
    "Float8WeightOnlyConfig": "fp8 weights {where}",
    "Int8DynamicActivationInt8WeightConfig": "int8 weights {where}, int8 inputs by token",
    "Int8DynamicActivationInt4WeightConfig": "int4 weights {where}, int8 inputs by token",
    "Int8DynamicActivationIntxWeightConfig": "{bits} weights {where}, int8 inputs by token",
    "Float8DynamicActivationFloat8WeightConfig": "fp8 weights {where}, fp8 inputs {where}",
}
"""What each configuration class of torchao does; `where` and `bits` are filled in."""


def _of_others(settings: Settings) -> str:
    """Return the settings of a method without words here, as they are."""
    plain = {
        key: value
        for key, value in settings.items()
        if key != "quant_method" and isinstance(value, str | int | float)
    }
    return ", ".join(f"{key}={value}" for key, value in sorted(plain.items()))


SCHEMES: Mapping[str, Callable[[Settings], str]] = {
    "compressed-tensors": _of_compressed_tensors,
    "gptq": _of_gptq,
    "awq": _of_awq,
    "modelopt": _of_modelopt,
    "bitsandbytes": _of_bitsandbytes,
    "fp8": _of_fp8,
    "torchao": _of_torchao_configs,
    "mxfp4": lambda _: "mxfp4 weights of experts",
}
