"""The backend of an export writes each quantized layer to the file and puts its rounded values into the model.

The model in memory then is the recipe as it is measured. `verify` compares the folder with it.
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
from harness.export.pieces import in_file, split
from harness.export.shards import ShardWriter
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target


@dataclass(frozen=True, kw_only=True)
class ExportBackend:
    """Writes the layers of a recipe to a checkpoint; see `Backend`."""

    kind: ClassVar[Literal["fake-quant"]] = "fake-quant"
    tolerance: ClassVar[Mapping[str, float]] = {}

    layout: Layout
    writer: ShardWriter
    scale_errors: dict[str, float] = field(default_factory=dict)
    """Largest relative difference of a stored scale from the recipe's, by target."""
    parameters: dict[str, str] = field(default_factory=dict)
    """Name of the weight in the model, by target and by those that share its weight."""
    pieces: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Paths of the layers in the file, by target, with those that share its weight."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """`(N, K)` by path in the file."""
    _sizes: dict[str, int] = field(default_factory=dict)
    _fake: FakeBackend = field(default_factory=FakeBackend)

    @property
    def name(self) -> str:
        """That of the layout."""
        return self.layout.name

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:  # noqa: ARG002
        """Formats were checked before the model was loaded."""
        return None

    def prepare(self, loaded: LoadedModel, targets: Sequence[Target]) -> tuple[str, ...]:
        """Raise UnsupportedRecipe for targets that the layout cannot hold, before anything is written."""
        module = loaded.module
        paths = {id(owner): path for path, owner in module.named_modules()}
        places = [(target, each) for target in targets for each in (target, *target.shared)]
        names: dict[str, dict[str, Tensor]] = {}
        for target, each in places:
            _refuse_kind(target, self.layout, is_embedding=_is_embedding(loaded, target))
            self.parameters[each.name] = f"{paths[id(each.owner)]}.{each.attribute}"
            meta = each.weight.to("meta")
            names[each.name] = in_file(module, self.parameters[each.name], meta)
        # Two targets with one name in the file would overwrite each other.
        count = Counter(name for pieces in names.values() for name in pieces)
        for target, each in places:
            pieces = names[each.name]
            is_whole = sum(piece.numel() for piece in pieces.values()) == target.weight.numel()
            is_linear = all(
                name.endswith(".weight") and piece.dim() == 2 for name, piece in pieces.items()
            )
            if not is_whole or not is_linear or any(count[name] > 1 for name in pieces):
                shown = ", ".join(
                    f"{name} {tuple(t.shape)}" for name, t in list(pieces.items())[:2]
                )
                raise UnsupportedRecipe(
                    f"quantized weights must be linear layers of their own in a checkpoint, got {target.name} of a "
                    f"{type(module).__name__}, which is stored as {shown}; add it to quant.skip"
                )
            shapes = {name.removesuffix(".weight"): tuple(t.shape) for name, t in pieces.items()}
            self.pieces[target.name] = (*self.pieces.get(target.name, ()), *shapes)
            self.shapes.update(shapes)
        return ()

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Write codes and scales, and put the rounded weight into the model; inputs stay in float there."""
        reason = _is_embedding(loaded, target) and self.layout.refuses_embedding(layer)
        if reason:
            raise UnsupportedRecipe(
                f"a quantized embedding must be one that a reader of layout={self.layout.name} loads, but {reason}; add "
                "embed_tokens to quant.skip"
            )
        size, error = 0, 0.0
        pieces = [
            piece
            for each in (target, *target.shared)
            for piece in split(loaded.module, self.parameters[each.name], layer)
        ]
        for piece in pieces:
            packed = self.layout.pack(piece)
            for name, tensor in packed.tensors.items():
                if tensor.is_floating_point() and not tensor.float().isfinite().all():
                    raise AuditError(
                        f"everything stored must be finite, got NaN or infinity in {piece.name}.{name}; choose a format whose "
                        "scales have a wider range"
                    )
            size += self.writer.add({f"{piece.name}.{k}": v for k, v in packed.tensors.items()})
            error = max(error, packed.scale_error)
        self._sizes[target.name], self.scale_errors[target.name] = size, error
        self._fake.apply(loaded, target, replace(layer, input=None, input_scales=None))

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Return the size in the file; the rounded weight in the model is audited as that of the fake backend."""
        found = self._fake.inspect(loaded, target, layer)
        return replace(found, kernel="none", stored_bytes=self._sizes[target.name])


def _refuse_kind(target: Target, layout: Layout, *, is_embedding: bool) -> None:
    """Raise UnsupportedRecipe for a weight that readers cannot load as that of a linear layer."""
    is_stack = target.weight.dim() == 3
    if is_embedding or (isinstance(target.owner, nn.Linear) and not is_stack):
        return
    if is_stack and not target.transposed:
        return
    kinds = "linear layers, the embedding or stacks of experts [E, out, in]"
    stored = ", which is stored as [.., in, out]" if target.transposed else ""
    raise UnsupportedRecipe(
        f"quantized weights must be those of {kinds} in layout={layout.name}, got {target.name} "
        f"{tuple(target.weight.shape)} of a {type(target.owner).__name__}{stored}; add it to quant.skip"
    )


def _is_embedding(loaded: LoadedModel, target: Target) -> bool:
    return target.owner is loaded.module.get_input_embeddings()
