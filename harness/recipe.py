"""A recipe: which weights are stored in which format, and what computes with them.

`quantize` takes one target at a time: find its rule, quantize, let the backend put it in place, audit. Nothing is left
out silently. A rule or a skip pattern that matches nothing is an error, an audit compares what is in place with what
was promised, and the report lists every matrix that stayed in float, with the reason.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from harness.backends import probe, stored_layers
from harness.backends.base import Backend, Installed, PreparedBackend
from harness.backends.fake import FakeBackend
from harness.calibration.calibration_set import CalibrationSet
from harness.calibration.ranges import static_scales
from harness.errors import AuditError, ConfigError, UnsupportedRecipe
from harness.models.prequantized import Prequantized
from harness.models.source import LoadedModel
from harness.models.targets import Target, find_targets, find_unreachable
from harness.quant.layer import LayerRule, QuantizedLayer
from harness.quant.linear import StaticFormat
from harness.quant.quantize import fit as fit_scales
from harness.quant.quantize import quantize as quantize_tensor
from harness.quant.tensor import Scales
from harness.results.record import LayerReport, QuantReport, SkippedWeight

NO_RULES: Mapping[str, LayerRule] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantRecipe:
    """How a model is quantized. Without rules it is the float baseline."""

    name: str = "none"
    rules: Mapping[str, LayerRule] = field(default_factory=lambda: NO_RULES)
    """Named rules; the first whose glob matches a target decides."""
    skip: tuple[str, ...] = ("lm_head", "embed_tokens")
    """Globs of targets that stay in float; `lm_head` and `embed_tokens` mean the model's own, by any name."""
    group_size: int | None = None
    """Group size for the formats, which interpolate it: `quant.group_size=64`."""
    backend: Backend = field(default_factory=FakeBackend)
    calibration: CalibrationSet | None = None
    """The text that static scales are fitted to."""

    def __post_init__(self) -> None:
        """Refuse a group size that formats cannot use, and static scales without a source."""
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size must be >= 1, got {self.group_size}")
        for name, rule in self.rules.items():
            if rule.static_input and not (
                self.calibration
                and isinstance(rule.input, StaticFormat)
                and rule.input.granularity.block[0] == -1
            ):
                raise ValueError(
                    f"rules.{name} must have an input format with a scale that all tokens share, and calibration, to have "
                    f"static_input, got input {rule.input and rule.input.name} and calibration {self.calibration}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantized:
    """What a recipe did to a model."""

    report: QuantReport
    warnings: tuple[str, ...]


def quantize(loaded: LoadedModel, recipe: QuantRecipe) -> Quantized:
    """Quantize a model in place; `loaded.restore` undoes it.

    Raises:
        ConfigError: A rule or a skip pattern matches nothing.
        UnsupportedRecipe: The backend or a format cannot do this model on this device.
        AuditError: A weight is not what the recipe promised, or was not finite to begin with.
    """
    if loaded.prequantized is not None:
        return _as_it_came(loaded, loaded.prequantized, recipe)
    if reason := recipe.backend.supports(tuple(recipe.rules.values()), loaded.device):
        raise UnsupportedRecipe(
            f"recipe {recipe.name} must be one that {recipe.backend.name} runs on {loaded.device}, but {reason}"
        )
    targets = find_targets(loaded.module)
    chosen, skipped = _choose(recipe, targets)
    untied = _untie(loaded, targets, {target.name for target, _ in chosen})
    total = loaded.num_parameters + sum(target.weight.numel() for target in untied)
    unreachable = find_unreachable(loaded.module)
    static, static_warnings = _static_scales(loaded, recipe, chosen)
    prepared: tuple[str, ...] = ()
    if isinstance(recipe.backend, PreparedBackend):
        prepared = recipe.backend.prepare(loaded, [target for target, _ in chosen])
    layers = []
    packed_bits = 0
    kinds: dict[tuple[str, ...], tuple[Target, QuantizedLayer]] = {}
    for target, rule in chosen:
        scales = static.get(target.name)
        layer, installed = _quantize_target(loaded, recipe, target, rule, scales)
        layers.append(_layer_report(layer, installed))
        packed_bits += layer.weight.total_bits
        kinds.setdefault((rule, installed.kernel, str(layer.weight.shape)), (target, layer))
    compute = probe.measure(_in_place(loaded, recipe.backend, kinds.values()), loaded)
    num_quantized = sum(math.prod(layer.shape) for layer in layers)
    float_bits = loaded.dtype.itemsize * 8
    rest_bytes = (total - num_quantized) * loaded.dtype.itemsize
    report = QuantReport(
        name=recipe.name,
        formats={name: rule.weight.name for name, rule in recipe.rules.items()},
        input_formats={
            name: rule.input.name for name, rule in recipe.rules.items() if rule.input is not None
        },
        kind=recipe.backend.kind if layers else "none",
        backend=recipe.backend.name,
        compute=compute,
        num_quantized=num_quantized,
        coverage=num_quantized / total,
        bits_per_weight=packed_bits / num_quantized if layers else float(float_bits),
        model_bytes=rest_bytes + (packed_bits + 7) // 8,
        stored_bytes=rest_bytes + sum(layer.stored_bytes or 0 for layer in layers),
        skipped=(*skipped, *_unreachable(unreachable)),
        layers=tuple(layers),
    )
    warnings = (
        *_untied_warnings(untied),
        *_unreachable_warnings(unreachable, total, report),
        *_tail_warnings(layers),
        *_input_warnings(recipe),
        *static_warnings,
        *prepared,
        *probe.warnings_of(compute, recipe.backend.name, loaded),
    )
    return Quantized(report=report, warnings=warnings)


def _as_it_came(loaded: LoadedModel, stored: Prequantized, recipe: QuantRecipe) -> Quantized:
    """Report on a model that was quantized before it came here."""
    if recipe.rules:
        raise UnsupportedRecipe(
            f"quant must be none for a model that is quantized already, got {recipe.name} for a {loaded.origin}; "
            "leave quant out, or load the float checkpoint"
        )
    compute = stored_layers.measure(loaded) if stored.kind == "real" else None
    report = QuantReport(
        name=recipe.name,
        formats={"checkpoint": stored.scheme},
        kind=stored.kind,
        backend=stored.method,
        compute=compute,
        num_quantized=stored.num_quantized,
        coverage=stored.num_quantized / stored.num_parameters,
        bits_per_weight=stored.bits_per_weight,
        model_bytes=stored.file_bytes,
        stored_bytes=stored.stored_bytes,
        skipped=(),
        layers=(),
    )
    return Quantized(report=report, warnings=probe.warnings_of(compute, stored.method, loaded))


def audit_after(loaded: LoadedModel) -> None:
    """Raise AuditError if something took a quantized weight out again while the model was measured."""
    if lost := loaded.displaced():
        raise AuditError(
            f"every quantized weight must stay in place while it is measured, got {lost} of them replaced; "
            "the library that ran the model ties or reloads weights"
        )


def _choose(
    recipe: QuantRecipe, targets: Sequence[Target]
) -> tuple[list[tuple[Target, str]], list[SkippedWeight]]:
    """Return the targets to quantize, each with its rule's name, and the others with a reason."""
    chosen: list[tuple[Target, str]] = []
    skipped: list[SkippedWeight] = []
    used: set[str] = set()
    for target in targets:
        pattern = next((pattern for pattern in recipe.skip if target.matches(pattern)), None)
        rule = next((name for name, r in recipe.rules.items() if target.matches(r.match)), None)
        if pattern is not None:
            used.add(pattern)
            skipped.append(_skip(target, f"quant.skip has {pattern}"))
        elif rule is not None:
            used.add(rule)
            chosen.append((target, rule))
        else:
            skipped.append(_skip(target, "no rule matches" if recipe.rules else "float baseline"))
    _refuse_unused(recipe, targets, used)
    return chosen, skipped


def _refuse_unused(recipe: QuantRecipe, targets: Sequence[Target], used: set[str]) -> None:
    """Raise ConfigError for a rule or skip pattern of a quantizing recipe that matched nothing."""
    if not recipe.rules:
        return
    names = [target.name for target in targets]
    shown = ", ".join([*names[:8], *(["..."] if len(names) > 8 else []), *names[-2:]])
    for pattern in recipe.skip:
        if pattern not in used:
            raise ConfigError(
                f"quant.skip must match some weight of the model, got {pattern!r}, which matches none of: {shown}"
            )
    for name, rule in recipe.rules.items():
        if name not in used:
            raise ConfigError(
                f"quant.rules.{name}.match must match some weight that no earlier rule and no quant.skip "
                f"takes, got {rule.match!r}; the weights are: {shown}"
            )


def _skip(target: Target, reason: str) -> SkippedWeight:
    if target.tied_to is not None:
        reason += f"; tied to {target.tied_to}"
    return SkippedWeight(name=target.name, shape=tuple(target.weight.shape), reason=reason)


def _unreachable(parameters: Mapping[str, nn.Parameter]) -> list[SkippedWeight]:
    return [
        SkippedWeight(
            name=name,
            shape=tuple(parameter.shape),
            reason="not the weight of a linear layer, the token embedding or an expert stack",
        )
        for name, parameter in parameters.items()
    ]


def _unreachable_warnings(
    unreachable: Mapping[str, nn.Parameter], total: int, report: QuantReport
) -> list[str]:
    """Say how much of the model no recipe can quantize."""
    if not unreachable or not report.layers:
        return []
    share = sum(parameter.numel() for parameter in unreachable.values()) / total
    return [
        f"{len(unreachable)} matrices with {share:.1%} of the parameters are of kinds that no recipe "
        "quantizes; quant.skipped lists them"
    ]


def _untie(loaded: LoadedModel, targets: Sequence[Target], chosen: set[str]) -> list[Target]:
    """Give tied weights of their own to targets of which one side is quantized; return those."""
    untied = [
        target
        for target in targets
        if target.tied_to is not None and chosen & {target.name, target.tied_to}
    ]
    if untied:
        loaded.untie()
    return untied


def _untied_warnings(untied: Sequence[Target]) -> list[str]:
    return [
        f"{target.name} was tied to {target.tied_to}; it has a weight of its own now, which adds "
        f"{target.weight.numel()} parameters"
        for target in untied
    ]


def _quantize_target(
    loaded: LoadedModel, recipe: QuantRecipe, target: Target, rule: str, scales: Scales | None
) -> tuple[QuantizedLayer, Installed]:
    weight = target.weight.detach()
    if target.transposed:
        raise UnsupportedRecipe(
            f"expert weights must be stored as [experts, out, in], got {target.name} {tuple(weight.shape)} "
            "stored as [experts, in, out]; add it to quant.skip"
        )
    if not weight.isfinite().all():
        raise AuditError(
            f"every weight must be finite, got NaN or infinity in {target.name}; "
            "the checkpoint is damaged"
        )
    fmt, input_format = recipe.rules[rule].weight, recipe.rules[rule].input
    if input_format is not None and not isinstance(target.owner, nn.Linear):
        raise UnsupportedRecipe(
            f"inputs are rounded for linear layers, got rule {rule} with an input format for {target.name}; "
            "add it to quant.skip, or give it a rule without input"
        )
    try:
        quantized = quantize_tensor(weight, fmt)
    except ValueError as reason:
        raise UnsupportedRecipe(
            f"{reason} (layer {target.name}); or add the layer to quant.skip"
        ) from reason
    rounded = quantized.dequantize()
    if lost := int((~rounded.isfinite()).sum()):
        raise AuditError(
            f"{fmt.name} must hold every weight as a finite number, got {lost} of {rounded.numel()} NaN or infinite "
            f"in {target.name}; choose a format with a wider range"
        )
    layer = QuantizedLayer(
        name=target.name,
        rule=rule,
        format=fmt,
        weight=quantized,
        rel_error=_relative_error(weight, rounded),
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
    loaded: LoadedModel, backend: Backend, kinds: Iterable[tuple[Target, QuantizedLayer]]
) -> Iterator[probe.Layer]:
    """Yield the linear layers that the backend has put in place, with what each is to multiply."""
    installed = {id(swap.installed) for swap in loaded.swaps}
    for target, layer in kinds:
        if not isinstance(target.owner, nn.Linear):
            continue
        module: Any = loaded.module.get_submodule(target.name)
        if installed.isdisjoint({id(module), id(getattr(module, "weight", None))}):
            continue  # an export writes layers and leaves the model as it is
        operands = probe.operands_of(layer)
        if isinstance(backend, probe.OwnOperands):
            operands = backend.operands(loaded, target, layer)
        yield probe.Layer(target.name, module, operands, target.owner.bias)


def _static_scales(
    loaded: LoadedModel, recipe: QuantRecipe, chosen: Sequence[tuple[Target, str]]
) -> tuple[dict[str, Scales], tuple[str, ...]]:
    """Return the input scales of the layers that have static ones, and warnings."""
    layers = {
        target.name: (target.owner, fmt)
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


def _layer_report(layer: QuantizedLayer, installed: Installed) -> LayerReport:
    shape = layer.weight.codes.shape
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


def _input_warnings(recipe: QuantRecipe) -> list[str]:
    """Say where rounding an input depends on what else is in the batch."""
    tokens = torch.empty(2, 64, device="meta")
    return [
        f"inputs of rule {name} in {rule.input.name} share scales between tokens: results depend on how sequences are batched"
        for name, rule in recipe.rules.items()
        if rule.input is not None
        and not rule.static_input
        and any(
            plane.granularity.block[0] != 1 for plane in fit_scales(tokens, rule.input).all_planes()
        )
    ]


def _tail_warnings(layers: Sequence[LayerReport]) -> list[str]:
    """Say, for each format and row length, which layers end their rows with a short group."""
    short: dict[tuple[str, int], list[str]] = defaultdict(list)
    for layer in layers:
        if layer.short_tail:
            short[layer.format, layer.shape[-1]].append(layer.name)
    return [
        f"{fmt}: rows of {length} end with a short group in {len(names)} layers: {', '.join(names)}"
        for (fmt, length), names in short.items()
    ]
