"""Which weights of a model a recipe quantizes, and why the others stay in float.

Nothing is left out silently: every matrix is chosen, or listed with a reason. A rule or a skip
pattern that matches nothing is an error.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.errors import ConfigError, UnsupportedRecipe
from harness.models.targets.targets import Other, Target
from harness.recipe.recipe import QuantRecipe
from harness.results.record import SkippedWeight

NOT = "!"
"""Prefix of a glob in `quant.skip`: targets that it matches are not skipped."""
ROUTER = "a router, or the gate of a shared expert; quant.skip with !router quantizes it"
UNREACHED = (
    "its weight is read by another module, where neither a kernel nor a rounded input has a place"
)


class Choice(NamedTuple):
    """A weight to quantize."""

    target: Target
    """One of the targets that share the weight; it stands for all (`Target.shared`)."""
    rule: str
    """Name of the rule."""


class Decision(NamedTuple):
    """What targets of one weight must have in common to be quantized together."""

    rule: str | None
    alias: str | None
    """A head and an embedding are stored apart once they are quantized."""
    bias: int | None
    """`id` of the bias, which a kernel holds beside the weight; None where no kernel does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which targets of a model are quantized."""

    chosen: tuple[Choice, ...]
    skipped: tuple[SkippedWeight, ...]
    untied: tuple[Target, ...]
    """Targets that get a copy of a shared weight: the recipe has another decision for them than for
    the first target with that weight."""
    left_out: tuple[str, ...]
    """Targets that a rule matches and that stay in float: no module is called with their weight."""

    @property
    def breaks_ties(self) -> bool:
        """Whether a library that ties weights again would undo the recipe."""
        return bool(self.untied) or any(choice.target.shared for choice in self.chosen)


def select(recipe: QuantRecipe, targets: Sequence[Target], others: Sequence[Other]) -> Selection:
    """Decide for each target. `others`, the matrices that are no targets, stay in float.

    Raises:
        ConfigError: A rule or a skip pattern of a quantizing recipe matches nothing.
        UnsupportedRecipe: The rules match only layers that are never called.
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
    _check_used(recipe, targets, others, used)
    chosen, untied = _by_weight(recipe, targets, rules)
    if left_out and not chosen:
        raise UnsupportedRecipe(
            f"recipe {recipe.name} must match some layer that is called, got only {left_out[0]} "
            f"and its like: {UNREACHED}; choose a weight-only recipe"
        )
    return Selection(
        chosen=tuple(chosen),
        skipped=tuple(skipped),
        untied=tuple(untied),
        left_out=tuple(left_out),
    )


def _decide(recipe: QuantRecipe, target: Target, used: set[str]) -> tuple[str | None, str]:
    """Return the rule for a target, or None and a reason; add to `used` what matched."""
    # 1. Skip patterns come before rules, and patterns behind `!` before the others.
    patterns = [pattern for pattern in recipe.skip if target.matches(pattern.removeprefix(NOT))]
    used.update(patterns)
    skips = [pattern for pattern in patterns if not pattern.startswith(NOT)]
    is_taken_out = len(skips) < len(patterns)
    if skips and not is_taken_out:
        return None, f"quant.skip has {skips[0]}"
    # 2. The first rule that matches decides.
    rule = next((name for name, r in recipe.rules.items() if target.matches(r.match)), None)
    if rule is None:
        return None, "no rule matches" if recipe.rules else "float baseline"
    # 3. Routers are skipped without a pattern. They do not count as a match of the rule.
    if target.alias == "router" and not is_taken_out:
        return None, ROUTER
    used.add(rule)
    return rule, ""


def _is_unreached(recipe: QuantRecipe, rule: str, target: Target) -> bool:
    """Say whether a rule needs a call of the layer, for a kernel or a hook, and there is none."""
    needs_call = recipe.backend.kind == "real" or recipe.rules[rule].input is not None
    return needs_call and not target.called and target.alias != "embed_tokens"


def _skip(target: Target, reason: str) -> SkippedWeight:
    if target.tied_to is not None:
        reason += f"; tied to {target.tied_to}"
    return SkippedWeight(name=target.name, shape=tuple(target.weight.shape), reason=reason)


def _by_weight(
    recipe: QuantRecipe, targets: Sequence[Target], rules: Sequence[str | None]
) -> tuple[list[Choice], list[Target]]:
    """Group targets by weight and decision; return what to quantize, and what to untie."""
    groups: dict[int, dict[Decision, list[Target]]] = defaultdict(lambda: defaultdict(list))
    for target, rule in zip(targets, rules, strict=True):
        holds_bias = rule is not None and recipe.backend.kind == "real"
        bias = getattr(target.owner, "bias", None) if holds_bias else None
        decision = Decision(rule, target.alias, None if bias is None else id(bias))
        groups[id(target.weight)][decision].append(target)
    # The first target of a group is quantized for all of them.
    chosen = [
        Choice(replace(members[0], shared=tuple(members[1:])), decision.rule)
        for group in groups.values()
        for decision, members in group.items()
        if decision.rule is not None
    ]
    # Where a weight has several groups, the first keeps it and each other one gets a copy.
    untied = [
        members[0]
        for group in groups.values()
        if any(decision.rule is not None for decision in group)
        for members in list(group.values())[1:]
    ]
    return chosen, untied


def _check_used(
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
                f"quant.skip must match some weight of the model, got {pattern!r}, "
                f"which matches none of: {shown}"
            )
    for name, rule in recipe.rules.items():
        if name not in used:
            raise ConfigError(
                f"quant.rules.{name}.match must match some weight that no earlier rule and no "
                f"quant.skip takes, got {rule.match!r}; the weights are: {shown}"
            )
