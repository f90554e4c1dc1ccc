"""What `divergence` and `noise_floor` compare on: windows of a text, and questions."""

from dataclasses import dataclass
from typing import Any

from harness.data.source import DataSource
from harness.engines.base import Kind
from harness.errors import check_bounds
from harness.tasks.divergence.questions import check_rules
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.windows import Bos


@dataclass(frozen=True, kw_only=True, slots=True)
class TextAndQuestions:
    """The options of both tasks."""

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
