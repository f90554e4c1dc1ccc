"""Read the static scales of a KV cache, which lie beside the layers of keys and values."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from harness.errors import ModelError
from harness.models.activations.activation_format import ActivationFormat
from harness.models.checkpoints.methods.dequantized import CacheRounding

KEY_AND_VALUE = "kv"


def take_cache_formats(
    folder: Path,
    weights: dict[str, Tensor],
    places: Callable[[str], tuple[str, ...]],
    make: Callable[[Tensor, Tensor | None], ActivationFormat],
) -> dict[str, dict[str, ActivationFormat]]:
    """Return what rounds keys (`k`) and values (`v`), by path of the attention layer.

    Args:
        folder: The checkpoint, for messages.
        weights: Its tensors by name; those of the cache are taken out.
        places: The texts that may stand between the path and `scale`, for `k` or `v`.
        make: Makes the format of a scale and a zero point.

    Raises:
        ModelError: A scale is not a positive number.
    """
    found: dict[str, dict[str, ActivationFormat]] = defaultdict(dict)
    for side in KEY_AND_VALUE:
        for place in places(side):
            for key in [key for key in weights if key.endswith(f"{place}scale")]:
                path = key.removesuffix(f"{place}scale")
                zero = weights.pop(f"{path}{place}zero_point", None)
                try:
                    found[path][side] = make(weights.pop(key), zero)
                except ValueError as reason:
                    raise ModelError(
                        f"scales of a KV cache must be numbers above 0, got {reason} as {key} in "
                        f"{folder}; download it again"
                    ) from reason
    return found


def whole_pairs(found: Mapping[str, Mapping[str, ActivationFormat]]) -> dict[str, CacheRounding]:
    """Return the attention layers that have both keys and values rounded."""
    return {
        path: CacheRounding(sides["k"], sides["v"])
        for path, sides in found.items()
        if len(sides) == len(KEY_AND_VALUE)
    }
