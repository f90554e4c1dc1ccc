"""Cut a quantized weight into the linear layers that a file holds.

In memory the experts of a mixture are stacks, and gate and up are one matrix. In files, and in serving engines, each expert has
linear layers of its own:

    model.layers.0.mlp.experts.gate_up_proj [E, 2 I, H]  ->  model.layers.0.mlp.experts.0.gate_proj.weight [I, H]
                                                             model.layers.0.mlp.experts.0.up_proj.weight   [I, H]
                                                             model.layers.0.mlp.experts.1.gate_proj.weight [I, H] ...

transformers has the rules for names and cuts. Codes and scales are cut by them as they are, so nothing is quantized again.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from harness.backends.layer import QuantizedLayer
from harness.errors import UnsupportedRecipe
from harness.quant.tensor import ScalePlane


def in_file(module: PreTrainedModel, parameter: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return the tensors that a checkpoint holds for a parameter, by name: the parameter itself, renamed, or its pieces."""
    found: dict[str, Tensor] = revert_weight_conversion(module, {parameter: tensor})
    return found


def split(
    module: PreTrainedModel, parameter: str, layer: QuantizedLayer
) -> tuple[QuantizedLayer, ...]:
    """Return the linear layers that a checkpoint holds of a quantized weight, by their paths there.

    Args:
        module: The model, whose names are those of transformers.
        parameter: Name of the weight in the model, such as `model.layers.0.mlp.experts.gate_up_proj`.
        layer: Its codes `[N, K]` or `[E, N, K]` and scales.

    Raises:
        UnsupportedRecipe: A block of a scale reaches over two pieces.
    """
    weight = layer.weight
    planes = [_cut(module, parameter, plane, layer) for plane in weight.scales.planes]
    zeros = weight.scales.zero_point and _cut(module, parameter, weight.scales.zero_point, layer)
    made = []
    for name, codes in in_file(module, parameter, weight.codes).items():
        scales = replace(
            weight.scales,
            planes=tuple(plane[name] for plane in planes),
            zero_point=zeros[name] if zeros else None,
            unrounded=None,
        )
        piece = replace(weight, codes=codes.contiguous(), scales=scales)
        made.append(replace(layer, name=name.removesuffix(".weight"), weight=piece))
    return tuple(made)


def _cut(
    module: PreTrainedModel, parameter: str, plane: ScalePlane, layer: QuantizedLayer
) -> dict[str, ScalePlane]:
    """Return the scales of each piece."""
    values, shape = plane.values, layer.weight.codes.shape
    size = plane.granularity.block[0]
    if size == -1:
        # One number for all rows: every piece of the matrix has it.
        values = values.expand(*shape[:-1], values.shape[-1])
    elif size > 1 and _cuts_blocks(in_file(module, parameter, layer.weight.codes.to("meta")), size):
        raise UnsupportedRecipe(
            f"blocks of {size} rows must not reach over two layers of the checkpoint, got {layer.name} {tuple(shape)}, which "
            "becomes several; choose a format with scales of rows or groups, or add it to quant.skip"
        )
    pieces = in_file(module, parameter, values)
    if size == -1:
        pieces = {name: piece[:1] for name, piece in pieces.items()}
    return {name: replace(plane, values=piece.contiguous()) for name, piece in pieces.items()}


def _cuts_blocks(pieces: Mapping[str, Tensor], size: int) -> bool:
    """Say whether a cut between pieces runs through a block of `size` rows; a short block at the end is none."""
    return len(pieces) > 1 and any(piece.shape[0] % size for piece in pieces.values())
