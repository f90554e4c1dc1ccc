"""Quantize a model one target at a time: the backend puts each quantized weight in place, and an audit checks it.

The report lists every matrix that stayed in float, with the reason.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.backends import probe
from harness.backends.base import Backend, Installed, PreparedBackend
from harness.backends.layer import QuantizedLayer
from harness.calibration.ranges import static_scales
from harness.errors import AuditError, UnsupportedRecipe
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Other, Target, find_others, find_targets
from harness.models.targets.usage import NUM_TOKENS
from harness.quant.overflow import FormatOverflow, refuse_overflow
from harness.quant.primitives import encode, fit
from harness.quant.range import StaticFormat
from harness.quant.tensor import Scales
from harness.recipe.checkpoint import as_it_came
from harness.recipe.recipe import QuantRecipe
from harness.recipe.report import Quantized, report_on, sizes_of, warnings_of
from harness.recipe.selection import Selection, select


def quantize(
    loaded: LoadedModel, recipe: QuantRecipe, *, backend: Backend | None = None
) -> Quantized:
    """Quantize a model in place; `loaded.restore` undoes it.

    Args:
        loaded: The float model.
        recipe: What to quantize, and what computes with it.
        backend: Runs instead of the recipe's own backend, on the same choice of weights.

    Raises:
        ConfigError: A rule or a skip pattern matches nothing.
        UnsupportedRecipe: The backend or a format cannot do this model on this device.
        AuditError: A weight is not what the recipe promised, or was not finite to begin with.
    """
    came = loaded.prequantized or (None if recipe.rules else loaded.dequantized)
    if came is not None:
        return as_it_came(loaded, came, recipe)
    backend = backend or recipe.backend
    if reason := backend.supports(tuple(recipe.rules.values()), loaded.device):
        raise UnsupportedRecipe(
            f"recipe {recipe.name} must be one that {backend.name} runs on {loaded.device}, but {reason}"
        )
    others = find_others(loaded.module)
    selection = select(recipe, find_targets(loaded.module), others)
    recipe = replace(recipe, backend=backend)
    if selection.untied or any(target.shared for target, _ in selection.chosen):
        loaded.untie()
    sizes = sizes_of(loaded, selection, others)
    static, static_warnings = _static_scales(loaded, recipe, selection.chosen)
    prepared: tuple[str, ...] = ()
    if isinstance(backend, PreparedBackend):
        prepared = backend.prepare(loaded, [target for target, _ in selection.chosen])
    layers = [
        _quantize_target(loaded, recipe, target, rule, static.get(target.name))
        for target, rule in selection.chosen
    ]
    if recipe.rules:
        _keep_asleep(loaded, others)
    compute = probe.measure(_in_place(loaded, recipe, selection, layers), loaded)
    report = report_on(recipe, selection, sizes, layers, loaded.dtype, compute)
    warnings = (
        *warnings_of(recipe, selection, sizes, report),
        *static_warnings,
        *prepared,
        *probe.warnings_of(compute, backend.name, loaded),
    )
    return Quantized(report=report, warnings=warnings)


def audit_after(loaded: LoadedModel) -> None:
    """Raise AuditError if a quantized weight was replaced while the model was measured."""
    if lost := loaded.count_displaced():
        raise AuditError(
            f"every quantized weight must stay in place while it is measured, got {lost} of them replaced; "
            "the library that ran the model ties or reloads weights"
        )


def _keep_asleep(loaded: LoadedModel, others: Sequence[Other]) -> None:
    """Let a run fail that calls a layer which the recipe left out because a few tokens did not need it."""

    def refuse(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object) -> None:
            raise AuditError(
                f"a layer that {NUM_TOKENS} tokens do not need must not be needed by a longer text, got a call of {path}, which "
                f"{type(loaded.module).__name__} makes for some texts only, so that it stayed in float; take quant=none"
            )

        return hook

    for path in {other.name.rpartition(".")[0] for other in others if other.is_asleep}:
        owner = loaded.module.get_submodule(path)
        loaded.hooks.append(owner.register_forward_pre_hook(refuse(path)))


def _quantize_target(
    loaded: LoadedModel, recipe: QuantRecipe, target: Target, rule: str, scales: Scales | None
) -> tuple[QuantizedLayer, Installed]:
    matrix = target.matrix
    if not matrix.isfinite().all():
        raise AuditError(
            f"every weight must be finite, got NaN or infinity in {target.name}; "
            "the checkpoint is damaged"
        )
    fmt, input_format = recipe.rules[rule].weight, recipe.rules[rule].input
    if input_format is not None and target.alias == "embed_tokens":
        raise UnsupportedRecipe(
            f"inputs are rounded where a weight is multiplied, got rule {rule} with an input format for "
            f"{target.name}; add it to quant.skip, or give it a rule without input"
        )
    try:
        quantized = encode(matrix, fmt, fit(matrix, fmt))
        rounded = quantized.dequantize()
        # In the model's type: what is finite in float32 may be infinite in float16.
        refuse_overflow(matrix, rounded.to(matrix.dtype), fmt.name)
    except FormatOverflow as reason:
        raise AuditError(f"{reason} (layer {target.name})") from reason
    except ValueError as reason:
        raise UnsupportedRecipe(
            f"{reason} (layer {target.name}); or add the layer to quant.skip"
        ) from reason
    layer = QuantizedLayer(
        name=target.name,
        rule=rule,
        format=fmt,
        weight=quantized,
        rel_error=_relative_error(matrix, rounded),
        input=input_format,
        input_scales=scales,
    )
    recipe.backend.apply(loaded, target, layer)
    installed = recipe.backend.inspect(loaded, target, layer)
    if installed.fault:
        raise AuditError(
            f"layer {target.name} must be in format {fmt.name}, got: {installed.fault}"
        )
    return layer, installed


def _in_place(
    loaded: LoadedModel,
    recipe: QuantRecipe,
    selection: Selection,
    layers: Sequence[tuple[QuantizedLayer, Installed]],
) -> Iterator[probe.Layer]:
    """Yield the first linear layer of each rule, kernel and shape, with what it should multiply."""
    seen: set[tuple[str, str, torch.Size]] = set()
    for (target, rule), (layer, installed) in zip(selection.chosen, layers, strict=True):
        kind = rule, installed.kernel, layer.weight.shape
        # An export leaves the model as it is: nothing multiplies with the codes.
        if kind in seen or target.linear is None or installed.kernel == "none":
            continue
        seen.add(kind)
        operands = probe.operands_of(layer)
        if isinstance(recipe.backend, probe.OwnOperands):
            operands = recipe.backend.operands(loaded, target, layer)
        module = loaded.module.get_submodule(target.name)
        yield probe.Layer(target.name, module, operands, target.linear.bias)


def _static_scales(
    loaded: LoadedModel, recipe: QuantRecipe, chosen: Sequence[tuple[Target, str]]
) -> tuple[dict[str, Scales], tuple[str, ...]]:
    """Return the input scales of the layers that have static ones, and warnings."""
    layers = {
        target.name: (target, fmt)
        for target, rule in chosen
        if recipe.rules[rule].static_input
        and isinstance(fmt := recipe.rules[rule].input, StaticFormat)
    }
    if not layers or recipe.calibration is None:
        return {}, ()
    return static_scales(loaded, layers, recipe.calibration)


def _relative_error(exact: Tensor, rounded: Tensor) -> float:
    norm = float(exact.double().norm())
    error = float((exact.double() - rounded.double()).norm())
    return error / norm if norm else error
