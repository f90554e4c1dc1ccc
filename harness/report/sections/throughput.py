"""How fast each recipe is, beside its accuracy: a table and a picture for each model, machine and shape of the work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.identity import canonical
from harness.report import plots
from harness.report.accuracy import accuracy_of
from harness.report.grouping import THROUGHPUT, Group, Row, options
from harness.report.row_names import recipe_of
from harness.report.sections.scores import Section
from harness.report.sections.unfinished import reason_of, unsupported
from harness.results import float_paths
from harness.results import formatting as figures
from harness.results.float_paths import PHASES
from harness.results.record import Metric, Provenance
from harness.results.store import Stored

LEAST_BARS = 2
BESIDE, TO_FASTER = " beside it [token/s]", " / float, the faster products"
OPTIONAL = (BESIDE, TO_FASTER)
"""Ends of the titles of columns that are left out where they are empty."""
NOT_IN_TITLES = ("seed", "rounds")
"""Options of the task that say nothing of the work."""
READING = """\
Speeds are medians over n rounds with their interquartile range. A ratio is to the float model timed in \
turns with the recipe, in one process, with its 95 % interval; it is not the quotient of two rows. The title of its column says how the float \
model multiplied: with native products, as the library makes them in the model's type, or with the faster of native and float32 products, \
which the cell names. Where there is one column, the float model was timed in one way. Faster or slower is said of the named way alone, and \
only where the interval excludes 1. TTFT is the time to the first token, TPOT that of each further one. MBU and MFU are the \
shares of the memory bandwidth and of the arithmetic peak that were measured on this machine. Drift is how much longer requests \
of the float model took in the last third of the rounds than in the first; a run with more than 3 % is unstable. Accuracy is that of the same \
recipe, weights and type; in brackets the paired difference from the float model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """The speed of one recipe in one phase [token/s]."""

    label: str
    value: float
    spread: float
    """Interquartile range."""
    beside: Mapping[str, float]
    """Speeds of the float model timed with it, by its products (`native`, `float32`)."""
    is_baseline: bool


def throughput(
    group: Group, groups: Sequence[Group], stored: Sequence[Stored], picture: Path
) -> Section | None:
    """Return the table of a group of timed runs, and write its picture if there is something to compare."""
    if group.task.name != THROUGHPUT:
        return None
    refused = [item for item in unsupported(stored) if _is_of(item, group)]
    rows = _without_absent_ways([_cells(row, groups) for row in group.rows])
    rows += [_without_speed(item, list(rows[0])) for item in refused]
    shown = len(group.rows) >= LEAST_BARS
    if shown:
        bars = {phase: bars_of(group, phase) for phase in PHASES}
        plots.bars_of_throughput(bars, f"{_title(group)}\n{_shape(group)}", picture)
    lines = [
        machine(group.rows[0].stored.record.provenance),
        f"Protocol: {group.task.protocol}",
        READING,
        *_notes(group),
    ]
    lines += [f"n/a, {item.record.config['quant']['name']}: {reason_of(item)}" for item in refused]
    return Section(
        title=f"Throughput: {_title(group)}, {_shape(group)}{group.suffix}",
        text="\n".join(lines),
        table=pd.DataFrame(rows),
        picture=picture.name if shown else None,
    )


def _without_speed(item: Stored, columns: Sequence[str]) -> dict[str, str]:
    """Return the row of a recipe that could not run."""
    cells = dict.fromkeys(columns, figures.MISSING)
    of_recipe = [n for n in columns if n.startswith(PHASES) and ("token/s" in n or "/ float" in n)]
    cells |= dict.fromkeys(of_recipe, "n/a")
    return cells | {"recipe": recipe_of(item.record)}


def bars_of(group: Group, phase: str) -> list[Bar]:
    """Return the speeds of a phase, in the order of the rows."""
    return [
        Bar(
            label="float" if row.is_baseline else row.label,
            value=metric.value,
            spread=_value(row.metric(f"{phase}_iqr")) or 0.0,
            beside=float_paths.speeds(row.metric, phase),
            is_baseline=row.is_baseline,
        )
        for row in group.rows
        if (metric := row.metric(phase)) is not None and metric.value is not None
    ]


def _cells(row: Row, groups: Sequence[Group]) -> dict[str, str]:
    return (
        {
            "recipe": row.label,
            "path": figures.path(row.quant),
        }
        | {title: cell for phase in PHASES for title, cell in _of_phase(row, phase).items()}
        | accuracy_of(row, groups)
        | {
            "TTFT [ms]": figures.milliseconds(row.metric("ttft")),
            "TPOT [ms]": figures.milliseconds(row.metric("tpot")),
            "decode MBU": _share(row.metric("decode_mbu")),
            "prefill MFU": _share(row.metric("prefill_mfu")),
            "weights": _size(row.metric("weight_bytes")),
            "keys and values": _size(row.metric("kv_bytes")),
            "energy [J/token]": _rate(row.metric("energy_per_token")),
            "drift of float": _drift(row.metric("baseline_drift")),
        }
    )


def _speed(row: Row, phase: str) -> str:
    metric, spread = row.metric(phase), row.metric(f"{phase}_iqr")
    if metric is None or metric.value is None:
        return figures.MISSING
    return f"{figures.rate(metric.value)} (IQR {_rate(spread)}, n = {metric.n})"


def _of_phase(row: Row, phase: str) -> dict[str, str]:
    """Return the cells of a phase: its speed, that of the float model beside it, and the ratios of the two."""
    return {
        f"{phase} [token/s]": _speed(row, phase),
        f"float {phase}{BESIDE}": float_paths.in_turn(float_paths.speeds(row.metric, phase))
        or figures.MISSING,
        f"{phase} / float, native products": "1 (float)"
        if row.is_baseline
        else float_paths.ratio(row.metric(f"{phase}_ratio")),
        f"{phase}{TO_FASTER}": float_paths.ratio_to_faster(row.metric, phase),
    }


def _without_absent_ways(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return rows without the columns that are there for a second way of the float model, if it has none."""
    optional = [name for name in rows[0] if name.endswith(OPTIONAL)]
    empty = {name for name in optional if {row[name] for row in rows} == {figures.MISSING}}
    return [{name: cell for name, cell in row.items() if name not in empty} for row in rows]


def _notes(group: Group) -> list[str]:
    """Return why energies or utilizations are missing, each reason once, with the model's mark if its weights are random."""
    lines = []
    if group.model.weights == "random":
        lines.append(
            "The weights are random: only the shapes are those of the model, and no quality can be measured."
        )
    lines += [
        f"{row.label} was timed beside native products alone: whether it is faster than the float model with float32 products is not known; "
        "force=true measures both."
        for row in group.rows
        if _has_one_of_two_ways(row, group)
    ]
    for name in ("energy_per_token", "decode_mbu", "prefill_mfu"):
        found = [row.metric(name) for row in group.rows]
        reasons = {m.note: None for m in found if m is not None and m.value is None and m.note}
        lines += [f"No {name.replace('_', ' ')}: {reason}" for reason in reasons]
    return lines


def _has_one_of_two_ways(row: Row, group: Group) -> bool:
    """Say whether a row is older than the timing of float32 products, and could have been beside them."""
    metric = row.metric("prefill_ratio")
    named = metric is None or "native products" in (metric.note or "")
    return not named and group.model.device == "cpu" and group.compared_with.dtype != "float32"


def _is_of(item: Stored, group: Group) -> bool:
    """Say whether a run would have been in a group if it had been possible."""
    own, other = item.record, group.rows[0].stored.record
    same_model = canonical(own.config["model"]) == canonical(other.config["model"])
    same_machine = own.provenance.hardware == other.provenance.hardware
    same = same_model and same_machine and options(own) == options(other)
    return same and item.path.parts[-3] == THROUGHPUT


def machine(made: Provenance) -> str:
    """Return what speeds are of, with the instructions that decide which products are fast."""
    flags = ", ".join(made.cpu_flags) or "instructions not known"
    gpu = f"{made.gpu}; " if made.gpu else ""
    threads = "1 thread" if made.threads == 1 else f"{made.threads} threads"
    return f"Machine: {gpu}{made.cpu} ({flags}), {threads}"


def _title(group: Group) -> str:
    model = group.model
    random = " (random weights)" if model.weights == "random" else ""
    return f"{model.name}{random}, {model.dtype} on {model.device}"


def _shape(group: Group) -> str:
    """Return the options of the task that are plain values: batch, lengths, cache, compilation."""
    given = options(group.rows[0].stored.record)
    return ", ".join(
        f"{key.replace('_', ' ')} {str(value).lower()}"
        for key, value in given.items()
        if not key.startswith("_")
        and key not in NOT_IN_TITLES
        and isinstance(value, bool | int | str)
    )


def _value(metric: Metric | None) -> float | None:
    return None if metric is None else metric.value


def _rate(metric: Metric | None) -> str:
    value = _value(metric)
    return figures.MISSING if value is None else figures.rate(value)


def _share(metric: Metric | None) -> str:
    value = _value(metric)
    return figures.MISSING if value is None else f"{100 * value:.1f} %"


def _drift(metric: Metric | None) -> str:
    value = _value(metric)
    return figures.MISSING if value is None else f"{100 * value:+.1f} %"


def _size(metric: Metric | None) -> str:
    value = _value(metric)
    return figures.MISSING if value is None else figures.megabytes(int(value))
