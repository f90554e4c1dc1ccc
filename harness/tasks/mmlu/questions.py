"""Draw the questions that a run asks."""

import random

from harness.data.source import Question, QuestionSet
from harness.errors import ConfigError


def select(
    questions: QuestionSet, subjects: tuple[str, ...] | None, limit: int | None, seed: int
) -> tuple[Question, ...]:
    """Return the questions of some subjects, or `limit` of them drawn without replacement.

    The draw depends on the questions, the limit and the seed alone, so every recipe gets the same
    questions, in the order of the data set.

    Raises:
        ConfigError: A subject does not exist, or the limit exceeds the number of questions.
    """
    if subjects is not None:
        if unknown := sorted(set(subjects) - set(questions.subjects)):
            raise ConfigError(
                f"task.subjects must be some of {', '.join(questions.subjects)}; "
                f"got {', '.join(unknown)}"
            )
        pool = [question for question in questions.questions if question.subject in subjects]
    else:
        pool = list(questions.questions)
    if limit is None:
        return tuple(pool)
    if limit > len(pool):
        raise ConfigError(
            f"task.limit must be at most the {len(pool)} questions there are, got {limit}; "
            "leave it out to ask all"
        )
    drawn = random.Random(seed).sample(range(len(pool)), limit)  # noqa: S311 - a draw, not a secret
    return tuple(pool[index] for index in sorted(drawn))
