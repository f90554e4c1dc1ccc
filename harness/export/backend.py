"""The backend of an export: it writes each quantized layer, and rounds the weight in the model.

Afterwards the model in memory is the recipe as it would be measured. `verify` compares the folder
with it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.backends.base import Installed
from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.errors import AuditError, UnsupportedRecipe
from harness.export.layouts.layout import Layout
from harness.export.pieces import in_file, split_weight
from harness.export.shards import ShardWriter
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target


@dataclass(frozen=True, kw_only=True)
class ExportBackend:
    """Writes the layers of a recipe to a checkpoint; rounds weights as `FakeBackend` does."""

    kind: ClassVar[Literal["fake-quant"]] = "fake-quant"
    tolerance: ClassVar[Mapping[str, float]] = {}

    layout: Layout
    writer: ShardWriter
    scale_errors: dict[str, float] = field(default_factory=dict)
    """Largest relative difference between stored and exact scales, by target."""
    parameters: dict[str, str] = field(default_factory=dict)
    """Name of the weight in the model, by target; targets that share the weight are included."""
    pieces: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Paths in the files of the layers that a target becomes."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """`(N, K)` by path in the files."""
    _sizes: dict[str, int] = field(default_factory=dict)
    _fake: FakeBackend = field(default_factory=FakeBackend)

    @property
    def name(self) -> str:
        """Name of the layout."""
        return self.layout.name

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:  # noqa: ARG002
        """Return None: the formats were checked before the model was loaded."""
        return None

    def prepare(self, loaded: LoadedModel, targets: Sequence[Target]) -> tuple[str, ...]:
        """Find the layers of the files that each target becomes.

        Raises:
            UnsupportedRecipe: The layout cannot hold a target; nothing is written yet.
        """
        module = loaded.module
        paths = {id(owner): path for path, owner in module.named_modules()}
        places = [(target, each) for target in targets for each in (target, *target.shared)]
        names: dict[str, dict[str, Tensor]] = {}
        for target, each in places:
            _check_kind(target, self.layout, is_embedding=_is_embedding(loaded, target))
            self.parameters[each.name] = f"{paths[id(each.owner)]}.{each.attribute}"
            meta = each.weight.to("meta")
            names[each.name] = in_file(module, self.parameters[each.name], meta)
        # Two targets with one name in the files would overwrite each other.
        count = Counter(name for pieces in names.values() for name in pieces)
        for target, each in places:
            pieces = names[each.name]
            is_alone = all(count[name] == 1 for name in pieces)
            if not (is_alone and _are_linear(pieces, target.weight.numel())):
                first = list(pieces.items())[:2]
                found = ", ".join(f"{name} {tuple(piece.shape)}" for name, piece in first)
                raise UnsupportedRecipe(
                    "quantized weights must be linear layers of their own in a checkpoint, got "
                    f"{target.name} of a {type(module).__name__}, which is stored as {found}; add "
                    "it to quant.skip"
                )
            shapes = {name.removesuffix(".weight"): tuple(t.shape) for name, t in pieces.items()}
            self.pieces[target.name] = (*self.pieces.get(target.name, ()), *shapes)
            self.shapes.update(shapes)
        return ()

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Write codes and scales, and put the rounded weight into the model.

        Raises:
            UnsupportedRecipe: No reader loads an embedding in this format, or the shape cannot be
                packed.
            AuditError: A stored number is NaN or infinite.
        """
        if _is_embedding(loaded, target) and (reason := self.layout.unsupported_embedding(layer)):
            raise UnsupportedRecipe(
                f"a quantized embedding must be one that a reader of layout={self.layout.name} "
                f"loads, but {reason}; add embed_tokens to quant.skip"
            )
        size, error = 0, 0.0
        pieces = [
            piece
            for each in (target, *target.shared)
            for piece in split_weight(loaded.module, self.parameters[each.name], layer)
        ]
        for piece in pieces:
            packed = self.layout.pack(piece)
            for name, tensor in packed.tensors.items():
                if tensor.is_floating_point() and not tensor.float().isfinite().all():
                    raise AuditError(
                        "everything stored must be finite, got NaN or infinity in "
                        f"{piece.name}.{name}; choose a format whose scales have a wider range"
                    )
            size += self.writer.add({f"{piece.name}.{k}": v for k, v in packed.tensors.items()})
            error = max(error, packed.scale_error)
        self._sizes[target.name], self.scale_errors[target.name] = size, error
        self._fake.apply(loaded, target, replace(layer, input=None, input_scales=None))

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Return the size in the files, and what `FakeBackend` finds in the model."""
        found = self._fake.inspect(loaded, target, layer)
        return replace(found, kernel="none", stored_bytes=self._sizes[target.name])


def _are_linear(pieces: Mapping[str, Tensor], numel: int) -> bool:
    """Return whether tensors of the files are those of linear layers, and hold a whole weight."""
    is_whole = sum(piece.numel() for piece in pieces.values()) == numel
    return is_whole and all(
        name.endswith(".weight") and piece.dim() == 2 for name, piece in pieces.items()
    )


def _check_kind(target: Target, layout: Layout, *, is_embedding: bool) -> None:
    """Raise UnsupportedRecipe for a weight that readers cannot load as one of a linear layer."""
    is_stack = target.weight.dim() == 3
    if is_embedding or (isinstance(target.owner, nn.Linear) and not is_stack):
        return
    if is_stack and not target.transposed:
        return
    kinds = "linear layers, the embedding or stacks of experts [E, out, in]"
    stored = ", which is stored as [.., in, out]" if target.transposed else ""
    raise UnsupportedRecipe(
        f"quantized weights must be those of {kinds} in layout={layout.name}, got {target.name} "
        f"{tuple(target.weight.shape)} of a {type(target.owner).__name__}{stored}; add it to "
        "quant.skip"
    )


def _is_embedding(loaded: LoadedModel, target: Target) -> bool:
    return target.owner is loaded.module.get_input_embeddings()
