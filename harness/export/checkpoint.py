"""Write a quantized model as a folder: weights, configuration, tokenizer, and what it was made with.

`recipe.quantize` does the quantizing, with a backend that writes each layer to the file instead of installing it. So an
exported layer has the codes that the same recipe has when it is measured, and beside the float model only one file's
worth of tensors is in memory. The folder is written under another name and renamed when it is whole.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from harness.backends.base import Installed
from harness.errors import ConfigError, UnsupportedRecipe
from harness.export import card
from harness.export.layout import Contents, Layout
from harness.export.shards import ShardWriter
from harness.models.checkpoint import sha256_file
from harness.models.source import LoadedModel
from harness.models.targets import Target, find_targets, output_layer
from harness.quant.layer import LayerRule, QuantizedLayer
from harness.recipe import Quantized, QuantRecipe, quantize


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written."""

    folder: Path
    files: tuple[str, ...]
    """Those with weights."""
    total_bytes: int
    """Of all tensors [byte]."""
    scale_error: float
    """Largest relative difference of a stored scale from the recipe's."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ExportBackend:
    """Writes the layers of a recipe to a checkpoint, and leaves the model as it is; see `Backend`."""

    kind: ClassVar[Literal["fake-quant"]] = "fake-quant"
    tolerance: ClassVar[Mapping[str, float]] = {}

    layout: Layout
    writer: ShardWriter
    scale_errors: dict[str, float] = field(default_factory=dict)
    """By path, for each layer written."""
    _sizes: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """That of the layout."""
        return self.layout.name

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:  # noqa: ARG002
        """Formats were checked before the model was loaded."""
        return None

    def prepare(self, loaded: LoadedModel, targets: Sequence[Target]) -> tuple[str, ...]:
        """Refuse what cannot be written, before anything is."""
        if any(target.weight.dim() > 2 for target in find_targets(loaded.module)):
            raise UnsupportedRecipe(
                f"models must be without stacks of experts in a checkpoint, got a {type(loaded.module).__name__}: transformers "
                "does not read float experts beside quantized layers; this kind of model cannot be exported yet"
            )
        embedding = loaded.module.get_input_embeddings() if self.layout.embeddings else None
        for target in targets:
            if not isinstance(target.owner, nn.Linear) and target.owner is not embedding:
                kinds = "linear layers" + " or the embedding" * self.layout.embeddings
                raise UnsupportedRecipe(
                    f"quantized weights must be those of {kinds} in layout={self.layout.name}, got {target.name} "
                    f"{tuple(target.weight.shape)}; add it to quant.skip"
                )
        names = {f"{target.name}.weight": target.weight.to("meta") for target in targets}
        if revert_weight_conversion(loaded.module, names).keys() != names.keys():
            raise UnsupportedRecipe(
                f"layers must have the same names in checkpoints as in memory, got a {type(loaded.module).__name__}, some of "
                "whose layers have not; this kind of model cannot be exported yet"
            )
        return ()

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:  # noqa: ARG002
        """Write codes and scales."""
        packed = self.layout.pack(layer)
        for each in (target, *target.shared):
            tensors = {f"{each.name}.{name}": tensor for name, tensor in packed.tensors.items()}
            self._sizes[each.name] = self.writer.add(tensors)
        self.scale_errors[layer.name] = packed.scale_error

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:  # noqa: ARG002
        """Return the size in the file; nothing is in place."""
        return Installed(kernel="none", stored_bytes=self._sizes[layer.name])


def export(
    loaded: LoadedModel,
    recipe: QuantRecipe,
    layout: Layout,
    out: Path,
    *,
    shard_bytes: int,
    facts: Mapping[str, Any],
) -> Exported:
    """Write the folder `out`; the model is as it was afterwards.

    Args:
        loaded: The float model.
        recipe: How to quantize it; its backend is not used.
        layout: What the files look like.
        out: A folder that does not exist, or is empty.
        shard_bytes: Largest size of a file [byte].
        facts: What else the manifest and the model card say: the command and the configuration.

    Raises:
        UnsupportedRecipe: The layout cannot hold the recipe, or not this model.
        ConfigError: The folder is not empty.
    """
    check(recipe, layout, out)
    with _replacing(out) as folder:
        writer = ShardWriter(folder, shard_bytes)
        backend = ExportBackend(layout=layout, writer=writer)
        try:
            quantized = quantize(loaded, replace(recipe, backend=backend))
            _write_rest(loaded, backend, writer)
            files = writer.close()
            config = layout.config(_contents(loaded, recipe, quantized))
            _write_config(loaded, folder, layout, config)
        finally:
            loaded.restore()
        error = max(backend.scale_errors.values())
        manifest = {
            **facts,
            "layout": layout.name,
            "model": card.model_facts(loaded),
            "weights": {file.name: sha256_file(file) for file in files},
            "total_bytes": writer.total_bytes,
            "scale_error": error,
            **card.recipe_facts(quantized, backend.scale_errors),
        }
        card.write(folder, manifest, config)
    return Exported(
        folder=out,
        files=tuple(file.name for file in files),
        total_bytes=writer.total_bytes,
        scale_error=error,
        warnings=(*loaded.warnings, *quantized.warnings),
    )


def check(recipe: QuantRecipe, layout: Layout, out: Path) -> None:
    """Refuse what needs no model to be refused."""
    if not recipe.rules:
        raise ConfigError(
            f"quant must be a recipe that quantizes, got {recipe.name}; add +quant=int8_row"
        )
    if recipe.backend.kind == "real" and not recipe.backend.tolerance:
        raise UnsupportedRecipe(
            f"quant.backend must compute with the recipe's own codes in an export, got {recipe.backend.name}, which changes "
            "weights before it quantizes them; add backend@quant.backend=fake to export the formats alone"
        )
    if reason := layout.refusal(recipe.rules):
        raise UnsupportedRecipe(
            f"recipe {recipe.name} must be one that layout={layout.name} can hold, but {reason}; it holds {layout.holds}"
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(
            f"out must be a folder that does not exist or is empty, got {out}; choose another, or remove it"
        )


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes `out` if the block succeeds, and is removed otherwise."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        yield scratch
        _open_to_others(scratch)
        scratch.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _open_to_others(folder: Path) -> None:
    """Give a folder and its files the usual permissions: mkdtemp and safetensors make them for the owner alone."""
    hidden = os.umask(0)
    os.umask(hidden)
    folder.chmod(0o777 & ~hidden)
    for file in folder.iterdir():
        file.chmod(0o666 & ~hidden)


def _write_rest(loaded: LoadedModel, backend: ExportBackend, writer: ShardWriter) -> None:
    """Write what stays in float, each tensor once: a tied head has no weight of its own in a file."""
    written = {f"{path}.weight" for path in backend.scale_errors}
    rest: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in loaded.module.state_dict(keep_vars=True).items():
        if name not in written and id(tensor) not in seen:
            seen.add(id(tensor))
            rest[name] = tensor.detach()
    writer.add(revert_weight_conversion(loaded.module, rest))


def _contents(loaded: LoadedModel, recipe: QuantRecipe, quantized: Quantized) -> Contents:
    module = loaded.module
    paths = {id(owner): path for path, owner in module.named_modules()}
    names = {layer.name: recipe.rules[layer.rule] for layer in quantized.report.layers}
    embedding = paths[id(module.get_input_embeddings())]
    # What is not a linear layer is known by the parameter: `experts.gate_up_proj`, `mlp.gate.weight`.
    modules = set(paths.values())
    owners = (
        skipped.name if skipped.name in modules else skipped.name.rpartition(".")[0]
        for skipped in quantized.report.skipped
    )
    return Contents(
        quantized=names,
        embedding=embedding,
        head=paths[id(output_layer(module))],
        kept=tuple(dict.fromkeys(owner for owner in owners if owner != embedding)),
    )


def _write_config(
    loaded: LoadedModel, folder: Path, layout: Layout, config: dict[str, Any]
) -> None:
    """Write the JSON files of the model, and its tokenizer with the chat template."""
    module = loaded.module
    module.config.save_pretrained(folder)
    file = folder / "config.json"
    whole = json.loads(file.read_text(encoding="utf-8"))
    whole |= {
        "architectures": [type(module).__name__],
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "quantization_config": config,
    }
    card.write_json(file, whole)
    for name, content in layout.files(config).items():
        card.write_json(folder / name, content)
    if module.can_generate() and module.generation_config is not None:
        module.generation_config.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
