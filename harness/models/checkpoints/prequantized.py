"""Facts about a quantized checkpoint: method, formats, sizes.

`config.json` names the method and its settings, each library in words of its own. Sizes are those of tensors, not computed from
bits: in the files, and in memory. Most methods are dequantized when they are loaded; then memory and speed are those of the float model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from harness.errors import ModelError
from harness.models.checkpoints.folder_files import (
    CONFIG,
    QUANTIZATION_KEYS,
    json_object,
    weight_files,
)
from harness.paths import is_file

FLOATS = {"F16", "BF16", "F32", "F64"}
"""Types of float weights, as safetensors names them."""

Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prequantized:
    """What is known of a model whose checkpoint is quantized."""

    method: str
    """As `config.json` names it, such as `gptq` or `compressed-tensors`."""
    scheme: str
    """Formats of weights and inputs, such as `int4 weights in groups of 128`."""
    kind: Literal["fake-quant", "real"]
    """`real`: memory holds codes, and kernels multiply them. `fake-quant`: codes were dequantized when the model was loaded."""
    num_parameters: int
    """Parameters of the float model."""
    num_quantized: int
    """Parameters that the files hold as codes."""
    packed_bits: int
    """Size of codes at the width of their format, and of scales and zero points [bit]."""
    file_bytes: int
    """Tensors in the files: codes, scales, and what stayed in float [byte]."""
    stored_bytes: int
    """Tensors in memory [byte]."""
    inputs: str | None = None
    """What layers round their inputs to, such as `int8 by token`; None leaves them in float."""
    outputs: str | None = None
    """What layers round their outputs to."""
    cache: str | None = None
    """What keys and values are rounded to before the cache takes them."""
    warnings: tuple[str, ...] = ()
    """What a user must know of how the checkpoint was loaded."""
    num_unused: int = 0
    """Parameters that a text run does not need, such as those of a vision tower."""
    num_unused_codes: int = 0
    """Those of them that the files hold as codes."""

    @property
    def coverage(self) -> float:
        """Share of the parameters of a text run that the files hold as codes."""
        return (self.num_quantized - self.num_unused_codes) / (
            self.num_parameters - self.num_unused
        )

    @property
    def origin(self) -> str:
        """What the weights are, in words."""
        how = "dequantized " if self.kind == "fake-quant" else ""
        return f"{how}{self.method} checkpoint ({self.scheme})"

    @property
    def bits_per_weight(self) -> float:
        """Mean over the quantized parameters, scales included [bit]; NaN if there are none."""
        return self.packed_bits / self.num_quantized if self.num_quantized else float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A tensor in a file."""

    dtype: str
    """As safetensors names it, such as `BF16` or `I32`."""
    numel: int
    nbytes: int


def names_a_quantization(folder: Path) -> bool:
    """Whether `config.json` says how weights are quantized, not a file beside it."""
    return _in_config(folder) is not None


def settings_of(folder: Path) -> Settings | None:
    """Return the quantization settings of a folder, or None: those of `config.json`, or of the file that ModelOpt writes beside it.

    A damaged config.json counts as none here: `weight_files` refuses it.
    """
    config = _in_config(folder)
    return config if config is not None else _modelopt(folder)


def _in_config(folder: Path) -> Settings | None:
    try:
        config = json_object(folder / CONFIG)
    except ValueError:
        return None
    text = config.get("text_config")
    found = [
        next((said for key in QUANTIZATION_KEYS if isinstance(said := place.get(key), dict)), None)
        for place in (config, text if isinstance(text, dict) else {})
    ]
    if None not in found and found[0] != found[1]:
        raise ModelError(
            f"a config.json must have one quantization_config, got another one in text_config of {folder}; "
            "take out the one that is not that of its files"
        )
    return found[0] if found[0] is not None else found[1]


def _modelopt(folder: Path) -> Settings | None:
    if not is_file(folder / MODELOPT_FILE):
        return None
    try:
        said = json_object(folder / MODELOPT_FILE).get("quantization")
    except ValueError as reason:
        raise ModelError(
            f"a model folder must be one that its tool wrote, but {folder} {reason}; download it again, or take the file out if the "
            "weights are float ones"
        ) from reason
    # An unquantized model may have the file too.
    if not isinstance(said, dict) or not any(said.get(key) for key in MODELOPT_KEYS):
        return None
    return {"quant_method": "modelopt", **said}


MODELOPT_FILE = "hf_quant_config.json"
MODELOPT_KEYS = ("quant_algo", "kv_cache_quant_algo")


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


def damaged_weights(folder: Path) -> str | None:
    """Return the name of the first safetensors file that cannot be read, and why; None if all can."""
    for file in weight_files(folder):
        try:
            file.open("rb").close()  # of one that may not be read safetensors says "no such file"
            with safe_open(file, "pt"):
                pass
        except (OSError, SafetensorError) as reason:
            return f"a damaged {file.name} ({reason})"
    return None


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
