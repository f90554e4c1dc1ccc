"""How fast each recipe is, beside its accuracy.

A table and a picture for each model, machine and shape of the work.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from harness.claims import speed_words
from harness.claims.claim import Answered
from harness.claims.grouping import Group, Row, options
from harness.claims.row_names import recipe_of
from harness.claims.speed import Claims, Speed, of_run, speeds
from harness.identity import canonical
from harness.report import plots
from harness.report.accuracy import accuracy_of
from harness.report.plots import SpeedBar
from harness.report.sections.section import Section, runs_of
from harness.report.sections.unfinished import reason_of, unsupported
from harness.report.titles import machine_words
from harness.results import float_paths, names
from harness.results import formatting as figures
from harness.results.store import Stored

LEAST_BARS = 2
"""One bar is no comparison."""
BESIDE, TO_FASTER = " beside it [token/s]", " / float, the faster products"
OPTIONAL = (BESIDE, TO_FASTER)
"""Ends of the titles of columns that are left out if they are empty."""
NOT_IN_TITLES = ("seed", "rounds")
"""Options of the task that do not describe the work."""
READING = (
    "Speeds are medians over n rounds with their interquartile range. A sample is a prompt. "
    "A ratio is to the unquantized model timed in turns with the recipe, in one process, with its "
    "95 % interval; it is not the quotient of two rows. The title of its column says how the "
    "unquantized model multiplied: with native products, as the library makes them in the "
    "model's type, or with the "
    "faster of native and float32 products, which the cell names. Where there is one column, the "
    "unquantized model was timed in one way. Faster or slower is said of the named way alone, and "
    "only where the interval excludes 1 and p is below 0.05: p is that of Wilcoxon's signed ranks "
    "of the rounds' ratios, corrected for all comparisons of the table in this phase (Holm). TTFT "
    "is the time to the first token, TPOT that of each further one. MBU and MFU are the shares of "
    "the memory bandwidth and of the arithmetic peak that were measured on this machine. Drift is "
    "how much longer requests of the unquantized model took in the last third of the rounds than "
    "in the first; a run with more than 3 % is unstable, and its interval must exclude 1 by more "
    "than the drift. Accuracy is that of the same recipe, weights and type; in brackets the paired "
    "difference from the unquantized model."
)


def throughput(
    group: Group, answered: Sequence[Answered], stored: Sequence[Stored], picture: Path
) -> Section | None:
    """Return the table of a group of timed runs, and write its picture if there are two or more.

    Args:
        group: The timed runs.
        answered: All groups of the report, which have the accuracies.
        stored: All records of the report, which have the recipes that cannot run.
        picture: Where to write the picture.
    """
    if group.task.name != names.THROUGHPUT:
        return None
    impossible = [item for item in unsupported(stored) if _is_of(item, group)]
    claims = speeds(group)
    rows = _without_empty_columns([_cells(row, claims, answered) for row in group.rows])
    rows += [_without_speed(item, list(rows[0])) for item in impossible]
    is_drawn, has_picture = False, len(group.rows) >= LEAST_BARS
    if has_picture:
        bars = {phase: bars_of(group, phase) for phase in names.PHASES}
        is_drawn = plots.bars_of_throughput(bars, f"{_model(group)}\n{_work(group)}", picture)
    lines = [
        machine_words(group.rows[0].stored.record.provenance),
        f"Protocol: {group.task.protocol}",
        READING,
        *_notes(group),
        *_why_not(claims),
        *(f"n/a, {item.record.config['quant']['name']}: {reason_of(item)}" for item in impossible),
        *([plots.LEFT_OUT] if has_picture and not is_drawn else []),
    ]
    return Section(
        name="throughput",
        title=f"Throughput: {_model(group)}, {_work(group)}{group.suffix}",
        text="\n".join(lines),
        table=pd.DataFrame(rows),
        runs=[*runs_of(group.rows), *(item.record.run_id for item in impossible)],
        picture=picture.name if is_drawn else None,
    )


def bars_of(group: Group, phase: str) -> list[SpeedBar]:
    """Return the speeds of a phase, in the order of the rows."""
    return [
        SpeedBar(
            label="float" if row.is_baseline else row.label,
            value=value,
            spread=row.value_of(f"{phase}{names.IQR}") or 0.0,
            beside=float_paths.speeds(row.metric, phase),
            is_baseline=row.is_baseline,
        )
        for row in group.rows
        if (value := row.value_of(phase)) is not None
    ]


def _cells(row: Row, claims: Sequence[Speed], answered: Sequence[Answered]) -> dict[str, str]:
    own = of_run(claims, row.stored.record.run_id)
    return (
        {"recipe": row.label, "path": figures.path(row.quant)}
        | _phase_cells(row, names.DECODE, own)
        | _phase_cells(row, names.PREFILL, own)
        | {"prefill [samples/s]": _samples_per_second(row)}
        | accuracy_of(row, answered)
        | {
            "TTFT [ms]": figures.show(row.metric(names.TTFT), "ms"),
            "TPOT [ms]": figures.show(row.metric(names.TPOT), "ms"),
            "decode MBU": figures.show(row.metric(names.DECODE_MBU), "1 decimal %"),
            "prefill MFU": figures.show(row.metric(names.PREFILL_MFU), "1 decimal %"),
            "weights": figures.show(row.metric(names.WEIGHT_BYTES), "MB"),
            "keys and values": figures.show(row.metric(names.KV_BYTES), "MB"),
            "energy [J/token]": figures.show(row.metric(names.ENERGY_PER_TOKEN), "rate"),
            "drift of float": figures.show(row.metric(names.BASELINE_DRIFT), "signed %"),
        }
    )


def _phase_cells(row: Row, phase: str, claims: Claims) -> dict[str, str]:
    """Return a recipe's speed, the unquantized model's beside it, and their ratios."""
    beside = float_paths.in_turn(float_paths.speeds(row.metric, phase))
    to_native = "1 (float)" if row.is_baseline else speed_words.to_native(claims, phase)
    return {
        f"{phase} [token/s]": _speed(row, phase),
        f"float {phase}{BESIDE}": beside or figures.MISSING,
        f"{phase} / float, native products": to_native,
        f"{phase}{TO_FASTER}": speed_words.to_faster(claims, phase),
    }


def _speed(row: Row, phase: str) -> str:
    metric = row.metric(phase)
    if metric is None or metric.value is None:
        return figures.MISSING
    spread = figures.show(row.metric(f"{phase}{names.IQR}"), "rate")
    return f"{figures.show(metric, 'rate')} (IQR {spread}, n = {metric.n})"


def _samples_per_second(row: Row) -> str:
    """Return the prompts that prefill takes in a second: tokens of all over tokens of one."""
    speed, tokens = row.value_of(names.PREFILL), options(row.stored.record).get("prompt_tokens")
    return f"{speed / tokens:.3g}" if speed is not None and tokens else figures.MISSING


def _without_empty_columns(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows without the `OPTIONAL` columns that no row has a cell for."""
    optional = [title for title in rows[0] if title.endswith(OPTIONAL)]
    empty = {title for title in optional if {row[title] for row in rows} == {figures.MISSING}}
    return [{title: cell for title, cell in row.items() if title not in empty} for row in rows]


def _without_speed(item: Stored, titles: Sequence[str]) -> dict[str, str]:
    """Return the row of a recipe that cannot run: `n/a` for speeds and ratios, else `-`."""
    cells = dict.fromkeys(titles, figures.MISSING)
    of_speed = (
        title
        for title in titles
        if title.startswith(names.PHASES)
        and ("s/s]" in title or "token/s" in title or "/ float" in title)
    )
    return cells | dict.fromkeys(of_speed, "n/a") | {"recipe": recipe_of(item.record)}


def _notes(group: Group) -> list[str]:
    """Return what the table lacks and why, each reason once, and whether weights are random."""
    lines = []
    if group.model.weights == "random":
        lines.append(
            "The weights are random: only the shapes are those of the model, and no quality can be "
            "measured."
        )
    lines += [
        f"{row.label} was timed beside native products alone: whether it is faster than the "
        "unquantized model with float32 products is not known; force=true measures both."
        for row in group.rows
        if _lacks_float32_matmuls(row, group)
    ]
    for name in (names.ENERGY_PER_TOKEN, names.DECODE_MBU, names.PREFILL_MFU):
        found = [row.metric(name) for row in group.rows]
        reasons = {m.note: None for m in found if m is not None and m.value is None and m.note}
        lines += [f"No {name.replace('_', ' ')}: {reason}" for reason in reasons]
    return lines


def _why_not(claims: Sequence[Speed]) -> list[str]:
    """Return why nothing is claimed of a recipe where it is not the rounds; each reason once."""
    lines = (f"{each.row.label}: {why}." for each in claims if (why := each.why_not) is not None)
    return list(dict.fromkeys(lines))


def _lacks_float32_matmuls(row: Row, group: Group) -> bool:
    """Say whether a record is older than the timing of float32 matmuls, and could have it."""
    metric = row.metric(f"{names.PREFILL}{names.RATIO}")
    # Since float32 matmuls are timed too, the note of a ratio names its way.
    is_named = metric is None or "native products" in (metric.note or "")
    return not is_named and group.model.device == "cpu" and group.compared_with.dtype != "float32"


def _is_of(item: Stored, group: Group) -> bool:
    """Say whether a run would belong to a group if it could run."""
    own, other = item.record, group.rows[0].stored.record
    same_model = canonical(own.config["model"]) == canonical(other.config["model"])
    same_machine = own.provenance.hardware == other.provenance.hardware
    is_same = same_model and same_machine and options(own) == options(other)
    return is_same and item.path.parts[-3] == names.THROUGHPUT


def _model(group: Group) -> str:
    model = group.model
    random = " (random weights)" if model.weights == "random" else ""
    return f"{model.name}{random}, {model.dtype} on {model.device}"


def _work(group: Group) -> str:
    """Return the options of the task that are plain values: batch, lengths, cache, compilation."""
    given: Mapping[str, object] = options(group.rows[0].stored.record)
    return ", ".join(
        f"{key.replace('_', ' ')} {str(value).lower()}"
        for key, value in given.items()
        if not key.startswith("_")
        and key not in NOT_IN_TITLES
        and isinstance(value, bool | int | str)
    )
