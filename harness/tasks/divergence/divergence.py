r"""Task `divergence`: a model beside its baseline, on the same windows.

The windows are those of task `perplexity`; the first token of each is not scored. `compare` asks
the engines, and `statistics` defines the figures. If the field `questions` is set, the module
`questions` compares the answers to MMLU as well.

A sweep runs the baseline's decoder body once, and its LM head again for each recipe. On
SmolLM2-135M a recipe then takes 1.4 times as long as its perplexity.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.data.overlap import Scored
from harness.engines.base import Engine
from harness.results.record import TaskInfo
from harness.tasks.base import TaskResult
from harness.tasks.divergence.compare import (
    check_text,
    compare,
    pair_warnings,
    window_samples,
    window_sums,
)
from harness.tasks.divergence.questions import compare_answers, question_facts
from harness.tasks.divergence.statistics import divergence_metrics
from harness.tasks.divergence.text_and_questions import TextAndQuestions
from harness.tasks.windows import disjoint_windows, window_facts, window_protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence(TextAndQuestions):
    """Distance of a model from its baseline; see the module docstring."""

    name: ClassVar[str] = "divergence"
    version: ClassVar[int] = 2
    needs_trained_weights: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False

    def scored(self) -> Scored:
        """Return the text, and the questions if there are any."""
        return Scored((self.data.text(),), self.questions.questions() if self.questions else ())

    def run(self, engine: Engine) -> TaskResult:
        """Compare on every window, then on every question.

        Raises:
            UnsupportedRecipe: The model came quantized, and `model.baseline` names no other model.
        """
        base = engine.baseline(self.name)
        text = self.data.text()
        check_text(engine, base.engine, text, self.window)
        windows = disjoint_windows(text, engine, self.window, self.limit_windows, bos=self.bos)
        pairs = compare(engine, base.engine, windows.requests(), self.name)
        documents = windows.scored_documents
        answers = compare_answers(self.questions, engine, base) if self.questions else None
        protocol = window_protocol(text, self.window, self.limit_windows, engine, self.bos)
        asked = f"|questions=({answers.info.protocol})" if answers else ""
        return TaskResult(
            info=TaskInfo(
                name=self.name,
                version=self.version,
                protocol=f"{protocol}|baseline=float|kl=base-to-candidate{asked}",
                data=window_facts(text, windows)
                | (question_facts(self.questions, answers) if self.questions and answers else {}),
            ),
            metrics=(
                *divergence_metrics(pairs, documents),
                *(answers.metrics if answers else ()),
            ),
            samples=(
                *window_samples(text.name, pairs.nll, documents, window_sums(pairs), pairs.kl),
                *(answers.samples if answers else ()),
            ),
            baseline=base.info,
            warnings=(
                *text.warnings,
                *base.warnings,
                *pair_warnings(pairs, windows.ids),
                *(answers.warnings if answers else ()),
            ),
        )
