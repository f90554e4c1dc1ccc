"""Task `noise_floor`: how much results change without any quantization (an A/A comparison).

The unquantized model is compared with itself, changed in a way that should not matter: weights in
another type, another attention kernel, two windows at a time (`Engine.variants`).

Each variant is measured as task `divergence` measures a recipe: on text and, if the field
`questions` is set, on the answers to MMLU, which the model in another type is not asked. Recipes
that differ by less than these figures cannot be told apart. A variant that the model or the machine
does not support is left out, with a warning that gives the reason. For a checkpoint that came
quantized, `model.baseline` is measured, and the record says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from harness.engines.base import Baseline, Engine
from harness.engines.requests import Compared, Score
from harness.errors import ConfigError, ModelError, UnsupportedEngine
from harness.results.record import Metric, SampleScore, TaskInfo
from harness.tasks.base import TaskResult
from harness.tasks.divergence.compare import compare, pair_warnings, window_samples, window_sums
from harness.tasks.divergence.questions import compare_answers, question_facts
from harness.tasks.divergence.statistics import divergence_metrics
from harness.tasks.divergence.text_and_questions import TextAndQuestions
from harness.tasks.windows import (
    DocumentIds,
    disjoint_windows,
    window_facts,
    window_protocol,
)

REPORTED = ("kl_mean", "kl_p99", "kl_max", "same_top", "delta_p_rms", "ln_ppl_ratio")
"""The statistics that each variant reports."""
REPORTED_OF_ANSWERS = ("flips", "flips_to_wrong", "flips_to_right", "answer_disagreement")
"""The same for answers."""


class Measured(NamedTuple):
    """What was measured of a variant."""

    pairs: Compared
    answers: TaskResult | None
    """Changes of the answers; None without questions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseFloor(TextAndQuestions):
    """Distance of the unquantized model from itself; see the module docstring."""

    name: ClassVar[str] = "noise_floor"
    version: ClassVar[int] = 2
    needs_trained_weights: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False

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
        found, changes, warnings = self._measure(base, windows.requests())
        if not base.is_itself:
            warnings.insert(
                0,
                f"the noise floor is that of the unquantized model {base.info.name}; "
                "the checkpoint was not run",
            )
        protocol = window_protocol(text, self.window, self.limit_windows, base.engine, self.bos)
        answers = next((each.answers for each in found.values() if each.answers), None)
        asked = [f"questions=({answers.info.protocol})"] if answers else []
        return TaskResult(
            info=TaskInfo(
                name=self.name,
                version=self.version,
                protocol="|".join(
                    [protocol, *(f"{name}={to}" for name, to in changes.items()), *asked]
                ),
                data=window_facts(text, windows)
                | (question_facts(self.questions, answers) if self.questions and answers else {}),
            ),
            metrics=tuple(
                metric
                for name, each in found.items()
                for metric in _metrics(name, changes[name], each, documents)
            ),
            samples=_samples(text.name, found, documents),
            baseline=base.info,
            warnings=(
                *text.warnings,
                *pair_warnings(next(iter(found.values())).pairs, windows.ids),
                *warnings,
            ),
        )

    def _measure(
        self, base: Baseline, requests: Sequence[Score]
    ) -> tuple[dict[str, Measured], dict[str, str], list[str]]:
        """Compare every variant with the model as it is.

        Returns:
            What was measured of each variant that can run, by name; the change of every variant,
            by name; and a warning for each variant that cannot run.

        Raises:
            ModelError: None can run.
        """
        found: dict[str, Measured] = {}
        changes: dict[str, str] = {}
        warnings = []
        for variant in base.engine.variants():
            changes[variant.name] = variant.change
            title = f"noise floor, {variant.name}"
            try:
                pairs = compare(variant.engine, base.engine, requests, title)
                asked = self.questions if "score" in variant.engine.kinds else None
                answers = compare_answers(asked, variant.engine, base) if asked else None
                found[variant.name] = Measured(pairs, answers)
            except UnsupportedEngine as reason:
                warnings.append(f"{variant.name}={variant.change} was not measured, {reason}")
        if not found:
            raise ModelError(
                f"some variant must run to know the noise floor, got none: {'; '.join(warnings)}"
            )
        return found, changes, warnings


def _metrics(variant: str, change: str, measured: Measured, documents: DocumentIds) -> list[Metric]:
    of_text = divergence_metrics(measured.pairs, documents)
    of_answers = measured.answers.metrics if measured.answers else ()
    by_name = {metric.name: metric for metric in (*of_text, *of_answers)}
    return [
        by_name[name].model_copy(
            update={
                "name": f"{variant}/{name}",
                "note": "; ".join(filter(None, (f"{variant} {change}", by_name[name].note))),
            }
        )
        for name in (*REPORTED, *REPORTED_OF_ANSWERS)
        if name in by_name
    ]


def _samples(
    text_name: str, found: Mapping[str, Measured], documents_NT: DocumentIds
) -> tuple[SampleScore, ...]:
    """Return one sample for each window: the baseline's NLL, and the sums of every variant.

    Then one for each question and variant.
    """
    nll_NT = next(iter(found.values())).pairs.nll_baseline
    scores = {"nll_baseline": nll_NT.sum(axis=1)} | {
        f"{variant}/{score}": values
        for variant, measured in found.items()
        for score, values in window_sums(measured.pairs).items()
        if score != "nll_baseline"
    }
    answers = (
        sample.model_copy(update={"id": f"{variant}/{sample.id}"})
        for variant, measured in found.items()
        if measured.answers
        for sample in measured.answers.samples
    )
    return (*window_samples(text_name, nll_NT, documents_NT, scores), *answers)
