"""Turn lm-eval's results into metrics and samples of a record.

A metric of a task or group is named `<task>/<metric>`; `/<filter>` follows where a task parses its
answers in several ways. Intervals are Student's t with lm-eval's standard error over documents, cut
to the range of the metric. A metric without a standard error, such as a perplexity over all words
of all documents, has a note instead.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from harness import stats
from harness.errors import InvalidResult
from harness.results.record import Metric, SampleScore, Unit

UNFILTERED = "none"
"""lm-eval's name of the filter that leaves answers unchanged."""
WEIGHTS = {
    "word_perplexity": "num_words",
    "byte_perplexity": "num_bytes",
    "bits_per_byte": "num_bytes",
}
"""Metrics of rolling texts -> name of the sample score that divides the log-likelihood."""


def metrics(results: Mapping[str, Any], requested: Sequence[str]) -> tuple[Metric, ...]:
    """Return the metrics of every task and group; the requested names come first."""
    order = {name: place for place, name in enumerate(requested)}
    names = sorted(results["results"], key=lambda name: order.get(name, len(order)))
    return tuple(metric for name in names for metric in _of_task(results, name))


def _of_task(results: Mapping[str, Any], task: str) -> Iterator[Metric]:
    found = results["results"][task]
    better = results["higher_is_better"].get(task, {})
    for key, value in found.items():
        metric, comma, label = key.rpartition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        num = found.get("sample_count", {}).get(key) or results["n-samples"][task]["effective"]
        error = found.get(f"{metric}_stderr,{label}")
        unit = _unit(metric, value)
        interval, note = _interval(metric, value, error, unit, num)
        yield Metric(
            name=f"{task}/{_labelled(metric, label)}",
            value=float(value) if _is_number(value) else None,
            unit=unit,
            n=num,
            n_of="document",
            ci95=interval,
            higher_is_better=better.get(metric),
            note=note,
        )


def _unit(metric: str, value: object) -> Unit:
    """Return the unit by the metric's name.

    Some tasks give accuracies in percent; these have the unit one.
    """
    if metric == "bits_per_byte":
        return Unit.BIT_PER_BYTE
    share = metric == "exact_match" or "acc" in re.split(r"[^a-z]+", metric)
    return (
        Unit.FRACTION if share and isinstance(value, int | float) and 0 <= value <= 1 else Unit.ONE
    )


def _interval(
    metric: str, value: Any, error: Any, unit: Unit, num: int
) -> tuple[tuple[float, float] | None, str | None]:
    """Return the interval, or None and the reason."""
    if not _is_number(value):
        return None, f"lm-eval gives {value}, which is no finite number"
    if num < stats.MIN_CLUSTERS:
        return None, f"no interval from fewer than {stats.MIN_CLUSTERS} documents"
    if not _is_number(error):
        return None, "no interval: lm-eval has no standard error for this aggregate"
    if error == 0:
        return None, "no interval: all documents score the same"
    low, high = stats.t_interval(float(value), float(error), num - 1)
    if unit is Unit.FRACTION:
        high = min(high, 1.0)
    if unit is Unit.FRACTION or metric in WEIGHTS or metric == "perplexity":
        low = max(low, 0.0)
    return (low, high), None


def samples(by_task: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[SampleScore, ...]:
    """Return one sample a document, with the metrics of all filters.

    Raises:
        InvalidResult: A log-likelihood is not finite.
    """
    return tuple(
        sample for task, entries in by_task.items() for sample in _of_documents(task, entries)
    )


def _of_documents(task: str, entries: Sequence[Mapping[str, Any]]) -> Iterator[SampleScore]:
    by_document: dict[int, list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_document.setdefault(entry["doc_id"], []).append(entry)
    for number, views in by_document.items():
        name = f"{task}/{number}"
        # Of a request that is repeated, all answers are equal. Filters may make numbers of texts.
        replies = [answers[0] for answers in views[0]["resps"]]
        scores = _metric_scores(views) | _likelihoods(replies, name)
        yield SampleScore(
            id=name,
            # Documents of a rolling text are independent; other documents cluster by task.
            cluster=name if "nll" in scores else task,
            scores=scores,
            answer=_answer(replies, views[0]),
        )


def _metric_scores(views: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the metrics of a document that are numbers, and the divisors of a rolling text."""
    scores = {}
    for view in views:
        for metric in view["metrics"]:
            value = view[metric]
            if metric in WEIGHTS and isinstance(value, tuple):
                scores[WEIGHTS[metric]] = float(value[1])
            elif _is_number(value):
                scores[_labelled(metric, view["filter"])] = float(value)
    return scores


def _likelihoods(replies: Sequence[Any], name: str) -> dict[str, float]:
    """Return ln p of each scored continuation, or the NLL of a whole text [nat].

    Raises:
        InvalidResult: One is not finite.
    """
    found = {}
    for index, reply in enumerate(replies):
        if isinstance(reply, tuple):
            found[f"log_prob_{index}"] = float(reply[0])
        elif isinstance(reply, float):
            found["nll"] = -reply
    if not all(map(math.isfinite, found.values())):
        raise InvalidResult(
            f"every log-probability must be finite, got {[*found.values()]} for document {name}; "
            "the recipe destroys this model, or the weights are damaged"
        )
    return found


def _answer(replies: Sequence[Any], view: Mapping[str, Any]) -> str | None:
    """Return the text behind the first filter, or the index of the first most likely choice."""
    if isinstance(replies[0], str):
        filtered = view["filtered_resps"][0]
        return filtered if isinstance(filtered, str) else replies[0]
    # For mutual information lm-eval scores each choice a second time, without its question.
    num = len(replies) // (2 if "acc_mutual_info" in view["metrics"] else 1)
    if num < 2 or not all(isinstance(reply, tuple) for reply in replies):
        return None
    return str(max(range(num), key=lambda index: replies[index][0]))


def warnings(messages: Sequence[str]) -> tuple[str, ...]:
    """Return each kind of warning once, with its count.

    Warnings that differ in numbers alone are of one kind.
    """
    kinds: dict[str, list[str]] = {}
    for message in messages:
        line = message.split("\n", 1)[0]
        kinds.setdefault(re.sub(r"\d+", "#", line), []).append(line)
    return tuple(
        f"lm-eval: {lines[0]}" + (f" (the first of {len(lines)} like it)" if lines[1:] else "")
        for lines in kinds.values()
    )


def _labelled(metric: str, label: str) -> str:
    return metric if label == UNFILTERED else f"{metric}/{label}"


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)
