"""What a checkpoint that is quantized already says of itself: method, formats, sizes.

`config.json` names the method and its settings, each library in words of its own. Sizes are counted, not computed from bits: those of
the tensors in the files, which is the size of the model, and those in memory, which is what runs. Many a method is dequantized
before it multiplies; then the codes take no less memory than float weights, and speed is that of the float model.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from harness.models.folder_files import QUANTIZATION_KEYS, weight_files

FLOATS = {"F16", "BF16", "F32", "F64"}
"""Types of float weights, as safetensors names them."""

Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prequantized:
    """A model whose weights were quantized before it came here."""

    method: str
    """As `config.json` names it, such as `gptq` or `compressed-tensors`."""
    scheme: str
    """Formats of weights and inputs, such as `int4 weights in groups of 128`."""
    kind: Literal["fake-quant", "real"]
    """`real`: codes are what lies in memory and multiplies. `fake-quant`: they were dequantized when the model was loaded."""
    num_parameters: int
    """Parameters of the float model."""
    num_quantized: int
    """Those of them that the files hold as codes."""
    file_bytes: int
    """Tensors in the files: codes, scales, and what stayed in float [byte]."""
    float_file_bytes: int
    """Those of them that are float weights [byte]."""
    stored_bytes: int
    """Tensors in memory [byte]."""

    @property
    def origin(self) -> str:
        """What the weights are, in words."""
        how = "dequantized " if self.kind == "fake-quant" else ""
        return f"{how}{self.method} checkpoint ({self.scheme})"

    @property
    def bits_per_weight(self) -> float:
        """Mean over the quantized parameters, scales included [bit]; NaN if there are none."""
        packed = 8 * (self.file_bytes - self.float_file_bytes)
        return packed / self.num_quantized if self.num_quantized else float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A tensor in a file."""

    dtype: str
    """As safetensors names it, such as `BF16` or `I32`."""
    numel: int
    nbytes: int


def settings_of(folder: Path) -> Settings | None:
    """Return what `config.json` says of quantization, or None; a damaged file is for transformers to refuse."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    text = config.get("text_config")
    places = (config, text if isinstance(text, dict) else {})
    found = (place.get(key) for place in places for key in QUANTIZATION_KEYS)
    return next((settings for settings in found if isinstance(settings, dict)), None)


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Return what the headers of a folder's safetensors files say; a damaged file counts as empty."""
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, "pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - it is no mapping
                    part = opened.get_slice(key)
                    found[key] = _stored(part.get_dtype(), part.get_shape())
        except (OSError, SafetensorError):
            continue
    return found


def _stored(dtype: str, shape: list[int]) -> Stored:
    numel = 1
    for size in shape:
        numel *= size
    digits = "".join(character for character in dtype.partition("_")[0] if character.isdigit())
    bits = 8 if dtype == "BOOL" else int(digits)
    return Stored(dtype=dtype, numel=numel, nbytes=numel * bits // 8)


def float_weights(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the weights and biases that files hold in float: no codes, and nothing that belongs to codes."""
    owners = {key.rpartition(".")[0] for key in tensors}
    return {
        key: tensor
        for key, tensor in tensors.items()
        if key.rpartition(".")[2] in ("weight", "bias")
        and tensor.dtype in FLOATS
        # bitsandbytes may store codes as if they were floats; their statistics are named after them.
        and key not in owners
    }


def scheme(settings: Settings) -> str:
    """Return formats of weights and inputs in words."""
    return SCHEMES.get(str(settings.get("quant_method")), _of_others)(settings)


def _of_compressed_tensors(settings: Settings) -> str:
    groups = settings.get("config_groups") or {}
    return "; ".join(_group(group) for group in groups.values()) or _of_others(settings)


def _group(group: Settings) -> str:
    parts = []
    for key, noun in (("weights", "weights"), ("input_activations", "inputs")):
        if numbers := group.get(key):
            kind = "fp" if numbers.get("type") == "float" else "int"
            where = f"by {numbers.get('strategy')}"
            if size := numbers.get("group_size"):
                where = f"in groups of {size}"
            static = ", static" if key != "weights" and not numbers.get("dynamic") else ""
            sign = "" if numbers.get("symmetric", True) else ", asymmetric"
            parts.append(f"{kind}{numbers.get('num_bits')} {noun} {where}{sign}{static}")
    return ", ".join(parts)


def _of_gptq(settings: Settings) -> str:
    size = settings.get("group_size", -1)
    where = "by row" if size == -1 else f"in groups of {size}"
    order = ", in the order of activations" if settings.get("desc_act") else ""
    return f"int{settings.get('bits')} weights {where}{order}"


def _of_bitsandbytes(settings: Settings) -> str:
    if settings.get("load_in_8bit"):
        return f"LLM.int8, threshold {settings.get('llm_int8_threshold', 6.0)}"
    double = ", double quantization" if settings.get("bnb_4bit_use_double_quant") else ""
    return f"{settings.get('bnb_4bit_quant_type', 'fp4')} weights{double}"


def _of_fp8(settings: Settings) -> str:
    block = settings.get("weight_block_size")
    return f"fp8 weights {'in blocks of ' + 'x'.join(map(str, block)) if block else 'by tensor'}"


def _of_torchao(settings: Settings) -> str:
    kind = settings.get("quant_type")
    default: Any = kind.get("default") if isinstance(kind, dict) else kind
    return str(default.get("_type") if isinstance(default, dict) else default)


def _of_others(settings: Settings) -> str:
    """Return the plain settings of a method that is not known here."""
    plain = {
        key: value
        for key, value in settings.items()
        if key != "quant_method" and isinstance(value, str | int | float)
    }
    return ", ".join(f"{key}={value}" for key, value in sorted(plain.items()))


SCHEMES: Mapping[str, Callable[[Settings], str]] = {
    "compressed-tensors": _of_compressed_tensors,
    "gptq": _of_gptq,
    "bitsandbytes": _of_bitsandbytes,
    "fp8": _of_fp8,
    "torchao": _of_torchao,
}
