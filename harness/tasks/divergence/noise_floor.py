"""Task `noise_floor`: how much results change without any quantization (an A/A comparison).

The unquantized model is compared with itself, changed in a way that should not matter: weights in
another type, another attention kernel, two windows at a time (`Engine.variants`).

Each variant is measured as task `divergence` measures a recipe. Recipes that differ by less than
these figures cannot be told apart. A variant that the model or the machine does not support is left
out, with a warning that gives the reason. For a checkpoint that came quantized, `model.baseline` is
measured, and the record says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.data.source import DataSource
from harness.engines.base import Engine, Kind
from harness.engines.requests import Compared, Score
from harness.errors import ConfigError, ModelError, UnsupportedEngine, check_bounds
from harness.results.record import Metric, SampleScore, TaskInfo
from harness.tasks.base import TaskResult
from harness.tasks.divergence.compare import compare, pair_warnings, window_samples, window_sums
from harness.tasks.divergence.statistics import divergence_metrics
from harness.tasks.windows import (
    Bos,
    DocumentIds,
    disjoint_windows,
    window_facts,
    window_protocol,
)

REPORTED = ("kl_mean", "kl_p99", "kl_max", "same_top", "delta_p_rms", "ln_ppl_ratio")
"""The statistics that each variant reports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseFloor:
    """Distance of the unquantized model from itself; see the module docstring."""

    name: ClassVar[str] = "noise_floor"
    version: ClassVar[int] = 2
    needs_trained_weights: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False
    seeds: ClassVar[Mapping[str, int]] = {}
    asks: ClassVar[tuple[Kind, ...]] = ("compare",)

    data: DataSource
    """Where the text comes from."""
    window: int = 2048
    """Tokens of each window."""
    limit_windows: int | None = None
    """Number of windows to compare, from the first; None compares all."""
    bos: Bos | None = None
    """Which windows begin with a BOS token; None leaves it to the tokenizer. See `windows`."""

    def __post_init__(self) -> None:
        """Check the bounds of fields."""
        check_bounds(self, window=2, limit_windows=1)  # the first token of a window is not scored

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the text."""
        return self.data.text().facts()

    def run(self, engine: Engine) -> TaskResult:
        """Compare every variant with the model as it is.

        Raises:
            ConfigError: A recipe has changed the model.
            UnsupportedRecipe: The model came quantized, and `model.baseline` names no other model.
            ModelError: No variant can run.
        """
        base = engine.unquantized(self.name)
        if base.info.relation == "own float weights":
            raise ConfigError(
                f"quant must be none for {self.name}, which compares the unquantized model with "
                "itself, got a recipe that changed the model; leave quant out"
            )
        text = self.data.text()
        windows = disjoint_windows(text, base.engine, self.window, self.limit_windows, bos=self.bos)
        documents = windows.scored_documents
        found, changes, warnings = _measure(base.engine, windows.requests())
        if not base.is_itself:
            warnings.insert(
                0,
                f"the noise floor is that of the unquantized model {base.info.name}; "
                "the checkpoint was not run",
            )
        protocol = window_protocol(text, self.window, self.limit_windows, base.engine, self.bos)
        return TaskResult(
            info=TaskInfo(
                name=self.name,
                version=self.version,
                protocol="|".join([protocol, *(f"{name}={to}" for name, to in changes.items())]),
                data=window_facts(text, windows),
            ),
            metrics=tuple(
                metric
                for name, pairs in found.items()
                for metric in _metrics(name, changes[name], pairs, documents)
            ),
            samples=_samples(text.name, found, documents),
            baseline=base.info,
            warnings=(
                *text.warnings,
                *pair_warnings(next(iter(found.values())), windows.ids),
                *warnings,
            ),
        )


def _measure(
    engine: Engine, requests: Sequence[Score]
) -> tuple[dict[str, Compared], dict[str, str], list[str]]:
    """Compare every variant with an engine.

    Returns:
        The statistics of each variant that can run, by name; the change of every variant, by name;
        and a warning for each variant that cannot run.

    Raises:
        ModelError: None can run.
    """
    found: dict[str, Compared] = {}
    changes: dict[str, str] = {}
    warnings = []
    for variant in engine.variants():
        changes[variant.name] = variant.change
        title = f"noise floor, {variant.name}"
        try:
            found[variant.name] = compare(variant.engine, engine, requests, title)
        except UnsupportedEngine as reason:
            warnings.append(f"{variant.name}={variant.change} was not measured, {reason}")
    if not found:
        raise ModelError(
            f"some variant must run to know the noise floor, got none: {'; '.join(warnings)}"
        )
    return found, changes, warnings


def _metrics(variant: str, change: str, pairs: Compared, documents: DocumentIds) -> list[Metric]:
    by_name = {metric.name: metric for metric in divergence_metrics(pairs, documents)}
    return [
        by_name[name].model_copy(
            update={
                "name": f"{variant}/{name}",
                "note": "; ".join(filter(None, (f"{variant} {change}", by_name[name].note))),
            }
        )
        for name in REPORTED
    ]


def _samples(
    text_name: str, found: dict[str, Compared], documents_NT: DocumentIds
) -> tuple[SampleScore, ...]:
    """Return one sample for each window: the baseline's NLL, and the sums of every variant."""
    nll_NT = next(iter(found.values())).nll_baseline
    scores = {"nll_baseline": nll_NT.sum(axis=1)} | {
        f"{variant}/{score}": values
        for variant, pairs in found.items()
        for score, values in window_sums(pairs).items()
        if score != "nll_baseline"
    }
    return window_samples(text_name, nll_NT, documents_NT, scores)
