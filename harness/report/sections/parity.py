"""Whether real backends compute what their fake-quantized form promised."""

import pandas as pd

from harness.report.grouping import PARITY, Group, Row
from harness.report.sections.scores import Section
from harness.results import formatting as figures
from harness.results.record import Metric


def parities(group: Group) -> Section | None:
    """How far each real recipe is from its fake-quantized form, and both from the float model."""
    if group.task.name != PARITY:
        return None
    rows = [
        {
            "recipe": row.label,
            "backend": row.quant.backend,
            "products": row.quant.compute.words if row.quant.compute else figures.MISSING,
            "kernels": ", ".join(sorted({layer.kernel or "?" for layer in row.quant.layers})),
            "verdict": verdict(row),
            "worst layer": _small(row.metric("layer_difference")),
            "log-prob. difference [nat/token]": _small(row.headline),
            "95 % interval": figures.ends(row.headline.ci95, ".3g"),
            "its max": _small(row.metric("logprob_difference_max")),
            "KL(fake to real)": _small(row.metric("kl")),
            "same top token": figures.number(row.metric("top1_agreement")),
            "KL(float to fake)": _small(row.metric("float_kl_fake")),
            "KL(float to real)": _small(row.metric("float_kl_real")),
        }
        for row in group.rows
    ]
    return Section(
        title=f"Real against fake: {group.model.name}, {group.model.dtype} on {group.model.device}{group.suffix}",
        text=(
            f"Protocol: {group.task.protocol}\nThe same weights and {figures.count(group.headline)}. Real = fake if the output of every layer "
            "is within the tolerance that the backend states, relative to its norm and on the input of the fake layer; the worst layer "
            "is shown. The other columns are end to end, first the mean magnitude of the difference of the next token's log-probability "
            f"({group.headline.note}). Layers that round their inputs amplify differences in the last "
            "place to the size of what rounding does at all, which the distances from the float model show. Products says how exactly "
            f"the backend multiplied on its processor, as measured; records made before that was kept have {figures.MISSING}."
        ),
        table=pd.DataFrame(rows),
    )


def verdict(row: Row) -> str:
    """Return in words whether real is fake."""
    within = row.metric("within_tolerance")
    if within is None:
        return figures.MISSING
    if within.value:
        return f"real = fake ({within.note})"
    differs = "differs" if within.value is None else "real is not fake: differs"
    return f"{differs} by {_small(row.metric('layer_difference'))} ({within.note})"


def _small(metric: Metric | None) -> str:
    """Return a figure that may be far below one."""
    return figures.spelled(metric, ".3g")
