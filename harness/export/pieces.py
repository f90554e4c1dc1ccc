"""Cut a quantized weight into the linear layers that files hold.

In memory, the experts of a mixture are stacks, and gate and up are one matrix. In files and serving
engines, each expert has linear layers of its own:

    model.layers.0.mlp.experts.gate_up_proj [E, 2 I, H]
    ->  model.layers.0.mlp.experts.0.gate_proj.weight [I, H]
        model.layers.0.mlp.experts.0.up_proj.weight   [I, H]
        model.layers.0.mlp.experts.1.gate_proj.weight [I, H] ...

transformers has the rules for names and cuts. Codes and scales are cut by the same rules. Nothing
is quantized again.
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
    """Return the tensors of the files for a parameter: itself under its name there, or pieces."""
    found: dict[str, Tensor] = revert_weight_conversion(module, {parameter: tensor})
    return found


def split_weight(
    module: PreTrainedModel, parameter: str, layer: QuantizedLayer
) -> tuple[QuantizedLayer, ...]:
    """Return the linear layers of the files for a quantized weight, named by their paths there.

    Args:
        module: The model.
        parameter: Name of the weight in the model, such as
            `model.layers.0.mlp.experts.gate_up_proj`.
        layer: Its codes `[N, K]` or `[E, N, K]`, and scales.

    Raises:
        UnsupportedRecipe: A block with one scale reaches over two pieces.
    """
    weight = layer.weight
    planes = [_cut_scales(module, parameter, plane, layer) for plane in weight.scales.planes]
    zero = weight.scales.zero_point
    zeros = zero and _cut_scales(module, parameter, zero, layer)
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


def _cut_scales(
    module: PreTrainedModel, parameter: str, plane: ScalePlane, layer: QuantizedLayer
) -> dict[str, ScalePlane]:
    """Return the scales of each piece, by name of the piece in the files."""
    values, shape = plane.values, layer.weight.codes.shape
    size = plane.granularity.block[0]
    if size == -1:
        # One scale for all rows: give it to each row, cut, and keep the first row of each piece.
        values = values.expand(*shape[:-1], values.shape[-1])
    elif size > 1 and _cuts_blocks(in_file(module, parameter, layer.weight.codes.to("meta")), size):
        raise UnsupportedRecipe(
            f"blocks of {size} rows must not reach over two layers of the checkpoint, got "
            f"{layer.name} {tuple(shape)}, which becomes several; choose a per-channel or "
            "group-wise format, or add it to quant.skip"
        )
    pieces = in_file(module, parameter, values)
    if size == -1:
        pieces = {name: piece[:1] for name, piece in pieces.items()}
    return {name: replace(plane, values=piece.contiguous()) for name, piece in pieces.items()}


def _cuts_blocks(pieces: Mapping[str, Tensor], size: int) -> bool:
    """Return whether a cut runs through a block of `size` rows; a short last block is whole."""
    return len(pieces) > 1 and any(piece.shape[0] % size for piece in pieces.values())
