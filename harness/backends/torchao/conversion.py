"""A float layer becomes a torchao layer with our codes, and the audit of such a layer.

Steps of a conversion:

1. `quantize_` makes torchao's layer of one linear layer, as for any user of torchao.
2. Its weight must be the tensor class that was asked for: torchao leaves a layer in float, without
   a word, where it does not support the sizes.
3. Our codes and scales take the place of its own, in inner tensors of the same shapes and types.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from harness.backends.base import Installed
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.backends.torchao.choice import tensor_for
from harness.backends.torchao.library import INSTALL, torchao
from harness.backends.torchao.weight_tensor import WeightTensor
from harness.errors import AuditError, UnsupportedRecipe
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.tensor import QuantizedTensor


def linear_of(target: Target) -> nn.Linear:
    """Return the float layer of a target.

    Raises:
        UnsupportedRecipe: It is an embedding or a stack of experts.
    """
    linear = target.linear
    if linear is None:
        raise UnsupportedRecipe(
            f"torchao's weights are for linear layers, got {target.name}, which is none; "
            "add it to quant.skip"
        )
    return linear


def tensor_of(layer: QuantizedLayer, loaded: LoadedModel) -> WeightTensor:
    """Return the weight tensor for a layer.

    Raises:
        UnsupportedRecipe: torchao has none that fits.
    """
    static = layer.input_scales is not None
    rule = LayerRule(match=layer.name, weight=layer.format, input=layer.input, static_input=static)
    tensor = tensor_for(rule, loaded.device)
    reason = tensor if isinstance(tensor, str) else tensor.unsupported(layer, loaded.dtype)
    if isinstance(tensor, str) or reason is not None:
        raise UnsupportedRecipe(f"layer {layer.name}: {reason}; or add the layer to quant.skip")
    return tensor


def linear_with(
    weight: torch.Tensor, bias: nn.Parameter | None, kind: type[nn.Linear] = nn.Linear
) -> nn.Linear:
    """Return a layer around a weight `[N, K]` and the bias of another layer."""
    rows, columns = weight.shape
    # On the meta device no weight is allocated: the given one takes its place.
    linear = kind(columns, rows, bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = bias  # type: ignore[assignment]
    return linear


def converted_weight(
    tensor: WeightTensor, weight: torch.Tensor, codes: QuantizedTensor
) -> torch.Tensor:
    """Return torchao's tensor for a float weight, with our codes and scales in it.

    Raises:
        UnsupportedRecipe: torchao does not take the weight.
        AuditError: torchao left it in float, or its tensor has another layout than `packing` knows.
    """
    made = made_by_torchao(linear_with(weight.detach(), None), tensor.config())
    return filled(tensor, made, codes)


def made_by_torchao(linear: nn.Linear, config: Any) -> Any:
    """Return the weight of a layer after `quantize_`.

    Raises:
        UnsupportedRecipe: torchao does not take the layer.
    """
    # torchao may replace the layer instead of changing it, for which it must be a child.
    holder = nn.Sequential(linear)
    weight = linear.weight
    try:
        torchao("quantization").quantize_(holder, config, filter_fn=lambda m, _: m is linear)
    except (AssertionError, ImportError, NotImplementedError, ValueError) as reason:
        raise UnsupportedRecipe(
            f"torchao must take a weight {tuple(weight.shape)} of {weight.dtype} on "
            f"{weight.device}, got: {reason}; choose another recipe, or add the layer to quant.skip"
        ) from reason
    return holder[0].weight


def filled(tensor: WeightTensor, made: Any, codes: QuantizedTensor) -> torch.Tensor:
    """Return a tensor of torchao's with our codes and scales in the place of its own.

    Raises:
        AuditError: It is not the tensor that was asked for, or has another layout than `packing`
            knows.
    """
    # By name: in which module torchao defines the class does not matter.
    if type(made).__name__ != tensor.name:
        raise AuditError(
            f"torchao must make an {tensor.name}, got {type(made).__name__}; {INSTALL}"
        )
    # A wrapper subclass is its inner tensors and some attributes.
    names, attributes = made.__tensor_flatten__()
    inner = {name: getattr(made, name) for name in names}
    packed: Mapping[str, torch.Tensor] = tensor.pack(codes, made)
    for name, part in packed.items():
        if (part.shape, part.dtype) != (inner[name].shape, inner[name].dtype):
            raise AuditError(
                f"{tensor.name}.{name} must be {part.dtype} {tuple(part.shape)}, got "
                f"{inner[name].dtype} {tuple(inner[name].shape)}; {INSTALL}"
            )
        # A copy: the audit must not compare with the very memory that it checks.
        inner[name] = part.clone()
    result: torch.Tensor = type(made).__tensor_unflatten__(inner, attributes, None, None)
    return result


def inspected(
    module: nn.Module, tensor: WeightTensor, layer: QuantizedLayer, values: torch.Tensor
) -> Installed:
    """Return what a layer is now, compared with a weight tensor that holds `values` `[N, K]`."""
    weight: Any = getattr(module, "weight", None)
    return Installed(
        kernel=f"torchao {tensor.name}: {tensor.matmul}",
        stored_bytes=0 if weight is None else inner_bytes(weight),
        fault=_fault(weight, tensor, layer, values),
    )


def inner_bytes(weight: torch.Tensor) -> int:
    """Return the memory of a tensor, or of the inner tensors of a wrapper [byte]."""
    if not hasattr(weight, "__tensor_flatten__"):
        return weight.nbytes
    names, _ = weight.__tensor_flatten__()
    return sum(getattr(weight, name).nbytes for name in names)


def _fault(
    weight: Any, tensor: WeightTensor, layer: QuantizedLayer, values: torch.Tensor
) -> str | None:
    if type(weight).__name__ != tensor.name:
        return f"a weight of type {type(weight).__name__} in the place of torchao's {tensor.name}"
    # The tensor itself holds how activations are rounded.
    rounds = getattr(weight, "act_quant_kwargs", None) is not None
    if rounds != (layer.input is not None):
        return f"activations are {'rounded' if rounds else 'not rounded'} by the weight in place"
    read, expected = tensor.read(weight), tensor.columns(values)
    # Equal where torchao dequantizes; within rounding where values come out of a matmul.
    bound = 0.0 if tensor.rounding is None else tensor.rounding[weight.dtype]
    if (
        read.shape != expected.shape
        or not ((read - expected).abs() <= bound * expected.abs()).all()
    ):
        return (
            "the weight in place has other values than its codes, "
            f"with relative errors above {bound:g}"
        )
    return None
