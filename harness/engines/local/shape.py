"""The sizes of a loaded model that decide the costs of a request (`harness.timing.roofline`).

The sizes come from its configuration and its linear layers. A model whose costs do not follow from
sizes (a mixture of experts, a recurrent layer) has no shape; `NoShape` gives the reason.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from harness.engines.timed import NoShape
from harness.models.checkpoints.stored_bytes import stored_bytes
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import find_targets, find_unreachable, num_unused, output_layer
from harness.timing.roofline import Shape

ATTENTION_KINDS = ("full_attention", "sliding_attention")
"""Kinds of layers whose cost follows from the number of keys."""


def shape_of(loaded: LoadedModel) -> Shape:
    """Return the sizes that decide the costs of a model.

    Raises:
        NoShape: Its costs do not follow from its shape.
    """
    module, config = loaded.module, loaded.module.config.get_text_config()
    linear = _linear_layers(module)
    _check_shape(module, config, linear)
    sizes = {id(layer): layer.in_features * layer.out_features for layer in linear.values()}
    head = sizes.get(id(output_layer(module)), 0)
    heads = int(config.num_attention_heads)
    return Shape(
        body_weights=sum(sizes.values()) - head,
        head_weights=head,
        windows=_windows(config),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        kv_itemsize=loaded.dtype.itemsize,
        row_bytes=int(config.hidden_size) * loaded.dtype.itemsize,
    )


def _check_shape(module: PreTrainedModel, config: Any, linear: Mapping[str, Any]) -> None:
    """Raise NoShape for a model with parts other than attention and linear layers."""
    if stacks := [each.name for each in find_targets(module) if each.weight.dim() == 3]:
        raise NoShape(f"which experts a step reads depends on its tokens ({stacks[0]})")
    if getattr(config, "num_attention_heads", None) is None:
        raise NoShape("it has no attention")
    bare = [
        t.name for t in find_targets(module) if t.weight.dim() == 2 and t.alias != "embed_tokens"
    ]
    for name in (*find_unreachable(module), *bare):
        if not any(f"{name}.".startswith(f"{path}.") for path in linear):
            raise NoShape(f"{name} is not the weight of a linear layer")
    if num_unused(module):
        raise NoShape("parts of the model are not used by a text run")


def _linear_layers(module: nn.Module) -> dict[str, Any]:
    """Return the outermost modules that have widths: `nn.Linear`, and the layers of libraries."""
    found: dict[str, Any] = {}
    for path, layer in module.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if hasattr(layer, "in_features") and hasattr(layer, "out_features") and not inside:
            found[path] = layer
    return found


def _windows(config: Any) -> tuple[int | None, ...]:
    """Return the number of positions that each layer attends to; None is all."""
    num_layers: int = config.num_hidden_layers
    window: int | None = getattr(config, "sliding_window", None)
    kinds: list[str] | None = getattr(config, "layer_types", None)
    if kinds is None:
        slides = getattr(config, "use_sliding_window", True)
        return (window if slides else None,) * num_layers
    if unknown := set(kinds) - set(ATTENTION_KINDS):
        raise NoShape(f"the cost of layers of kind {min(unknown)} is not known here")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def streamed_bytes(loaded: LoadedModel) -> int:
    """Return the memory that a decode step reads: all weights in place but the embedding [byte].

    The embedding counts if an LM head is tied to it.
    """
    return stored_bytes(loaded.module, without=(loaded.module.get_input_embeddings(),))
