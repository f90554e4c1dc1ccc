"""Which recipe to take at each size: the smallest one whose loss was shown to be within the margin.

Only the user knows which loss does not matter. So nothing is recommended without a margin, and a
recipe that was merely not told apart from the baseline is not recommended: it may lose more.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.claims.chance import at_chance
from harness.claims.claim import Answered, Claim, Comparison
from harness.claims.grouping import Row
from harness.claims.measure import KL, Measure, measure_of
from harness.claims.verdict import Verdict
from harness.results.record import ModelInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """What is recommended for a model at one size."""

    model: ModelInfo
    bits: int
    """Whole bits of a weight: 8 for 8.047 bits/weight."""
    row: Row | None
    """The recipe with the fewest bits of those within every margin; None if none is."""


def recommendations(
    answered: Sequence[Answered], suspect: Iterable[Row] = ()
) -> list[Recommendation]:
    """Return what is recommended for each model at each size, largest first; none without margins.

    A recipe is recommended if

    - each measure with a margin was measured, and every comparison by it says "equivalent";
    - no other comparison says "worse"; the KL divergence is no loss of a task and does not count
      without a margin;
    - no row of it is suspect.

    Tasks where the baseline is not above guessing show no loss, and do not count.

    Args:
        answered: The groups of a report, with their claims.
        suspect: Rows that must be explained before anybody uses them.
    """
    models: dict[tuple[str, ...], list[Answered]] = defaultdict(list)
    for each in answered:
        model = each.group.model
        if measure_of(each.group.task.name) is not None and at_chance(each.group) is None:
            models[model.name, model.fingerprint, model.dtype, model.device].append(each)
    named = {row.label for row in suspect}
    return [found for of_model in models.values() for found in _of_model(of_model, named)]


def _of_model(answered: Sequence[Answered], suspect: set[str]) -> Iterable[Recommendation]:
    compared: dict[str, list[Comparison]] = defaultdict(list)
    for each in answered:
        for found in each.against_baseline.values():
            compared[found.row.label].append(found)
    asked = {
        found.evidence.measure
        for of_recipe in compared.values()
        for found in of_recipe
        if isinstance(found, Claim) and found.evidence.margin is not None
    }
    if not asked:
        return
    sizes: dict[int, list[Row]] = defaultdict(list)
    for label, of_recipe in compared.items():
        row = of_recipe[0].row
        within = sizes[math.floor(row.quant.bits_per_weight)]
        if label not in suspect and _is_within(of_recipe, asked):
            within.append(row)
    for bits in sorted(sizes, reverse=True):
        fewest = min(sizes[bits], key=lambda row: row.quant.bits_per_weight, default=None)
        yield Recommendation(model=answered[0].group.model, bits=bits, row=fewest)


def _is_within(compared: Sequence[Comparison], asked: set[Measure]) -> bool:
    """Say whether a recipe was shown to be within every margin, and nowhere to be worse."""
    claims = [each for each in compared if isinstance(each, Claim)]
    with_margin = [each for each in claims if each.evidence.measure in asked]
    others = [each for each in claims if each.evidence.measure not in (*asked, KL)]
    return (
        len(claims) == len(compared)
        and {each.evidence.measure for each in with_margin} == asked
        and all(each.verdict is Verdict.EQUIVALENT for each in with_margin)
        and all(each.verdict is not Verdict.WORSE for each in others)
    )
