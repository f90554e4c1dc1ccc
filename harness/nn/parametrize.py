"""Any named parameter of any module in any format: stored as packed codes, dequantized on access.

    replace_parameter(module, "weight", fmt)        module.weight now returns the dequantized tensor

`bitsandbytes.nn.parametrize.replace_parameter_4bit` does this for NF4 and FP4; here it works for
every format of up to 8 bits. The parameter may be a vector, a matrix or a stack of experts, and the
parameters of one module may have different formats. The attribute has the shape and type of the
float parameter and no gradient. The module's own `forward` dequantizes it once, however often it
reads it.

A state dict has these keys, and none of torch's parametrization keys:

    name                            packed codes, uint8
    name.scale_0, name.zero_point   scales and zero points, always float32
    name.format                     a text as bytes, which loading compares

Loading into a module whose parameter has another format is an error.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from harness.formats.packing import pack, unpack
from harness.nn.exact_buffers import exact_buffers
from harness.quant.primitives import quantize
from harness.quant.tensor import QuantizedTensor, ScalePlane, Scales, TensorFormat


def replace_parameter(module: nn.Module, name: str, fmt: TensorFormat) -> QuantizedTensor:
    """Quantize a parameter of a module in place and return the quantized tensor.

    Args:
        module: Owner of the parameter.
        name: Attribute, without dots.
        fmt: Any format of up to 8 bits.

    Raises:
        AttributeError: The module has no such attribute.
        TypeError: The attribute is not a floating-point parameter.
        ValueError: The format has wider codes, or cannot take the shape.
    """
    parameter = _parameter(module, name)
    if not parameter.is_floating_point():
        raise TypeError(
            f"{type(module).__name__}.{name} must be a floating-point parameter, "
            f"got {parameter.dtype}"
        )
    quantized = quantize(parameter, fmt)
    _install(module, name, quantized, parameter.dtype)
    return quantized


def replace_parameter_prequantized(
    module: nn.Module, name: str, quantized: QuantizedTensor, dtype: torch.dtype
) -> None:
    """Replace a parameter by a tensor that is already quantized.

    Raises:
        AttributeError: The module has no such attribute.
        TypeError: The attribute is not a parameter.
        ValueError: The shapes differ, or codes are wider than 8 bits.
    """
    parameter = _parameter(module, name)
    if parameter.shape != quantized.shape:
        raise ValueError(
            f"{type(module).__name__}.{name} must be replaced by a tensor of its shape "
            f"{tuple(parameter.shape)}, got {tuple(quantized.shape)}"
        )
    _install(module, name, quantized, dtype)


def _parameter(module: nn.Module, name: str) -> nn.Parameter:
    if not hasattr(module, name):
        known = ", ".join(n for n, _ in module.named_parameters(recurse=False)) or "none"
        raise AttributeError(
            f"{type(module).__name__} must have the parameter {name!r}, got only: {known}"
        )
    parameter = getattr(module, name)
    if not isinstance(parameter, nn.Parameter):
        raise TypeError(
            f"{type(module).__name__}.{name} must be an nn.Parameter, "
            f"got {type(parameter).__name__}"
        )
    return parameter


def _install(module: nn.Module, name: str, quantized: QuantizedTensor, dtype: torch.dtype) -> None:
    if quantized.element.bits > 8:
        raise ValueError(
            f"codes must have at most 8 bits to be stored packed, got {quantized.element.name}"
        )
    packed = nn.Parameter(pack(quantized.codes, quantized.element.bits), requires_grad=False)
    # In the place of the float parameter, so that torch's parametrization wraps the codes.
    delattr(module, name)
    module.register_parameter(name, packed)
    dequantize = Dequantize(quantized, dtype)
    # unsafe=True: torch checks that a parametrization keeps the type, and this one does not.
    parametrize.register_parametrization(module, name, dequantize, unsafe=True)
    _keep_during_forward(module)
    _rename_keys(module, name)


class Dequantize(nn.Module):
    """The parametrization: packed codes in, float tensor out."""

    def __init__(self, quantized: QuantizedTensor, dtype: torch.dtype) -> None:
        """Keep all but the codes, which torch keeps as the original parameter."""
        super().__init__()
        self.shape, self.dtype = quantized.shape, dtype
        self.frame = replace(quantized, codes=torch.empty(0), scales=Scales())
        self.scales = replace(quantized.scales, unrounded=None)
        for key, plane in _named_planes(self.scales).items():
            self.register_buffer(key, plane.values)
        self.depth = 0
        """Running calls of the module's forward, which may call itself."""
        self.cached: Tensor | None = None

    def label(self) -> Tensor:
        """Return the meaning of codes and scales, as the bytes of a text."""
        planes = [plane.granularity.name for plane in self.scales.all_planes()]
        text = f"{self.frame.element.name} of shape {tuple(self.shape)}, scales {', '.join(planes)}"
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    @torch.no_grad()
    def forward(self, packed: Tensor) -> Tensor:
        """Return the dequantized tensor, without gradient."""
        if self.cached is not None:
            return self.cached
        codes = unpack(packed, self.frame.element.bits, self.shape.numel()).view(self.shape)
        # Scales come from the buffers, which move with the module and are loaded from state dicts.
        planes = {
            key: replace(plane, values=getattr(self, key))
            for key, plane in _named_planes(self.scales).items()
        }
        scales = replace(
            self.scales,
            planes=tuple(plane for key, plane in planes.items() if key.startswith("scale_")),
            zero_point=planes.get("zero_point"),
            offset=planes.get("offset"),
        )
        tensor = replace(self.frame, codes=codes, scales=scales).dequantize().to(self.dtype)
        # Within a forward every read returns this tensor.
        if self.depth:
            self.cached = tensor
        return tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the module. A cast changes the type of the attribute, not of the scales."""
        # `fn` shows the new type on an empty tensor: codes and scales have no type to cast.
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        with exact_buffers(self):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _named_planes(scales: Scales) -> dict[str, ScalePlane]:
    named = {f"scale_{level}": plane for level, plane in enumerate(scales.planes)}
    if scales.zero_point is not None:
        named["zero_point"] = scales.zero_point
    if scales.offset is not None:
        named["offset"] = scales.offset
    return named


def _keep_during_forward(module: nn.Module) -> None:
    """Wrap the module's `forward` so that each parameter is dequantized once in it.

    torch gave this module a class of its own, so wrapping its forward changes no other module. A
    hook would not run after an exception.
    """
    cls: Any = type(module)
    inner = cls.forward
    if getattr(inner, "keeps_parameters", False):
        return

    @wraps(inner)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = [part for part in self.parametrizations.modules() if isinstance(part, Dequantize)]
        for part in own:
            part.depth += 1
        try:
            return inner(self, *args, **kwargs)
        finally:
            for part in own:
                part.depth -= 1
                # The outermost call is over: free the float tensor.
                if not part.depth:
                    part.cached = None

    forward.keeps_parameters = True  # type: ignore[attr-defined]
    cls.forward = forward


def _rename_keys(module: nn.Module, name: str) -> None:
    """Rename keys of state dicts, on saving and loading.

    parametrizations.weight.original    <->  weight
    parametrizations.weight.0.scale_0   <->  weight.scale_0
    """
    inner = f"parametrizations.{name}."

    def after_saving(owner: Any, state: dict[str, Any], prefix: str, *_: object) -> None:
        start = prefix + inner
        state[f"{prefix}{name}.format"] = owner.parametrizations[name][0].label()
        for key in [key for key in state if key.startswith(start)]:
            rest = key.removeprefix(start)
            outer = name if rest == "original" else f"{name}.{rest.removeprefix('0.')}"
            state[prefix + outer] = state.pop(key)

    def before_loading(
        owner: Any,
        state: dict[str, Any],
        prefix: str,
        _metadata: object,
        _strict: object,
        _missing: object,
        _unexpected: object,
        errors: list[str],
    ) -> None:
        start = prefix + name
        own, found = owner.parametrizations[name][0].label(), state.pop(f"{start}.format", None)
        if found is not None and not torch.equal(own, found.to(own.device)):
            texts = [bytes(label.tolist()).decode() for label in (own, found)]
            errors.append(f"{start} must be stored as {texts[0]}, got {texts[1]}")
        for key in [key for key in state if key == start or key.startswith(f"{start}.")]:
            rest = key.removeprefix(start).removeprefix(".")
            state[f"{prefix}{inner}{f'0.{rest}' if rest else 'original'}"] = state.pop(key)

    module.register_state_dict_post_hook(after_saving)  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(before_loading)  # type: ignore[no-untyped-call]
