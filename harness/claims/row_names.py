"""Names of the rows of a report: the recipe's name, and words where several rows share a name.

    int8_row                                 the only recipe of that name
    w8a8_static (calibrated on notes.txt)    beside the same recipe, calibrated on another text
    baseline (model.revision=v2)             beside a baseline of the same weights

Recipes are told apart over the whole report, so that a name means one recipe in all tables. Runs
of one recipe are told apart within their group.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.identity import VOLATILE, canonical
from harness.results.record import RunRecord
from harness.results.store import Stored

Facts = Mapping[str, str]
UNKNOWN_TEXT = "calibrated on an unknown text"


def row_names(groups: Sequence[Sequence[Stored]]) -> dict[str, str]:
    """Return the name of each run, by run id.

    Args:
        groups: Groups of runs that are compared with each other.
    """
    records = [item.record for group in groups for item in group]
    names = {record.run_id: plain_name(record) for record in records}
    names = _told_apart(
        names, {record.run_id: recipe_facts(record) for record in records}, common=True
    )
    for group in groups:
        own = {item.record.run_id: names[item.record.run_id] for item in group}
        facts = {item.record.run_id: _run_facts(item.record) for item in group}
        names |= _told_apart(own, facts, common=False)
    return names


def recipe_facts(record: RunRecord) -> dict[str, str]:
    """Return words that describe a recipe, by key.

    The keys are formats, backend, calibration text, and every value of its configuration.
    """
    quant = record.quant
    if quant is None:
        return {}
    facts = {
        "formats": _listed("weights", quant.formats),
        "inputs": _listed("inputs", quant.input_formats),
        "backend": quant.backend,
    }
    if (text := quant.calibration) is not None:
        facts["text"] = f"calibrated on {text.text}"
        facts["sha256"] = f"SHA-256 {text.sha256[:12]}"
    elif is_calibrated(record):
        facts |= {"text": UNKNOWN_TEXT, "sha256": "SHA-256 unknown"}
    for key, value in _leaves(canonical(record.config.get("quant") or {}), "quant"):
        # The words for the text and the formats say what these keys say.
        if ".data." not in key and not (key.startswith("quant.rules.") and _is_of_format(key)):
            facts[key] = f"{key.removeprefix('quant.')}={value}"
    facts.pop("quant.name", None)
    return facts


def recipe_of(record: RunRecord) -> str:
    """Return the name of the recipe, also of a run that ended before it quantized."""
    return record.recipe or str((record.config.get("quant") or {}).get("name"))


def is_calibrated(record: RunRecord) -> bool:
    """Say by its configuration whether a recipe is fitted to a text.

    Older records do not name the text.
    """
    values = dict(_leaves(record.config.get("quant") or {}))
    return any(
        (key.endswith(".static_input") and value == "true")
        or key.startswith("backend.calibration.")
        for key, value in values.items()
    )


def plain_name(record: RunRecord) -> str:
    """Return the name of a run's recipe.

    Without a recipe, `baseline` for an unquantized model and the model's name for a quantized
    checkpoint. Empty for a task without a model.
    """
    model, quant = record.model, record.quant
    if model is None or quant is None:
        return ""
    if quant.name != "none":
        return quant.name
    is_baseline = quant.kind == "none" and model.baseline is None
    return "baseline" if is_baseline else model.name


def _run_facts(record: RunRecord) -> dict[str, str]:
    """Return words for every value of a configuration, by key."""
    config = {key: canonical(value) for key, value in record.config.items() if key not in VOLATILE}
    facts = {key: f"{key}={value}" for key, value in _leaves(config)}
    model = record.model
    if model is not None:
        facts = {"model": model.name, "dtype": model.dtype, "attention": model.attention} | facts
    return facts


def _told_apart(
    names: Mapping[str, str], facts: Mapping[str, Facts], *, common: bool
) -> dict[str, str]:
    """Return the names; where runs share a name, words for the facts that differ follow it.

    Args:
        names: By run id.
        facts: Words by key, by run id; the first keys are tried first.
        common: Use only facts that all runs of a name have: older records lack newer keys.
    """
    told = dict(names)
    sharing: dict[str, list[str]] = defaultdict(list)
    for run, name in names.items():
        sharing[name].append(run)
    for name, runs in sharing.items():
        keys = dict.fromkeys(key for run in runs for key in facts[run])
        usable = [key for key in keys if not common or all(key in facts[run] for run in runs)]
        chosen = _distinguishing(usable, [facts[run] for run in runs])
        for run in runs:
            words = [facts[run][key] for key in chosen if key in facts[run]]
            told[run] = f"{name} ({', '.join(words)})" if words else name
    return told


def _distinguishing(keys: Sequence[str], facts: Sequence[Facts]) -> list[str]:
    """Return the keys that suffice to tell facts apart.

    Keys are tried in order. A key is chosen if it separates facts that earlier keys do not.
    """
    chosen: list[str] = []
    kinds = 1
    for key in keys:
        tried = [*chosen, key]
        found = len({tuple(each.get(k) for k in tried) for each in facts})
        if found > kinds:
            chosen, kinds = tried, found
    return chosen


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and text of every value of a configuration that is not a mapping."""
    if not isinstance(node, Mapping):
        yield path, _typed(node)
        return
    for key, value in node.items():
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _typed(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_typed, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_of_format(key: str) -> bool:
    return any(f".{part}." in key for part in ("weight", "input"))


def _listed(what: str, formats: Mapping[str, str]) -> str:
    shown = [fmt if len(formats) == 1 else f"{rule} {fmt}" for rule, fmt in formats.items()]
    return f"{what} {', '.join(shown) or 'float'}"
