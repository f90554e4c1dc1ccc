"""Lengths at which the positions of a whole sequence change.

Some rotary positions depend on the longest sequence of a pass: LongRoPE takes other frequencies for
all tokens once one stands beyond the original longest sequence, and dynamic NTK takes others with
every further token. Such a sequence must not run beside a shorter one, which would get its
frequencies, and must not take keys from one.
"""

from collections.abc import Iterator
from typing import Any

from harness.models.architecture import text_config
from harness.models.loaded import LoadedModel

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Kinds of rotary positions that change once a sequence exceeds the original longest one."""
ORIGINAL = "original_max_position_embeddings"
"""Key of the longest sequence before an extension, up to which positions do not change."""


def changes(loaded: LoadedModel) -> tuple[int, ...]:
    """Return the lengths beyond which all positions of a sequence change [token], in order."""
    rope = getattr(text_config(loaded.module), "rope_parameters", None)
    originals = {
        node.get(ORIGINAL) or loaded.max_length
        for node in _settings(rope)
        if set(LENGTH_DEPENDENT) & {value for value in node.values() if isinstance(value, str)}
    }
    return tuple(sorted(length for length in originals if length))


def _settings(node: object) -> Iterator[dict[str, Any]]:
    """Yield all nested mappings; rotary parameters may come by kind of layer."""
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from _settings(child)
