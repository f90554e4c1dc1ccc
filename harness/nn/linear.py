"""Put `FakeQuantLinear` layers into a model in place: usual pairs of formats, and their mode."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from torch import nn

from harness.formats.integer import Integer
from harness.nn.fake_quant_linear import FakeQuantLinear, Mode
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat

BYPASSING = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules of torch that hand the weights of their linear layers to fused kernels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Formats of the weight and the activation of a linear layer."""

    weight: TensorFormat
    input: TensorFormat | None = None
    """Format of the activation; None leaves it in float."""


def _preset_format(bits: int, rows: int, columns: int) -> BlockScaled:
    return BlockScaled(element=Integer(bits=bits), granularity=Granularity(block=(rows, columns)))


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "w8a8": Preset(weight=_preset_format(8, 1, -1), input=_preset_format(8, 1, -1)),
        "w8a16": Preset(weight=_preset_format(8, 1, -1)),
        "w4a16": Preset(weight=_preset_format(4, 1, 128)),
        "w4a4": Preset(weight=_preset_format(4, 1, 128), input=_preset_format(4, 1, 128)),
        "w8a8_block": Preset(weight=_preset_format(8, 128, 128), input=_preset_format(8, 1, 128)),
        "w8a16_block": Preset(weight=_preset_format(8, 128, 128)),
    }
)
"""INT8 and INT4. Activations are per-token or in groups of 128. Weights are per-channel, in groups
of 128, or (`block`) in blocks of 128 x 128."""


def replace_linears(
    model: nn.Module,
    weight: TensorFormat | None,
    input: TensorFormat | None = None,
    *,
    static_input: bool = False,
    skip: tuple[str, ...] = ("lm_head",),
) -> list[str]:
    """Replace every `nn.Linear` of a model by a `FakeQuantLinear`, and return their paths.

    Args:
        model: Changed in place; parameters stay the same objects.
        weight: Format of the weights, None for float.
        input: Format of the activations, None for float.
        static_input: Take the scales of activations from calibration.
        skip: Globs over paths of modules to leave as they are.

    Raises:
        ValueError: The model has no linear layer to replace, or a parent reads the weight of one.
    """
    # remove_duplicate=False: a shared layer is replaced under each of its names.
    found = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear)
        and not isinstance(module, FakeQuantLinear)
        and not any(fnmatchcase(name, pattern) for pattern in skip)
    }
    if not found:
        raise ValueError(
            f"a model must have linear layers outside of skip={skip}, "
            f"got none in {type(model).__name__}"
        )
    # The root has no parent to be replaced in.
    if "" in found:
        raise ValueError(
            "a model must have linear layers inside, got one itself; "
            "use FakeQuantLinear.from_module"
        )
    _check_called(model, found)
    # A layer shared by two parents stays shared.
    made: dict[nn.Module, FakeQuantLinear] = {}
    for name, module in found.items():
        if module not in made:
            made[module] = FakeQuantLinear.from_module(
                module, weight, input, static_input=static_input
            )
        model.set_submodule(name, made[module])
    return list(found)


def _check_called(model: nn.Module, names: Iterable[str]) -> None:
    """Check that no layer is in a module that reads its weight without calling it.

    Such a layer would round nothing.
    """
    # Every module around the layer, the model itself included.
    for name in names:
        parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
        for parent in (model, *map(model.get_submodule, parents)):
            if isinstance(parent, BYPASSING):
                raise ValueError(
                    f"a layer must be called by its parent to round anything, got {name} in a "
                    f"{type(parent).__name__}, which reads its weight; add it to skip"
                )


def set_mode(model: nn.Module, mode: Mode) -> None:
    """Set the mode of every `FakeQuantLinear` in a model."""
    for module in model.modules():
        if isinstance(module, FakeQuantLinear):
            module.mode = mode
