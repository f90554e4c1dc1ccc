"""Write a quantized model as a folder: weights, configuration, tokenizer, and what it was made with.

`recipe.quantize` does the quantizing, with a backend that also writes each layer to the file. So an exported layer has the codes
that the same recipe has when it is measured. The folder is written under a temporary name, read back by another process,
compared with the recipe in memory, and renamed if both agree.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from harness.errors import AuditError, ConfigError, UnsupportedRecipe
from harness.export import card, companions, engine_kernels, model_config, verify
from harness.export.backend import ExportBackend
from harness.export.layouts.layout import Contents, Layout
from harness.export.pieces import in_file
from harness.export.shards import ShardWriter
from harness.models.checkpoints.folder import sha256_file
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import find_others, find_targets, output_layer
from harness.output import place
from harness.output.atomic import new_folder
from harness.recipe import Quantized, QuantRecipe, quantize
from harness.recipe.selection import select

OUT = "out"
"""The key that names the folder; errors name it."""


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
    seconds: float
    """What reading it back and comparing it took [s]."""


def export(
    loaded: LoadedModel,
    recipe: QuantRecipe,
    layout: Layout,
    out: Path,
    *,
    shard_bytes: int,
    facts: Mapping[str, Any],
    force: bool = False,
) -> Exported:
    """Write the folder `out`; the model is as it was afterwards.

    Args:
        loaded: The float model.
        recipe: How to quantize it; its backend is not used.
        layout: What the files look like.
        out: A folder that does not exist, or is empty; with `force` also one that holds an export and nothing else.
        shard_bytes: Largest size of a file [byte].
        facts: What else the manifest and the model card say: the command and the configuration.
        force: Replace an export that is there.

    Raises:
        UnsupportedRecipe: The layout cannot hold the recipe, or not this model.
        OutputError: The folder must not be replaced, or cannot be written.
        AuditError: The model has NaN or infinity.
        ModelError: The folder does not read back as the recipe; it is not published.
    """
    check(recipe, layout, out, force=force)
    _refuse_damaged(loaded)
    size = least_bytes(loaded, recipe)
    place.check_room(out, OUT, "folder", within=out.parent, size=size)
    with new_folder(out, OUT, force=force, is_own=card.is_export) as folder:
        writer = ShardWriter(folder, shard_bytes)
        backend = ExportBackend(layout=layout, writer=writer)
        reference = folder.with_name(
            "reference.safetensors"
        )  # beside it, and gone with what is around it
        try:
            quantized = quantize(loaded, replace(recipe, backend=backend))
            _write_rest(loaded, backend, writer)
            files = writer.close()
            contents = _contents(loaded, recipe, quantized, backend)
            config = layout.config(contents)
            _write_config(loaded, folder, layout, config)
            start = time.perf_counter()
            _remember(loaded, backend, reference)
        finally:
            loaded.restore()
        verify.in_child(folder, reference)
        seconds = time.perf_counter() - start
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
        warnings=(
            *loaded.warnings,
            *quantized.warnings,
            *engine_kernels.warnings(contents, backend.shapes, loaded.dtype),
        ),
        seconds=seconds,
    )


def check(recipe: QuantRecipe, layout: Layout, out: Path, *, force: bool = False) -> None:
    """Check what can be checked without a model: recipe, layout and folder.

    Raises:
        ConfigError: The recipe quantizes nothing.
        UnsupportedRecipe: The layout cannot hold the recipe.
        OutputError: The folder must not be replaced, or cannot be written.
    """
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
    place.folder_to_make(out, OUT, force=force, is_own=card.is_export)
    place.check_room(out, OUT, "folder", within=out.parent)


def least_bytes(loaded: LoadedModel, recipe: QuantRecipe) -> int:
    """Return a size that no folder is below [byte]: the codes of what the recipe quantizes without scales, and the rest in float."""
    module = loaded.module
    chosen = select(recipe, find_targets(module), find_others(module)).chosen
    bits = {id(target.weight): recipe.rules[rule].weight.element.bits for target, rule in chosen}
    sizes = [
        (parameter.numel(), bits.get(id(parameter), 8 * parameter.element_size()))
        for parameter in module.parameters()
    ]
    return sum(count * each for count, each in sizes) // 8


def _refuse_damaged(loaded: LoadedModel) -> None:
    """Raise AuditError for a tensor with NaN or infinity, also among those that stay in float."""
    for name, tensor in loaded.module.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise AuditError(
                f"every number of a model must be finite to be exported, got NaN or infinity in {name}; the checkpoint is damaged"
            )


def _write_rest(loaded: LoadedModel, backend: ExportBackend, writer: ShardWriter) -> None:
    """Write what stays in float, each tensor once: a tied head has no weight of its own in a file."""
    written = set(backend.parameters.values())
    rest: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in loaded.module.state_dict(keep_vars=True).items():
        if name not in written and id(tensor) not in seen:
            seen.add(id(tensor))
            rest[name] = tensor.detach()
    writer.add(revert_weight_conversion(loaded.module, rest))


def _remember(loaded: LoadedModel, backend: ExportBackend, file: Path) -> None:
    """Write the reference of `verify`, with the error of each parameter's scales under all of its names."""
    errors = {
        id(loaded.module.get_parameter(backend.parameters[target])): error
        for target, error in backend.scale_errors.items()
    }
    named = loaded.module.state_dict(keep_vars=True).items()
    verify.remember(loaded, {name: errors.get(id(value), 0.0) for name, value in named}, file)


def _contents(
    loaded: LoadedModel, recipe: QuantRecipe, quantized: Quantized, backend: ExportBackend
) -> Contents:
    """Return which layers of the file are quantized and which stay in float."""
    module = loaded.module
    paths = {id(owner): path for path, owner in module.named_modules()}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    memory: dict[str, str] = {}

    def in_files(path: str) -> tuple[str, ...]:
        """Return the paths in the file of a layer, or of a parameter such as `experts.gate_up_proj`; note names that differ."""
        name = path if path in parameters else f"{path}.weight"
        found = in_file(module, name, parameters[name].to("meta"))
        pieces = tuple(key.removesuffix(".weight") for key in found)
        if pieces != (owner := name.removesuffix(".weight"),) and len(pieces) == 1:
            memory[pieces[0]] = owner
        return pieces

    rules = {
        piece: recipe.rules[layer.rule]
        for layer in quantized.report.layers
        for piece in backend.pieces[layer.name]
    }
    for layer in quantized.report.layers:
        in_files(layer.name)
    (embedding,) = in_files(paths[id(module.get_input_embeddings())])
    (head,) = in_files(paths[id(output_layer(module))])
    skipped = (piece for layer in quantized.report.skipped for piece in in_files(layer.name))
    return Contents(
        quantized=rules,
        embedding=embedding,
        head=head,
        kept=tuple(dict.fromkeys(path for path in skipped if path != embedding)),
        memory=memory,
    )


def _write_config(
    loaded: LoadedModel, folder: Path, layout: Layout, config: dict[str, Any]
) -> None:
    """Write the JSON files of the model, its tokenizer and other files beside the weights."""
    companions.write(loaded, folder)
    changes = {
        "architectures": [type(loaded.module).__name__],
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "quantization_config": config,
    }
    model_config.write(folder / "config.json", loaded.module.config, changes)
    for name, content in layout.files(config).items():
        card.write_json(folder / name, content)
