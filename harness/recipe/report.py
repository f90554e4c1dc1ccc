"""The report on a quantized model: the `quant` part of the record, and warnings."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.backends.base import BatchedBackend, Installed
from harness.backends.layer import QuantizedLayer
from harness.messages import BATCH_DEPENDENT, plural
from harness.models.checkpoints.loading_report import first_names
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Other, num_unused
from harness.quant.primitives import fit as fit_scales
from harness.recipe.recipe import QuantRecipe
from harness.recipe.selection import Selection
from harness.results.record import Compute, LayerReport, QuantReport, SkippedWeight


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantized:
    """What a recipe did to a model."""

    report: QuantReport
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Numbers of parameters of the unquantized model, counted before anything is put in place."""

    num_parameters: int
    """All parameters, with the copies that untied weights add."""
    num_used: int
    """Parameters that a text run needs."""
    others: tuple[Other, ...]
    """Matrices that no recipe can quantize."""


def sizes_of(loaded: LoadedModel, selection: Selection, others: Sequence[Other]) -> Sizes:
    """Count the parameters of an unquantized model, and of the copies that untying makes."""
    untied = sum(target.weight.numel() for target in selection.untied)
    total = loaded.num_parameters + untied
    return Sizes(
        num_parameters=total,
        num_used=total - num_unused(loaded.module),
        others=tuple(others),
    )


def report_on(
    recipe: QuantRecipe,
    selection: Selection,
    sizes: Sizes,
    layers: Sequence[tuple[QuantizedLayer, Installed]],
    dtype: torch.dtype,
    compute: Compute | None,
) -> QuantReport:
    """Return the `quant` part of the record.

    Args:
        recipe: What was asked for, with the backend that ran.
        selection: Which weights were quantized, and which were skipped.
        sizes: Numbers of parameters of the unquantized model.
        layers: Each quantized layer, and what is in its place.
        dtype: Type of the weights that stay in float.
        compute: Measured error of the matmuls; None where nothing could be measured.
    """
    num_quantized = sum(math.prod(layer.weight.shape) for layer, _ in layers)
    packed_bits = sum(layer.weight.total_bits for layer, _ in layers)
    # What stays in float, biases and norms included.
    rest_bytes = (sizes.num_parameters - num_quantized) * dtype.itemsize
    return QuantReport(
        name=recipe.name,
        formats={name: rule.weight.name for name, rule in recipe.rules.items()},
        input_formats={
            name: rule.input.name for name, rule in recipe.rules.items() if rule.input is not None
        },
        kind=recipe.backend.kind if layers else "none",
        backend=recipe.backend.name,
        compute=compute,
        num_quantized=num_quantized,
        coverage=num_quantized / sizes.num_used,
        bits_per_weight=packed_bits / num_quantized if layers else float(dtype.itemsize * 8),
        # Codes of 3 or 5 bits need not end at a byte: round up.
        model_bytes=rest_bytes + (packed_bits + 7) // 8,
        stored_bytes=rest_bytes + sum(installed.stored_bytes for _, installed in layers),
        skipped=(*selection.skipped, *map(_skipped, sizes.others)),
        layers=tuple(_layer_report(layer, installed) for layer, installed in layers),
        calibration=recipe.calibrated_on.info() if recipe.calibrated_on else None,
    )


def recipe_warnings(
    recipe: QuantRecipe, selection: Selection, sizes: Sizes, report: QuantReport
) -> tuple[str, ...]:
    """Return warnings on the choice of weights and formats."""
    return (
        *_untied_warnings(selection),
        *_left_out_warnings(selection),
        *_others_warnings(sizes, report),
        *_tail_warnings(report.layers),
        *_activation_warnings(recipe),
    )


def _skipped(other: Other) -> SkippedWeight:
    return SkippedWeight(name=other.name, shape=tuple(other.parameter.shape), reason=other.reason)


def _layer_report(layer: QuantizedLayer, installed: Installed) -> LayerReport:
    shape = layer.weight.shape
    return LayerReport(
        name=layer.name,
        rule=layer.rule,
        format=layer.format.name,
        shape=tuple(shape),
        bits_per_weight=layer.weight.total_bits / shape.numel(),
        rel_error=layer.rel_error,
        short_tail=layer.format.granularity.has_tail(shape),
        kernel=installed.kernel,
        stored_bytes=installed.stored_bytes,
    )


def _untied_warnings(selection: Selection) -> list[str]:
    return [
        f"{target.name} was tied to {target.tied_to}; it has a weight of its own now, which adds "
        f"{target.weight.numel()} parameters"
        for target in selection.untied
    ]


def _left_out_warnings(selection: Selection) -> list[str]:
    """Return a warning that names the layers that a rule matches and that stay in float."""
    if not selection.left_out:
        return []
    return [
        "layers stay in float because another module reads their weight without calling them: "
        f"{', '.join(selection.left_out)}"
    ]


def _others_warnings(sizes: Sizes, report: QuantReport) -> list[str]:
    """Return a warning with the share of parameters that no recipe can quantize."""
    used = [other.parameter.numel() for other in sizes.others if other.is_used]
    if not used or not report.layers:
        return []
    return [
        f"{len(used)} matrices with {sum(used) / sizes.num_used:.1%} of the parameters are of "
        "kinds that no recipe quantizes; quant.skipped lists them"
    ]


def _activation_warnings(recipe: QuantRecipe) -> list[str]:
    """Warn about activations whose rounding depends on the other tokens of the batch."""
    # Scales have the granularity of their format only after a fit: formats may add levels.
    tokens = torch.empty(2, 64, device="meta")
    backend = recipe.backend
    effect = backend.batch_effect if isinstance(backend, BatchedBackend) else None
    own = [f"{effect}: {BATCH_DEPENDENT}"] if effect and recipe.rules else []
    return own + [
        f"activations of rule {name} in {rule.input.name} share scales between tokens: "
        f"{BATCH_DEPENDENT}"
        for name, rule in recipe.rules.items()
        if rule.input is not None
        and not rule.static_input
        and any(
            plane.granularity.block[0] != 1 for plane in fit_scales(tokens, rule.input).all_planes()
        )
    ]


def _tail_warnings(layers: Sequence[LayerReport]) -> list[str]:
    """Warn, for each format and row length, about layers whose rows end with a short group."""
    short: dict[tuple[str, int], list[str]] = defaultdict(list)
    for layer in layers:
        if layer.short_tail:
            short[layer.format, layer.shape[-1]].append(layer.name)
    return [
        f"{fmt}: rows of {length} end with a short group in {len(names)} "
        f"{plural('layer', len(names))}: {first_names(names)}"
        for (fmt, length), names in short.items()
    ]
