"""torchao (0.18): its weight tensors and the products that torch has for them.

`quantize_` turns one linear layer at a time into torchao's, as any user of torchao would; then our codes and scales take the place
of those it chose (`torchao_layouts` says how they differ). So what `task=parity` finds is the arithmetic of the kernels:

    INT8 weight-only    codes widened to the model's type, times the input, times the scale rounded to that type
    INT8 with inputs    exact integer sums; the result is rounded before and after the scale of the row
    INT4                the weight is (code - 8) * scale, in float32 or rounded; sums in float32
    FP8, NVFP4 weights  dequantized to the model's type at each call, which is what the fake path holds

torchao skips what it cannot do: an INT4 weight whose rows its group does not divide and an FP8 weight whose sizes 16 does
not divide stay in float. Here each is refused, and the audit looks at the type in place, its values, and whether it rounds inputs.
IntxUnpackedToInt8Tensor is not offered: it stores a byte for each weight whatever the format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from harness.backends.base import ROUNDING, Installed, install
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.backends.torchao.layouts import Layout, choose
from harness.backends.torchao.packing import torchao
from harness.errors import AuditError, UnsupportedRecipe
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.tensor import QuantizedTensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchaoBackend:
    """torchao's tensors and kernels; see the module docstring and `Backend`."""

    name: ClassVar[str] = "torchao"
    kind: ClassVar[Literal["real"]] = "real"
    tolerance: ClassVar[Mapping[str, float]] = ROUNDING

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Return what is missing: torchao itself, a tensor for a format, or a device for a kernel."""
        return unsupported(rules, device)

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put a linear layer with torchao's weight in the place of the float one, which stays as it is."""
        linear = linear_of(target)
        layout = layout_of(layer, loaded)
        weight = converted(layout, linear.weight.contiguous(), layer.weight)
        install(loaded, target, linear_with(weight, linear.bias))

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Compare type, treatment of the input and values in place with the layer."""
        module = loaded.module.get_submodule(target.name)
        return inspected(module, layout_of(layer, loaded), layer, layer.weight.dequantize())


def unsupported(rules: Sequence[LayerRule], device: torch.device) -> str | None:
    """Return why torchao cannot run some rule on a device, or None."""
    try:
        torchao("quantization")
    except ImportError as reason:
        return f"torchao cannot be imported ({reason}); pip install 'torchao>=0.18'"
    found = (choose(rule, device) for rule in rules)
    return next((reason for reason in found if isinstance(reason, str)), None)


def linear_of(target: Target) -> nn.Linear:
    """Return the float layer of a target.

    Raises:
        UnsupportedRecipe: It is an embedding or a stack of experts.
    """
    linear = target.linear
    if linear is None:
        raise UnsupportedRecipe(
            f"torchao's weights are for linear layers, got {target.name}, which is none; add it to quant.skip"
        )
    return linear


def layout_of(layer: QuantizedLayer, loaded: LoadedModel) -> Layout:
    """Return the tensor for a layer.

    Raises:
        UnsupportedRecipe: torchao has none that fits.
    """
    static = layer.input_scales is not None
    rule = LayerRule(match=layer.name, weight=layer.format, input=layer.input, static_input=static)
    layout = choose(rule, loaded.device)
    reason = layout if isinstance(layout, str) else layout.refuse(layer, loaded.dtype)
    if isinstance(layout, str) or reason is not None:
        raise UnsupportedRecipe(f"layer {layer.name}: {reason}; or add the layer to quant.skip")
    return layout


def converted(layout: Layout, weight: torch.Tensor, codes: QuantizedTensor) -> torch.Tensor:
    """Return torchao's tensor for a float weight, with our codes and scales in it.

    Raises:
        UnsupportedRecipe: torchao refuses the weight.
        AuditError: It skipped the weight, or lays its tensor out otherwise than `torchao_packing` knows.
    """
    return filled(
        layout, made_by_torchao(linear_with(weight.detach(), None), layout.config()), codes
    )


def made_by_torchao(linear: nn.Linear, config: Any) -> Any:
    """Return the weight of a layer after `quantize_`.

    Raises:
        UnsupportedRecipe: torchao refuses the layer.
    """
    holder = nn.Sequential(linear)
    weight = linear.weight
    try:
        # A layer may be replaced instead of changed, for which it must be a child.
        torchao("quantization").quantize_(holder, config, filter_fn=lambda m, _: m is linear)
    except (AssertionError, ImportError, NotImplementedError, ValueError) as reason:
        raise UnsupportedRecipe(
            f"torchao must take a weight {tuple(weight.shape)} of {weight.dtype} on {weight.device}, got: {reason}; "
            "choose another recipe, or add the layer to quant.skip"
        ) from reason
    return holder[0].weight


def filled(layout: Layout, made: Any, codes: QuantizedTensor) -> torch.Tensor:
    """Return a tensor of torchao's with our codes and scales in the place of its own.

    Raises:
        AuditError: It is not the tensor that was asked for, or lies otherwise than `torchao_packing` knows.
    """
    if type(made).__name__ != layout.tensor:
        raise AuditError(
            f"torchao must make an {layout.tensor}, got {type(made).__name__}; install torchao 0.18 (see constraints.txt)"
        )
    names, attributes = made.__tensor_flatten__()
    inner = {name: getattr(made, name) for name in names}
    for name, part in layout.pack(codes, made).items():
        if (part.shape, part.dtype) != (inner[name].shape, inner[name].dtype):
            raise AuditError(
                f"{layout.tensor}.{name} must be {part.dtype} {tuple(part.shape)}, got {inner[name].dtype} "
                f"{tuple(inner[name].shape)}; install torchao 0.18 (see constraints.txt)"
            )
        # A copy: what the audit compares with must not be the very memory it checks.
        inner[name] = part.clone()
    tensor: torch.Tensor = type(made).__tensor_unflatten__(inner, attributes, None, None)
    return tensor


def linear_with(
    weight: torch.Tensor, bias: nn.Parameter | None, kind: type[nn.Linear] = nn.Linear
) -> nn.Linear:
    """Return a layer around a weight and the bias of another layer."""
    rows, columns = weight.shape
    linear = kind(columns, rows, bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = bias  # type: ignore[assignment]
    return linear


def inspected(
    module: nn.Module, layout: Layout, layer: QuantizedLayer, values: torch.Tensor
) -> Installed:
    """Return what a layer is now, and how it differs from a layout that holds given values."""
    weight: Any = getattr(module, "weight", None)
    return Installed(
        kernel=f"torchao {layout.tensor}: {layout.product}",
        stored_bytes=0 if weight is None else stored_bytes(weight),
        fault=_fault(weight, layout, layer, values),
    )


def stored_bytes(weight: torch.Tensor) -> int:
    """Return the memory of a tensor, of its inner ones if it is a shell around some [byte]."""
    if not hasattr(weight, "__tensor_flatten__"):
        return weight.nbytes
    names, _ = weight.__tensor_flatten__()
    return sum(getattr(weight, name).nbytes for name in names)


def _fault(weight: Any, layout: Layout, layer: QuantizedLayer, values: torch.Tensor) -> str | None:
    if type(weight).__name__ != layout.tensor:
        return f"a weight of type {type(weight).__name__} in the place of torchao's {layout.tensor}"
    rounds = getattr(weight, "act_quant_kwargs", None) is not None
    if rounds != (layer.input is not None):
        return f"inputs are {'rounded' if rounds else 'not rounded'} by the weight in place"
    read, expected = layout.read(weight), layout.columns(values)
    bound = 0.0 if layout.rounding is None else layout.rounding[weight.dtype]
    if (
        read.shape != expected.shape
        or not ((read - expected).abs() <= bound * expected.abs()).all()
    ):
        return (
            f"the weight in place has other values than its codes, by more than {bound:g} of them"
        )
    return None
