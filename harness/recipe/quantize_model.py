"""The steps from an unquantized model to a quantized one, and the audit after it was measured."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from harness.backends import probe
from harness.backends.base import Backend, Installed, PreparedBackend
from harness.backends.layer import QuantizedLayer
from harness.calibration.ranges import static_scales
from harness.errors import AuditError, UnsupportedRecipe
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Other, find_others, find_targets
from harness.models.targets.usage import NUM_TOKENS
from harness.quant.range import StaticFormat
from harness.quant.tensor import Scales
from harness.recipe.checkpoint import checkpoint_of, report_checkpoint
from harness.recipe.quantized_layer import quantize_layer
from harness.recipe.recipe import QuantRecipe
from harness.recipe.report import Quantized, recipe_warnings, report_on, sizes_of
from harness.recipe.selection import Choice, Selection, select


def quantize(
    loaded: LoadedModel, recipe: QuantRecipe, *, backend: Backend | None = None
) -> Quantized:
    """Quantize a model in place; `loaded.restore` undoes it.

    Select the weights, untie those that are quantized on one side only, fit static scales, prepare
    the backend, quantize each layer, measure the matmuls, report.

    Args:
        loaded: The unquantized model.
        recipe: What to quantize, and what computes with it.
        backend: Runs in the place of the recipe's backend, on the same choice of weights.

    Raises:
        ConfigError: A rule or a skip pattern matches nothing.
        UnsupportedRecipe: The backend or a format cannot do this model on this device.
        AuditError: A weight is not what the recipe promised, or was not finite to begin with.
    """
    if (stored := checkpoint_of(loaded, recipe)) is not None:
        return report_checkpoint(loaded, stored, recipe)
    backend = backend or recipe.backend
    _check_support(recipe, backend, loaded.device)
    others = find_others(loaded.module)
    # The recipe's own backend has a say in the choice: its fake form leaves out the same layers.
    selection = select(recipe, find_targets(loaded.module), others)
    recipe = replace(recipe, backend=backend)
    sizes = sizes_of(
        loaded, selection, others
    )  # of the unquantized model: before anything is replaced
    if selection.breaks_ties:
        loaded.untie()
    scales, text_warnings = _static_scales(loaded, recipe, selection.chosen)
    notes = _prepare(loaded, backend, selection.chosen)
    layers = [
        quantize_layer(loaded, recipe, choice, scales.get(choice.target.name))
        for choice in selection.chosen
    ]
    if recipe.rules:
        _forbid_calls(loaded, others)
    compute = probe.worst_compute(_in_place(loaded, recipe, selection, layers), loaded)
    report = report_on(recipe, selection, sizes, layers, loaded.dtype, compute)
    warnings = (
        *recipe_warnings(recipe, selection, sizes, report),
        *text_warnings,
        *notes,
        *probe.compute_warnings(compute, backend.name, loaded),
    )
    return Quantized(report=report, warnings=warnings)


def audit_after(loaded: LoadedModel) -> None:
    """Check that every quantized weight is still in place after the model was measured.

    Raises:
        AuditError: Some are not.
    """
    if lost := loaded.count_displaced():
        raise AuditError(
            f"every quantized weight must stay in place while it is measured, got {lost} of them "
            "replaced; the library that ran the model ties or reloads weights"
        )


def _check_support(recipe: QuantRecipe, backend: Backend, device: torch.device) -> None:
    """Raise UnsupportedRecipe if a backend cannot run the rules on a device."""
    if reason := backend.supports(tuple(recipe.rules.values()), device):
        raise UnsupportedRecipe(
            f"recipe {recipe.name} must be one that {backend.name} runs on {device}, but {reason}"
        )


def _static_scales(
    loaded: LoadedModel, recipe: QuantRecipe, chosen: Sequence[Choice]
) -> tuple[dict[str, Scales], tuple[str, ...]]:
    """Return the static scales of activations by target, and warnings about the text."""
    layers = {
        choice.target.name: (choice.target, fmt)
        for choice in chosen
        if recipe.rules[choice.rule].static_input
        and isinstance(fmt := recipe.rules[choice.rule].input, StaticFormat)
    }
    if not layers or recipe.calibration is None:
        return {}, ()
    return static_scales(loaded, layers, recipe.calibration)


def _prepare(loaded: LoadedModel, backend: Backend, chosen: Sequence[Choice]) -> tuple[str, ...]:
    """Let a backend see the whole unquantized model; return its warnings."""
    if isinstance(backend, PreparedBackend):
        return backend.prepare(loaded, [choice.target for choice in chosen])
    return ()


def _forbid_calls(loaded: LoadedModel, others: Sequence[Other]) -> None:
    """Make calls of layers fail that stayed in float because the usage run did not call them.

    `find_targets` runs the model on a few tokens. A layer that only some texts need is no target
    then, and must not be measured in float without a word.
    """

    def hook_for(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object) -> None:
            raise AuditError(
                f"a layer that {NUM_TOKENS} tokens do not need must not be needed by a longer "
                f"text, got a call of {path}, which {type(loaded.module).__name__} makes for some "
                "texts only, so that it stayed in float; take quant=none"
            )

        return hook

    for path in {other.name.rpartition(".")[0] for other in others if other.is_asleep}:
        owner = loaded.module.get_submodule(path)
        loaded.hooks.append(owner.register_forward_pre_hook(hook_for(path)))


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
        # An export leaves the model as it is (kernel none): nothing multiplies with the codes.
        if kind in seen or target.linear is None or installed.kernel == "none":
            continue
        seen.add(kind)
        operands = probe.operands_of(layer)
        if isinstance(recipe.backend, probe.OwnOperands):
            operands = recipe.backend.operands(loaded, target, layer)
        module = loaded.module.get_submodule(target.name)
        yield probe.Layer(target.name, module, operands, target.linear.bias)
