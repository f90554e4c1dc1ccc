"""Rows for the task files beside this one."""

from datasets import Dataset, DatasetDict

ROWS = [
    {
        "question": f"What follows {number}?",
        "choices": [f"{number + 1} apples", "two", "a longer answer"],
        "answer": number % 3,
        "page": f"After {number} comes {number + 1} . " * (1 + number % 3),
    }
    for number in range(12)
]


def rows(**_: object) -> DatasetDict:
    """Return them as lm-eval wants a data set."""
    return DatasetDict(test=Dataset.from_list(ROWS))
