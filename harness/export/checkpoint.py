"""Write a quantized model as a folder: weights, configuration, tokenizer, and how it was made.

1. `recipe.quantize` quantizes the model, with a backend that also writes each layer. So an
   export has the same codes as a measured run of the recipe.
2. Everything is written under a temporary name. The model in memory leaves a reference file beside
   the folder.
3. Another process reads the folder and compares it with the reference (`verify`). Only if they
   agree does the folder get its name.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from harness.errors import AuditError, ConfigError, UnsupportedRecipe
from harness.export import card, engine_kernels, verify
from harness.export.backend import ExportBackend
from harness.export.companions import write_companions
from harness.export.contents import contents_of
from harness.export.layouts.layout import Contents, Layout
from harness.export.model_config import write_config
from harness.export.shards import ShardWriter
from harness.models.checkpoints.folder import sha256_file
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import find_others, find_targets
from harness.output import place
from harness.output.atomic import new_folder
from harness.output.export_folder import is_export, write_json
from harness.recipe import Quantized, QuantRecipe, quantize
from harness.recipe.selection import select

OUT_KEY = "out"
"""The key that names the folder, for errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written."""

    folder: Path
    files: tuple[str, ...]
    """Names of the weights files."""
    total_bytes: int
    """Size of all tensors [byte]."""
    scale_error: float
    """Largest relative difference between stored and exact scales."""
    warnings: tuple[str, ...]
    seconds: float
    """Time to read the folder back and to compare it [s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """A folder under its temporary name, before it is compared."""

    quantized: Quantized
    backend: ExportBackend
    contents: Contents
    config: dict[str, Any]
    files: list[Path]


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
    """Write the folder `out`; the model is unquantized again afterwards.

    Args:
        loaded: The unquantized model.
        recipe: How to quantize it; its backend is not used.
        layout: How the files hold quantized layers.
        out: A folder that does not exist, or is empty; with `force` also one that holds only an
            export.
        shard_bytes: Largest size of a file [byte].
        facts: More entries of the manifest and the model card: the command and the configuration.
        force: Replace an export.

    Raises:
        UnsupportedRecipe: The layout cannot hold the recipe, or not this model.
        OutputError: The folder must not be replaced, or cannot be written.
        AuditError: The model has NaN or infinity.
        ModelError: The folder does not read back as the recipe; it is not published.
    """
    check_export(recipe, layout, out, force=force)
    _check_no_nan(loaded)
    size = least_bytes(loaded, recipe)
    place.check_room(out, OUT_KEY, "folder", within=out.parent, size=size)
    with new_folder(out, OUT_KEY, force=force, is_own=is_export) as folder:
        # Beside the folder: it disappears together with the temporary folder around both.
        reference = folder.with_name("reference.safetensors")
        writer = ShardWriter(folder, shard_bytes)
        try:
            written = _write_model(loaded, recipe, layout, folder, writer)
            start = time.perf_counter()
            _remember(loaded, written.backend, reference)
        finally:
            loaded.restore()
        verify.in_child(folder, reference)
        seconds = time.perf_counter() - start
        manifest = {**facts, "layout": layout.name, **_manifest_facts(loaded, written)}
        card.write_card(folder, manifest, written.config)
    kernels = engine_kernels.kernel_warnings(written.contents, written.backend.shapes, loaded.dtype)
    return Exported(
        folder=out,
        files=tuple(file.name for file in written.files),
        total_bytes=writer.total_bytes,
        scale_error=manifest["scale_error"],
        warnings=(*loaded.warnings, *written.quantized.warnings, *kernels),
        seconds=seconds,
    )


def _write_model(
    loaded: LoadedModel, recipe: QuantRecipe, layout: Layout, folder: Path, writer: ShardWriter
) -> _Written:
    """Quantize the model, and write everything but manifest and card."""
    backend = ExportBackend(layout=layout, writer=writer)
    quantized = quantize(loaded, replace(recipe, backend=backend))
    _write_rest(loaded, backend, writer)
    files = writer.close()
    contents = contents_of(loaded, recipe, quantized, backend)
    config = layout.config(contents)
    _write_settings(loaded, folder, layout, config)
    return _Written(
        quantized=quantized, backend=backend, contents=contents, config=config, files=files
    )


def _manifest_facts(loaded: LoadedModel, written: _Written) -> dict[str, Any]:
    """Return the part of the manifest about model, weights and recipe."""
    backend = written.backend
    return {
        "model": card.model_facts(loaded),
        "weights": {file.name: sha256_file(file) for file in written.files},
        "total_bytes": backend.writer.total_bytes,
        "scale_error": max(backend.scale_errors.values()),
        **card.quantization_facts(written.quantized, backend.scale_errors),
    }


def check_export(recipe: QuantRecipe, layout: Layout, out: Path, *, force: bool = False) -> None:
    """Check recipe, layout and folder, as far as that needs no model.

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
            "quant.backend must compute with the recipe's own codes in an export, got "
            f"{recipe.backend.name}, which changes weights before it quantizes them; add "
            "backend@quant.backend=fake to export the formats alone"
        )
    if reason := layout.unsupported(recipe.rules):
        raise UnsupportedRecipe(
            f"recipe {recipe.name} must be one that layout={layout.name} can hold, but {reason}; "
            f"it holds {layout.holds}"
        )
    place.folder_to_make(out, OUT_KEY, force=force, is_own=is_export)
    place.check_room(out, OUT_KEY, "folder", within=out.parent)


def least_bytes(loaded: LoadedModel, recipe: QuantRecipe) -> int:
    """Return a lower bound of the folder's size [byte]: codes without scales, other parameters."""
    module = loaded.module
    chosen = select(recipe, find_targets(module), find_others(module)).chosen
    bits = {id(target.weight): recipe.rules[rule].weight.element.bits for target, rule in chosen}
    sizes = [
        (parameter.numel(), bits.get(id(parameter), 8 * parameter.element_size()))
        for parameter in module.parameters()
    ]
    return sum(count * each for count, each in sizes) // 8


def _check_no_nan(loaded: LoadedModel) -> None:
    """Raise AuditError for a tensor with NaN or infinity, quantized or not."""
    for name, tensor in loaded.module.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise AuditError(
                "every number of a model must be finite to be exported, got NaN or infinity in "
                f"{name}; the checkpoint is damaged"
            )


def _write_rest(loaded: LoadedModel, backend: ExportBackend, writer: ShardWriter) -> None:
    """Write all tensors that are not quantized, each once: a tied head has no weight of its own."""
    written = set(backend.parameters.values())
    rest: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in loaded.module.state_dict(keep_vars=True).items():
        if name not in written and id(tensor) not in seen:
            seen.add(id(tensor))
            rest[name] = tensor.detach()
    writer.add(revert_weight_conversion(loaded.module, rest))


def _remember(loaded: LoadedModel, backend: ExportBackend, file: Path) -> None:
    """Write the reference of `verify`, with the scale error of a parameter under each name."""
    errors = {
        id(loaded.module.get_parameter(backend.parameters[target])): error
        for target, error in backend.scale_errors.items()
    }
    named = loaded.module.state_dict(keep_vars=True).items()
    verify.remember(loaded, {name: errors.get(id(value), 0.0) for name, value in named}, file)


def _write_settings(
    loaded: LoadedModel, folder: Path, layout: Layout, config: dict[str, Any]
) -> None:
    """Write the JSON files, the tokenizer and other files beside the weights."""
    write_companions(loaded, folder)
    changes = {
        "architectures": [type(loaded.module).__name__],
        "dtype": loaded.dtype_name,
        "quantization_config": config,
    }
    write_config(folder / "config.json", loaded.module.config, changes)
    for name, content in layout.files(config).items():
        write_json(folder / name, content)
