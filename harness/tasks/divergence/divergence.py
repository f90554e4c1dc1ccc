r"""Task `divergence`: a model beside its baseline, on the same windows.

The windows are those of task `perplexity`; the first token of each is not scored. `compare` asks
the engines, and `statistics` defines the figures. If the field `questions` is set, the module
`questions` compares the answers to MMLU as well.

A sweep runs the baseline's decoder body once, and its LM head again for each recipe. On
SmolLM2-135M a recipe then takes 1.4 times as long as its perplexity.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.data.overlap import Scored
from harness.data.source import DataSource
from harness.engines.base import Engine, Kind
from harness.errors import check_bounds
from harness.results.record import TaskInfo
from harness.tasks.base import TaskResult
from harness.tasks.divergence.compare import (
    check_text,
    compare,
    pair_warnings,
    window_samples,
    window_sums,
)
from harness.tasks.divergence.questions import check_rules, compare_answers, question_facts
from harness.tasks.divergence.statistics import divergence_metrics
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.windows import Bos, disjoint_windows, window_facts, window_protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """Distance of a model from its baseline; see the module docstring."""

    name: ClassVar[str] = "divergence"
    version: ClassVar[int] = 2
    needs_trained_weights: ClassVar[bool] = True
    is_timed: ClassVar[bool] = False

    data: DataSource
    """Where the text comes from."""
    window: int = 2048
    """Tokens of each window."""
    limit_windows: int | None = None
    """Number of windows to compare, from the first; None compares all."""
    questions: MMLU | None = None
    """Questions whose answers are compared; None compares none."""
    bos: Bos | None = None
    """Which windows begin with a BOS token; None leaves it to the tokenizer. See `windows`."""

    def __post_init__(self) -> None:
        """Check the bounds of fields, and that answers have probabilities."""
        check_bounds(self, window=2, limit_windows=1)  # the first token of a window is not scored
        check_rules(self.questions)

    @property
    def asks(self) -> tuple[Kind, ...]:
        """A comparison; scores too, if there are questions."""
        return ("compare", "score") if self.questions else ("compare",)

    @property
    def seeds(self) -> dict[str, int]:
        """The seed that draws the questions, if there are any."""
        return {"task.questions.seed": self.questions.seed} if self.questions else {}

    def data_facts(self) -> dict[str, Any]:
        """Return what identifies the text, and the questions if there are any."""
        facts = self.data.text().facts()
        return facts | ({"questions": self.questions.data_facts()} if self.questions else {})

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
