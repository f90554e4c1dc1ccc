"""NF4 and FP4 in the 4-bit layers of bitsandbytes (0.50).

How it works
    A `Linear4bit` gets our codes and scales, not the float weight to quantize once more. It
    dequantizes the weight to the model's type, bit for bit as the fake path, and multiplies: in two
    steps on a CPU, in one kernel for few tokens on a GPU. Stacks of experts are kept packed
    (`expert_stacks`).

How it differs from the fake path
    In the order of sums alone: not at all in float32 on a CPU, by the noise of the type otherwise.
    SmolLM2-135M: 0.036 nat/token in bfloat16, where the fake path multiplies in float32, and
    0.005 in float16.

Layout rules
    On a CPU each row must be a whole number of blocks. bitsandbytes 0.50 dequantizes wrongly with
    AVX-512 where a block runs on into the next row (`tests/parity/test_bitsandbytes.py`).

What is kept off
    For CPUs with AVX512-BF16 bitsandbytes has a second packing, which rounds the scales to bfloat16
    at the first forward. Without it the layer multiplies what the audit compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from harness.backends.base import MATMUL_TOLERANCE, Installed, install
from harness.backends.bitsandbytes.expert_stacks import inspect_stack, pack_stack
from harness.backends.bitsandbytes.library import (
    as_installed,
    bitsandbytes,
    not_installed,
    unsupported_by_library,
)
from harness.backends.bitsandbytes.packing import inspect_packed, packed_codes, quant_state
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.errors import UnsupportedRecipe
from harness.formats.codebook import Codebook
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import QLoRAScale
from harness.quant.tensor import QuantizedTensor, TensorFormat

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Block sizes of bitsandbytes' 4-bit kernels."""
CODEBOOKS = (Codebook(name="nf4"), Codebook(name="fp4"))
LINEAR_KERNEL = "bitsandbytes.matmul_4bit"


@dataclass(frozen=True, kw_only=True, slots=True)
class BitsandbytesBackend:
    """4-bit layers of bitsandbytes with our codes; see the module docstring and `Backend`."""

    name: ClassVar[str] = "bitsandbytes"
    kind: ClassVar[Literal["real"]] = "real"
    tolerance: ClassVar[Mapping[str, float]] = MATMUL_TOLERANCE

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Return what is missing, or None: the library, a device, or a layer for a format."""
        return unsupported_by_library(rules, device, _unsupported)

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put a `Linear4bit` or a packed stack in place; the float module is not changed."""
        _check_shape(target, layer, loaded.device)
        if (linear := target.linear) is not None:
            install(loaded, target, _linear(linear, layer.weight, loaded.dtype))
        else:
            pack_stack(loaded, target, layer)

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Compare type, state, codes and values in place with the layer; count what is stored."""
        if target.linear is None:
            return inspect_stack(loaded, target, layer)
        module = loaded.module.get_submodule(target.name)
        bnb = bitsandbytes("nn")
        if not isinstance(module, bnb.Linear4bit) or not isinstance(module.weight, bnb.Params4bit):
            return not_installed(LINEAR_KERNEL, module, "Linear4bit")
        state = module.weight.quant_state
        return inspect_packed(LINEAR_KERNEL, module.weight, state, layer, loaded.dtype)


def _unsupported(rule: LayerRule) -> str | None:
    """Return why no 4-bit layer does what a rule says, or None."""
    if not _is_four_bits(rule.weight):
        return (
            f"its 4-bit layers hold nf4 and fp4 in flat blocks of "
            f"{', '.join(map(str, BLOCK_SIZES))} (as nf4_b64, fp4_b64_dq), got {rule.weight.name}; "
            "choose quant=bnb_nf4 or bnb_fp4, or bnb_int8 for INT8"
        )
    if rule.input is not None:
        return (
            "its 4-bit layers leave activations in float, "
            f"got activations in {rule.input.name}; leave input out of the rule"
        )
    return None


def _is_four_bits(fmt: TensorFormat) -> bool:
    """Say whether a format is one of bitsandbytes' 4-bit ones, in every part."""
    if not isinstance(fmt, BlockScaled) or not isinstance(fmt.scale, QLoRAScale):
        return False
    size = fmt.granularity.block[1]
    # Compared as a whole: another range, rounding or tail would be another format.
    plain = BlockScaled(
        element=fmt.element, granularity=Granularity(block=(1, size), flat=True), scale=fmt.scale
    )
    return fmt == plain and fmt.element in CODEBOOKS and size in BLOCK_SIZES


def _check_shape(target: Target, layer: QuantizedLayer, device: torch.device) -> None:
    """Check that bitsandbytes can hold a weight, and reads it rightly.

    Raises:
        UnsupportedRecipe: It cannot, or would dequantize it to other values.
    """
    shape = tuple(layer.weight.shape)
    # A parametrization changes one parameter of one module: no shared stacks, no other layouts.
    is_stack = len(shape) == 3 and target.layout is None and not target.shared
    if target.linear is None and not is_stack:
        raise UnsupportedRecipe(
            "4-bit layers of bitsandbytes are linear layers and stacks of experts "
            f"[experts, out, in], got {target.name} {tuple(target.weight.shape)}; "
            "add it to quant.skip"
        )
    size = layer.format.granularity.block[1]
    if device.type == "cpu" and shape[-1] % size:
        raise UnsupportedRecipe(
            f"rows must be whole blocks of {size} for bitsandbytes on a CPU, which takes the "
            f"scales of other blocks where a block runs on into the next row, got {target.name} "
            f"{shape}; choose a quant.group_size that divides {shape[-1]}, or add it to quant.skip"
        )


def _linear(linear: nn.Linear, weight: QuantizedTensor, dtype: torch.dtype) -> nn.Module:
    """Return a `Linear4bit` with our codes and the bias of a float layer."""
    bnb = bitsandbytes("nn")
    state = quant_state(weight, dtype)
    options = {"compress_statistics": state.nested, "quant_type": state.quant_type}
    # On the meta device no weight is allocated: the codes take its place.
    made = bnb.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=False,
        compute_dtype=dtype,
        device="meta",
        **options,
    )
    made.weight = bnb.Params4bit(
        packed_codes(weight.codes),
        quant_state=state,
        blocksize=state.blocksize,
        module=made,
        # Codes already: moving the layer to a device must not quantize them.
        bnb_quantized=True,
        **options,
    )
    made.quant_state = state
    # The second packing would round the scales at the first forward; see the module docstring.
    made.support_avx512bf16_for_cpu = False
    return as_installed(made, linear.bias)
