"""Whether real backends compute what their fake-quantized form promises."""

import pandas as pd

from harness.claims.grouping import Group, Row
from harness.report.sections.section import Section, runs_of
from harness.results import formatting as figures
from harness.results import names

PARITY_WORDS = {True: "real = fake", False: "real is not fake", None: "differs, no tolerance"}
"""Verdict of `parity_of` in words."""


def parities(group: Group) -> Section | None:
    """Return how far each real recipe is from its fake-quantized form and from the baseline."""
    if group.task.name != names.PARITY:
        return None
    model = group.model
    return Section(
        name="parity",
        title=f"Real against fake: {model.name}, {model.dtype} on {model.device}{group.suffix}",
        text=(
            f"Protocol: {group.task.protocol}\n"
            f"The same weights and {figures.count(group.headline)}. Real = fake if the output of "
            "every layer is within the tolerance that the backend states, relative to its norm and "
            "on the input of the fake layer; the layer that differs most is shown. Other columns "
            "are end to end, first the mean magnitude of the difference of the next token's "
            f"log-probability ({group.headline.note}). Layers that round their inputs amplify "
            "differences in the last place to the size of what rounding does at all, which the "
            "distances from the unquantized model show. Products says how exactly the backend "
            "multiplied on its processor, as measured; records made before that was kept have "
            f"{figures.MISSING}."
        ),
        table=pd.DataFrame([_cells(row) for row in group.rows]),
        runs=runs_of(group.rows),
    )


def _cells(row: Row) -> dict[str, str]:
    difference_max = row.metric(names.LOGPROB_DIFFERENCE_MAX)
    return {
        "recipe": row.label,
        "backend": row.quant.backend,
        "products": row.quant.compute.words if row.quant.compute else figures.MISSING,
        "kernels": ", ".join(sorted({layer.kernel or "?" for layer in row.quant.layers})),
        "verdict": verdict(row),
        "worst layer": figures.show(row.metric(names.LAYER_DIFFERENCE), "3 digits"),
        "log-prob. difference [nat/token]": figures.show(row.headline, "3 digits"),
        "95 % interval": figures.show_interval(row.headline, "3 digits"),
        "its max": figures.show(difference_max, "3 digits"),
        "KL(fake to real)": figures.show(row.metric(names.KL), "3 digits"),
        "same top token": figures.show(row.metric(names.TOP1_AGREEMENT)),
        "KL(float to fake)": figures.show(row.metric(names.FLOAT_KL_FAKE), "3 digits"),
        "KL(float to real)": figures.show(row.metric(names.FLOAT_KL_REAL), "3 digits"),
    }


def parity_of(row: Row) -> bool | None:
    """Say whether the real backend is within its tolerance of the fake form; None if not known."""
    within = row.metric(names.WITHIN_TOLERANCE)
    return None if within is None or within.value is None else bool(within.value)


def verdict(row: Row) -> str:
    """Return in words whether the real backend is within its tolerance of the fake form."""
    within = row.metric(names.WITHIN_TOLERANCE)
    if within is None:
        return figures.MISSING
    if within.value:
        return f"real = fake ({within.note})"
    differs = "differs" if within.value is None else "real is not fake: differs"
    worst = figures.show(row.metric(names.LAYER_DIFFERENCE), "3 digits")
    return f"{differs} by {worst} ({within.note})"
