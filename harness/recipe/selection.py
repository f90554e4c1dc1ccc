"""Which targets a recipe quantizes, and why the other weights of the model stay in float.

Nothing is left out silently: every matrix is chosen or listed with a reason, and a rule or a skip pattern that matches nothing is
an error.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.errors import ConfigError, UnsupportedRecipe
from harness.models.targets.targets import Other, Target
from harness.recipe.recipe import QuantRecipe
from harness.results.record import SkippedWeight

Decision = tuple[str | None, str | None, int]
"""Targets of one weight are quantized together if these agree: rule, alias, and `id` of the bias that a kernel holds with the weight."""
NOT = "!"
"""Prefix of a glob in `quant.skip`: targets that it matches are not skipped."""
ROUTER = "a router, or the gate of a shared expert; quant.skip with !router quantizes it"
UNREACHED = (
    "its weight is read by another module, where neither a kernel nor a rounded input has a place"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which targets of a model are quantized."""

    chosen: tuple[tuple[Target, str], ...]
    """Targets to quantize, each with its rule's name. One of several that share a weight stands for all (`Target.shared`)."""
    skipped: tuple[SkippedWeight, ...]
    untied: tuple[Target, ...]
    """Targets that get a copy of a shared weight, because the recipe treats another target with that weight differently."""
    left_out: tuple[str, ...]
    """Names of targets that a rule matches but that stay in float, because no module is called with their weight."""


def select(recipe: QuantRecipe, targets: Sequence[Target], others: Sequence[Other]) -> Selection:
    """Decide for each target; the other matrices of the model stay in float as they are.

    Raises:
        ConfigError: A rule or a skip pattern of a quantizing recipe matches nothing.
        UnsupportedRecipe: A rule matches nothing but layers that it cannot be applied to.
    """
    rules: list[str | None] = []
    skipped: list[SkippedWeight] = []
    left_out: list[str] = []
    used: set[str] = set()
    for target in targets:
        rule, reason = _decide(recipe, target, used)
        if rule is not None and _is_unreached(recipe, rule, target):
            left_out.append(target.name)
            rule, reason = None, UNREACHED
        rules.append(rule)
        if rule is None:
            skipped.append(_skip(target, reason))
    _refuse_unused(recipe, targets, others, used)
    chosen, untied = _by_weight(recipe, targets, rules)
    if left_out and not chosen:
        raise UnsupportedRecipe(
            f"recipe {recipe.name} must match some layer that is called, got only {left_out[0]} and its like: {UNREACHED}; "
            "choose a weight-only recipe"
        )
    return Selection(
        chosen=tuple(chosen),
        skipped=tuple(skipped),
        untied=tuple(untied),
        left_out=tuple(left_out),
    )


def _decide(recipe: QuantRecipe, target: Target, used: set[str]) -> tuple[str | None, str]:
    """Return the rule for a target, or None and the reason; note what matched."""
    kept = [pattern for pattern in recipe.skip if _matches(target, pattern)]
    used.update(kept)
    taken_out = any(pattern.startswith(NOT) for pattern in kept)
    pattern = next((pattern for pattern in kept if not pattern.startswith(NOT)), None)
    if pattern is not None and not taken_out:
        return None, f"quant.skip has {pattern}"
    rule = next((name for name, r in recipe.rules.items() if target.matches(r.match)), None)
    if rule is None:
        return None, "no rule matches" if recipe.rules else "float baseline"
    if target.alias == "router" and not taken_out:
        return None, ROUTER
    used.add(rule)
    return rule, ""


def _matches(target: Target, pattern: str) -> bool:
    return target.matches(pattern.removeprefix(NOT))


def _is_unreached(recipe: QuantRecipe, rule: str, target: Target) -> bool:
    """Say whether a rule asks for what only a layer that is called can have: a kernel, or an input to round."""
    wants_call = recipe.backend.kind == "real" or recipe.rules[rule].input is not None
    return wants_call and not target.called and target.alias != "embed_tokens"


def _skip(target: Target, reason: str) -> SkippedWeight:
    if target.tied_to is not None:
        reason += f"; tied to {target.tied_to}"
    return SkippedWeight(name=target.name, shape=tuple(target.weight.shape), reason=reason)


def _by_weight(
    recipe: QuantRecipe, targets: Sequence[Target], rules: Sequence[str | None]
) -> tuple[list[tuple[Target, str]], list[Target]]:
    """Group targets that share a weight and a decision; return the ones to quantize, and the ones to untie from the first."""
    parts: dict[int, dict[Decision, list[Target]]] = defaultdict(lambda: defaultdict(list))
    for target, rule in zip(targets, rules, strict=True):
        # A kernel holds the bias of its layer too. A head and an embedding are stored apart once they are quantized.
        holds_bias = rule is not None and recipe.backend.kind == "real"
        bias = getattr(target.owner, "bias", None) if holds_bias else None
        parts[id(target.weight)][rule, target.alias, id(bias)].append(target)
    chosen = [
        (replace(members[0], shared=tuple(members[1:])), rule)
        for decisions in parts.values()
        for (rule, _, _), members in decisions.items()
        if rule is not None
    ]
    untied = [
        members[0]
        for decisions in parts.values()
        if any(rule is not None for rule, _, _ in decisions)
        for members in list(decisions.values())[1:]
    ]
    return chosen, untied


def _refuse_unused(
    recipe: QuantRecipe, targets: Sequence[Target], others: Sequence[Other], used: set[str]
) -> None:
    """Raise ConfigError for a rule or skip pattern of a quantizing recipe that matched nothing."""
    if not recipe.rules:
        return
    names = [target.name for target in targets]
    shown = ", ".join([*names[:8], *(["..."] if len(names) > 8 else []), *names[-2:]])
    for pattern in recipe.skip:
        if pattern not in used and not any(other.matches(pattern) for other in others):
            raise ConfigError(
                f"quant.skip must match some weight of the model, got {pattern!r}, which matches none of: {shown}"
            )
    for name, rule in recipe.rules.items():
        if name not in used:
            raise ConfigError(
                f"quant.rules.{name}.match must match some weight that no earlier rule and no quant.skip "
                f"takes, got {rule.match!r}; the weights are: {shown}"
            )
