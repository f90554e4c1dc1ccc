"""NF4 and FP4 in the layers of bitsandbytes (0.50); `bitsandbytes_int8` has its LLM.int8.

Its layers get our codes and scales, not the float weight to quantize once more. The weight is dequantized to the model's type, bit
for bit that of the fake path, and multiplied: in two steps on a CPU, in one kernel for few tokens on a GPU. Stacks of experts are
kept packed and dequantized as they are read (`bitsandbytes.nn.parametrize`). So real and fake differ in the order of sums:
nothing in float32 on a CPU, the noise of the type otherwise (SmolLM2-135M: 0.036 nat/token in bfloat16, where the fake path
multiplies in float32; 0.005 in float16).

bitsandbytes 0.50 dequantizes wrongly with AVX-512 where blocks run on across rows (`tests/parity/test_bitsandbytes.py`), so on
a CPU rows must be whole blocks. Its second packing, for CPUs with AVX512-BF16, rounds the scales to bfloat16 at the first
forward; it is kept off, so that what was audited is what multiplies.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.backends.base import ROUNDING, Installed, install
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.errors import UnsupportedRecipe
from harness.formats.codebook import Codebook
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import SMALLEST_DIVISOR, STATISTICS, QLoRAScale, dynamic_map
from harness.quant.tensor import QuantizedTensor, TensorFormat

SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Block sizes of its 4-bit kernels."""
OTHER_VALUES = "bitsandbytes dequantizes the codes in place to other values than the layer's"


@dataclass(frozen=True, kw_only=True, slots=True)
class BitsandbytesBackend:
    """Layers of bitsandbytes with our codes; see the module docstring and `Backend`."""

    name: ClassVar[str] = "bitsandbytes"
    kind: ClassVar[Literal["real"]] = "real"
    tolerance: ClassVar[Mapping[str, float]] = ROUNDING

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Return what is missing: the library, a device, or a layer for a format."""
        return missing(device) or next(
            (reason for rule in rules if (reason := _obstacle(rule))), None
        )

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put a layer of bitsandbytes in the place of the float one, which stays as it is."""
        _refuse_shape(target, layer, loaded.device)
        if (linear := target.linear) is not None:
            install(loaded, target, _linear(linear, layer.weight, loaded.dtype))
        else:
            _pack_stack(loaded, target, layer)

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Compare type, state, codes and values in place with the layer; count what is stored."""
        if target.linear is None:
            return _inspect_stack(loaded, target, layer)
        module = loaded.module.get_submodule(target.name)
        kernel, bnb = "bitsandbytes.matmul_4bit", library("nn")
        if not isinstance(module, bnb.Linear4bit) or not isinstance(module.weight, bnb.Params4bit):
            return not_installed(kernel, module, "Linear4bit")
        return _inspect_packed(kernel, module.weight, module.weight.quant_state, layer, loaded)


@cache
def library(module: str) -> Any:
    """Import a module of bitsandbytes, without the warnings that nobody here can act on."""
    with warnings.catch_warnings():
        # It decorates a method with torch.jit as it is imported.
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
        return import_module(f"bitsandbytes.{module}")


def missing(device: torch.device) -> str | None:
    """Return what bitsandbytes lacks to run on a device at all, or None."""
    try:
        library("nn")
    except (ImportError, OSError, RuntimeError) as reason:
        return f"bitsandbytes cannot be imported ({reason}); pip install 'bitsandbytes>=0.50'"
    if device.type not in ("cpu", "cuda"):
        return f"its layers are checked on cpu and cuda only, got {device.type}"
    return None


def _obstacle(rule: LayerRule) -> str | None:
    """Return why no layer of bitsandbytes does what a rule says, or None."""
    if not _is_four_bits(rule.weight):
        return (
            f"its 4-bit layers hold nf4 and fp4 in flat blocks of {', '.join(map(str, SIZES))} (as nf4_b64, fp4_b64_dq), "
            f"got {rule.weight.name}; choose quant=bnb_nf4 or bnb_fp4, or bnb_int8 for INT8"
        )
    if rule.input is not None:
        return f"its 4-bit layers leave inputs in float, got input {rule.input.name}; leave it out"
    return None


def _is_four_bits(fmt: TensorFormat) -> bool:
    """Say whether a format is one of bitsandbytes' 4-bit ones, in every part."""
    if not isinstance(fmt, BlockScaled) or not isinstance(fmt.scale, QLoRAScale):
        return False
    size = fmt.granularity.block[1]
    plain = BlockScaled(
        element=fmt.element, granularity=Granularity(block=(1, size), flat=True), scale=fmt.scale
    )
    known = (Codebook(name="nf4"), Codebook(name="fp4"))
    return fmt == plain and fmt.element in known and size in SIZES


def _refuse_shape(target: Target, layer: QuantizedLayer, device: torch.device) -> None:
    """Raise UnsupportedRecipe for a weight that bitsandbytes cannot hold, or would read wrongly."""
    shape = tuple(layer.weight.shape)
    is_stack = len(shape) == 3 and target.layout is None and not target.shared
    if target.linear is None and not is_stack:
        raise UnsupportedRecipe(
            f"4-bit layers of bitsandbytes are linear layers and stacks of experts [experts, out, in], got {target.name} "
            f"{tuple(target.weight.shape)}; add it to quant.skip"
        )
    size = layer.format.granularity.block[1]
    if device.type == "cpu" and shape[-1] % size:
        raise UnsupportedRecipe(
            f"rows must be whole blocks of {size} for bitsandbytes on a CPU, which takes scales of other blocks where they run "
            f"on across rows, got {target.name} {shape}; choose a quant.group_size that divides {shape[-1]}, or add it to quant.skip"
        )


def _linear(linear: nn.Linear, weight: QuantizedTensor, dtype: torch.dtype) -> nn.Module:
    """Return a `Linear4bit` with our codes; it shares the bias."""
    bnb = library("nn")
    state = _state(weight, dtype)
    made = bnb.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=False,
        compute_dtype=dtype,
        compress_statistics=state.nested,
        quant_type=state.quant_type,
        device="meta",
    )
    made.weight = bnb.Params4bit(
        _packed(weight.codes),
        quant_state=state,
        blocksize=state.blocksize,
        compress_statistics=state.nested,
        quant_type=state.quant_type,
        module=made,
        bnb_quantized=True,
    )
    made.quant_state = state
    made.bias = linear.bias
    made.support_avx512bf16_for_cpu = False
    return frozen(made)


def frozen(made: Any) -> nn.Module:
    """Return a module of bitsandbytes without gradients."""
    module: nn.Module = made
    return module.requires_grad_(False)


def _packed(codes: Tensor) -> Tensor:
    """Return two codes a byte, the first in the high nibble."""
    flat = codes.flatten()
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    return ((flat[::2] << 4) | flat[1::2]).unsqueeze(1)


def _state(weight: QuantizedTensor, dtype: torch.dtype) -> Any:
    """Return what bitsandbytes keeps beside the codes: scales, their own scales, and the tables of values."""
    functional = library("functional")
    plane = weight.scales.planes[0]
    element = weight.element
    parts: dict[str, Any] = {"absmax": plane.values.flatten().clone()}
    if (exact := weight.scales.unrounded) is not None:
        parts = _nested(exact.values.flatten())
    return functional.QuantState(
        shape=weight.shape,
        code=torch.tensor(getattr(element, "levels", ()), device=weight.codes.device),
        blocksize=plane.granularity.block[1],
        quant_type=element.name,
        dtype=dtype,
        **parts,
    )


def _nested(exact: Tensor) -> dict[str, Any]:
    """Return scales as 8-bit codes, under scales of their own and one offset: what `QLoRAScale` decodes to."""
    offset = exact.mean()
    centered = (exact - offset).reshape(1, -1)
    outer = STATISTICS.reduce(centered, lambda blocks, axes: blocks.abs().amax(axes))
    scale = STATISTICS.aligned(outer).clamp(min=SMALLEST_DIVISOR)
    units = (STATISTICS.blocked(centered) * (1.0 / scale)).clamp_(-1, 1)
    book = dynamic_map()
    codes = book.encode(book.round(STATISTICS.unblocked(units, centered.shape)))
    state = library("functional").QuantState(
        absmax=outer.flatten(),
        code=torch.tensor(book.levels, device=exact.device),
        blocksize=STATISTICS.block[1],
        dtype=torch.float32,
    )
    return {"absmax": codes.flatten(), "offset": offset, "state2": state}


def _pack_stack(loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
    """Keep a stack of experts packed; it is dequantized when the module reads it."""
    path = target.name.removesuffix(f".{target.attribute}")
    module = loaded.module.get_submodule(path)
    if module is target.owner:
        module = _twin(target.owner)
        loaded.swap_module(path, module)
    packed = nn.Parameter(_packed(layer.weight.codes), requires_grad=False)
    setattr(module, target.attribute, packed)
    state = _state(layer.weight, loaded.dtype).as_dict()
    library("nn.parametrize").replace_parameter_4bit_prequantized(
        module, target.attribute, state, loaded.device
    )


def _twin(module: nn.Module) -> nn.Module:
    """Return a module with the same parameters and children, which can be changed apart from the first."""
    twin: nn.Module = object.__new__(type(module))
    twin.__dict__.update(
        {
            key: value.copy() if isinstance(value, dict) else value
            for key, value in module.__dict__.items()
        }
    )
    return twin


def not_installed(kernel: str, found: object, wanted: str) -> Installed:
    """Return what is said of a module that is not one of bitsandbytes."""
    fault = f"a {type(found).__name__} is in place, not a {wanted} of bitsandbytes"
    return Installed(kernel=kernel, stored_bytes=0, fault=fault)


def _inspect_stack(loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
    kernel = "bitsandbytes.dequantize_4bit"
    module = loaded.module.get_submodule(target.name.removesuffix(f".{target.attribute}"))
    parametrized: Any = getattr(module, "parametrizations", {})
    if target.attribute not in parametrized:
        return not_installed(kernel, module, "parametrized stack")
    chain = parametrized[target.attribute]
    state = getattr(chain[0], "quant_state", None)
    return _inspect_packed(kernel, chain.original, state, layer, loaded)


def _inspect_packed(
    kernel: str, packed: Tensor, state: Any, layer: QuantizedLayer, loaded: LoadedModel
) -> Installed:
    """Compare packed codes with the layer: bitsandbytes' own values must be the fake path's, bit for bit."""
    if state is None or packed.dtype != torch.uint8:
        fault = f"packed codes with a quant_state must be in place, got {packed.dtype} and {state}"
        return Installed(kernel=kernel, stored_bytes=packed.nbytes, fault=fault)
    values = library("functional").dequantize_4bit(packed.data, state)
    equal = torch.equal(values, layer.weight.dequantize().to(loaded.dtype))
    return Installed(
        kernel=kernel,
        stored_bytes=packed.nbytes + sum(tensor.nbytes for tensor in _tensors(state)),
        fault=None if equal else OTHER_VALUES,
    )


def _tensors(state: Any) -> Iterator[Tensor]:
    """Yield every tensor of a quantization state: scales, table, and those of the scales."""
    for part in vars(state).values():
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, type(state)):
            yield from _tensors(part)
